"""JAX's transformations of the operations: jit, grad, vmap, scan, checkpoint, donation, shard_map, several devices."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax_dense import make

import retromae.jax as rj
from retromae import CountLimit, Mask, Pool

LENGTHS = [17, 0, 23]
TOKENS = sum(LENGTHS)


def arrays(shape, count=1, dtype="float32"):
    rng = np.random.default_rng(0)
    return [make(rng, shape, dtype) for _ in range(count)]


def attention(q, k, v):
    return rj.attention(q, k, v, rj.prefix_sums(LENGTHS), max(LENGTHS))


def loss(q, k, v):
    return (attention(q, k, v) ** 2).sum()


def expect_equal(actual, expected):
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def test_jit_and_value_and_grad():
    given = arrays((TOKENS, 2, 32), 3)
    both = jax.value_and_grad(loss, (0, 1, 2))
    value, gradients = jax.jit(both)(*given)
    expect_equal(gradients, jax.grad(loss, (0, 1, 2))(*given))
    np.testing.assert_allclose(value, loss(*given), rtol=1e-6)
    # Along the gradient, the loss changes as the gradient says.
    step = 1e-2 / sum((gradient**2).sum() for gradient in gradients)
    ahead, behind = (
        loss(*(array + sign * step * gradient for array, gradient in zip(given, gradients, strict=True)))
        for sign in (1, -1)
    )
    np.testing.assert_allclose(ahead - behind, 2e-2, rtol=2e-2)


def test_vmap():
    given = arrays((3, TOKENS, 2, 32), 3)
    expected = [jax.grad(loss, (0, 1, 2))(*(array[place] for array in given)) for place in range(3)]
    expected = [jnp.stack(gradients) for gradients in zip(*expected, strict=True)]
    expect_equal(list(jax.jit(jax.vmap(jax.grad(loss, (0, 1, 2))))(*given)), expected)


def test_vmap_of_a_loss_whose_gradients_are_added():
    (hidden,) = arrays((2, 30, 32))
    (weight,) = arrays((100, 32))
    targets = jnp.arange(30, dtype=jnp.int32)

    def gradient(hidden, weight):
        return jax.grad(lambda *all: rj.linear_cross_entropy(*all, targets), (0, 1))(hidden, weight)

    expected = [gradient(one, weight) for one in hidden]
    expected = [jnp.stack(gradients) for gradients in zip(*expected, strict=True)]
    expect_equal(list(jax.vmap(gradient, (0, None))(hidden, weight)), expected)


def test_scan():
    (x,) = arrays((TOKENS, 2, 32))

    def scanned(x):
        return jax.lax.scan(lambda state, _: (attention(state, state, state), None), x, length=3)[0].sum()

    def unrolled(x):
        for _ in range(3):
            x = attention(x, x, x)
        return x.sum()

    np.testing.assert_allclose(jax.jit(jax.grad(scanned))(x), jax.grad(unrolled)(x), rtol=1e-5, atol=1e-6)


def test_checkpoint():
    """What is computed again is the same, with dropout, too."""
    given = arrays((TOKENS, 2, 32), 3)
    words = rj.rng_of_key(jax.random.key(0))

    def dropped(q, k, v):
        rate = {"dropout_p": 0.3, "dropout_rng": words}
        return (rj.attention(q, k, v, rj.prefix_sums(LENGTHS), max(LENGTHS), **rate) ** 2).sum()

    gradients = [jax.jit(jax.grad(f, (0, 1, 2)))(*given) for f in (dropped, jax.checkpoint(dropped))]
    expect_equal(*gradients)
    assert not np.array_equal(gradients[0][0], jax.grad(loss)(*given))


def test_donation():
    (x,) = arrays((TOKENS, 2, 32))
    expected = attention(x, x, x)
    expect_equal(jax.jit(lambda x: attention(x, x, x), donate_argnums=0)(x.copy()), expected)


def test_gradients_that_are_added_to_leave_their_zeros_alone():
    """Zeros that other code also reads are not those that the library adds to."""
    (hidden,) = arrays((30, 32))
    (weight,) = arrays((100, 32))
    targets = jnp.arange(30, dtype=jnp.int32)

    @jax.jit
    def twice(hidden, weight):
        gradient = jax.grad(lambda weight: rj.linear_cross_entropy(hidden, weight, targets))
        return gradient(weight), gradient(2 * weight), jnp.zeros((100, 32))

    first, second, zeros = twice(hidden, weight)
    assert not zeros.any()
    expect_equal(first, twice(hidden, weight)[0])
    assert not np.array_equal(first, second)


def test_masks_drawn_within_a_step():
    ids = jnp.arange(TOKENS, dtype=jnp.int32)
    cu_seqlens = rj.prefix_sums(LENGTHS)
    starts = jnp.full(-(-TOKENS // 32), 0xFFFFFFFF, jnp.uint32)
    offsets = rj.pool_offsets(LENGTHS, 8)
    pool = Pool(CountLimit(0.5), offsets, int(offsets[-1]), 8)
    indices = jnp.arange(len(LENGTHS), dtype=jnp.uint32)
    (x,) = arrays((TOKENS, 2, 32))

    @jax.jit
    def step(rng):
        masks = rj.draw_masks(ids, cu_seqlens, max(LENGTHS), rng, indices, starts, pool)
        return rj.two_stream_attention(x, x, x, cu_seqlens, max(LENGTHS), masks.bits, offsets, masks.rows)

    def generated(rng):
        mask = Mask.generated(rng, indices, starts, 0.5, pool_rows_max=8)
        return rj.attention(x, x, x, cu_seqlens, max(LENGTHS), mask=mask)

    rng, other = rj.rng_state(1, 2), rj.rng_state(1, 3)
    expect_equal(step(rng), generated(rng))
    assert not np.array_equal(step(rng), step(other))


def test_program_has_no_address():
    """So that a program can be kept for another process."""
    text = """
import hashlib, jax, jax.numpy as jnp, retromae.jax as rj
x = jnp.ones((5, 2, 32))
lowered = jax.jit(lambda x: rj.attention(x, x, x, jnp.array([0, 5], jnp.int32), 5)).lower(x)
print(hashlib.sha256(lowered.as_text().encode()).hexdigest())
"""
    runs = [subprocess.run([sys.executable, "-c", text], capture_output=True, check=True) for _ in range(2)]
    assert runs[0].stdout == runs[1].stdout != b""


SHARDED = """
import jax, jax.numpy as jnp, numpy as np, retromae.jax as rj
from jax.sharding import Mesh, PartitionSpec as P
keys = jax.random.split(jax.random.key(0), 2)
hidden, weight = jax.random.normal(keys[0], (80, 64)), jax.random.normal(keys[1], (100, 64))
targets = jnp.arange(80, dtype=jnp.int32)
mesh = Mesh(np.array(jax.devices()), ("x",))
def step(hidden, weight, targets):
    return jax.lax.pmean(rj.linear_cross_entropy(hidden, weight, targets), "x")
specs = dict(mesh=mesh, in_specs=(P("x"), P(), P("x")), out_specs=P(), check_vma=False)
sharded = jax.jit(jax.grad(jax.shard_map(step, **specs), (0, 1)))(hidden, weight, targets)
whole = jax.grad(rj.linear_cross_entropy, (0, 1))(hidden, weight, targets)
for one, other in zip(sharded, whole):
    np.testing.assert_allclose(one, other, atol=1e-6)
print(len(jax.devices()))
"""


@pytest.mark.skipif(not hasattr(jax, "shard_map"), reason="ignored: this JAX has no jax.shard_map")
def test_shard_map_on_two_devices():
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    run = subprocess.run(
        [sys.executable, "-c", SHARDED], env=os.environ | flags, capture_output=True, text=True
    )
    assert (run.returncode, run.stdout) == (0, "2\n"), run.stderr
