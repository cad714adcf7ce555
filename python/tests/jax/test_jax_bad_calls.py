"""Bad calls of retromae.jax: an exception that names the argument, when the call is traced or, by the library, when it runs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax_dense import make

import retromae
import retromae.jax as rj
from retromae import CountLimit, InvalidArgument, Mask, Pool, Queries, _library, _xla

Q = make(np.random.default_rng(0), (40, 2, 32), "float32")
CU = jnp.array([0, 17, 40], jnp.int32)
HIDDEN, WEIGHT = jnp.ones((40, 16)), jnp.ones((50, 16))
TARGETS = jnp.zeros(40, jnp.int32)
VECTOR = jnp.ones(16)
RNG = rj.rng_state(0)

BAD = {
    "query is a str": lambda: rj.attention("q", Q, Q, CU, 23),
    "key is a NoneType": lambda: rj.attention(Q, None, Q, CU, 23),
    r"query is of shape \[40, 64\]": lambda: rj.attention(Q.reshape(40, 64), Q, Q, CU, 23),
    r"value is of shape \[39, 2, 32\]": lambda: rj.attention(Q, Q, Q[1:], CU, 23),
    "query is of dtype float16": lambda: rj.attention(Q.astype(jnp.float16), Q, Q, CU, 23),
    "key is of dtype int32": lambda: rj.attention(*[Q.astype(jnp.int32)] * 3, CU, 23),
    "cu_seqlens is of dtype float32": lambda: rj.attention(Q, Q, Q, CU * 1.0, 23),
    "cu_seqlens is a list": lambda: rj.attention(Q, Q, Q, [0, 40], 40),
    "an argument is a set": lambda: rj.attention(Q, Q, Q, {0, 40}, 40),
    "max_seqlen is .*Trace": lambda: jax.jit(lambda n: rj.attention(Q, Q, Q, CU, n))(23),
    "max_seqlen is -1": lambda: rj.attention(Q, Q, Q, CU, -1),
    "dropout_rng is None": lambda: rj.attention(Q, Q, Q, CU, 23, dropout_p=0.1),
    "dropout.rate is .*Trace": lambda: jax.jit(
        lambda p: rj.attention(Q, Q, Q, CU, 23, dropout_p=p, dropout_rng=RNG)
    )(0.1),
    r"dropout.rng is of shape \[2\]": lambda: rj.attention(
        Q, Q, Q, CU, 23, dropout_p=0.1, dropout_rng=RNG[:2]
    ),
    "mask is a str": lambda: rj.attention(Q, Q, Q, CU, 23, mask="causal"),
    r"mask.offsets is of shape \[2\]": lambda: rj.attention(Q, Q, Q, CU, 23, mask=Mask.visible(RNG, RNG[:2])),
    r"queries.cu_seqlens is of shape \[2\]": lambda: rj.attention(
        Q, Q, Q, CU, 23, queries=Queries(CU[:2], 17)
    ),
    r"visible\[0\] is of shape \[3, 2\]": lambda: rj.mask_bits([jnp.ones((3, 2), bool)]),
    r"visible\[1\] is of dtype float32": lambda: rj.mask_bits([jnp.ones((1, 1), bool), jnp.ones((2, 2))]),
    "reduction is 'all'": lambda: rj.linear_cross_entropy(HIDDEN, WEIGHT, TARGETS, reduction="all"),
    "weight is a float": lambda: rj.linear_cross_entropy(HIDDEN, 1.0, TARGETS),
    r"weight is of shape \[50, 8\]": lambda: rj.linear_cross_entropy(HIDDEN, WEIGHT[:, :8], TARGETS),
    r"targets is of shape \[39\]": lambda: rj.linear_cross_entropy(HIDDEN, WEIGHT, TARGETS[1:]),
    "targets is of dtype uint8": lambda: rj.linear_cross_entropy(HIDDEN, WEIGHT, TARGETS.astype(jnp.uint8)),
    "targets is a list": lambda: rj.linear_cross_entropy(HIDDEN, WEIGHT, [0] * 40),
    r"row_weights is of shape \[2\]": lambda: rj.linear_cross_entropy(
        HIDDEN, WEIGHT, TARGETS, row_weights=jnp.ones(2)
    ),
    "label_smoothing is None": lambda: rj.linear_cross_entropy(HIDDEN, WEIGHT, TARGETS, label_smoothing=None),
    "bags is a NoneType": lambda: rj.bag_of_words_loss(HIDDEN, WEIGHT, None, CU, 23),
    r"gamma is of shape \[8\]": lambda: rj.dropout_add_layer_norm(HIDDEN, VECTOR[:8], VECTOR),
    "beta is None": lambda: rj.dropout_add_layer_norm(HIDDEN, VECTOR, None),
    "residual is of dtype bfloat16": lambda: rj.dropout_add_layer_norm(
        HIDDEN, VECTOR, VECTOR, HIDDEN.astype(jnp.bfloat16)
    ),
    "pool is a tuple": lambda: rj.draw_masks(TARGETS, CU, 23, RNG, CU[:2], CU[:2], (1, 2)),
    "pool.words is -1": lambda: rj.draw_masks(
        TARGETS, CU, 23, RNG, CU[:2], CU[:2], Pool(CountLimit(0.5), CU, -1)
    ),
}


@pytest.mark.parametrize("text", BAD)
def test_refused_when_traced(text):
    with pytest.raises(InvalidArgument, match=f"{text}.*; it should be "):
        BAD[text]()


LATE = {
    "head_dim is 24": lambda: rj.attention(*[jnp.ones((40, 2, 24))] * 3, CU, 23),
    "dropout.rate is 1.5": lambda: rj.attention(Q, Q, Q, CU, 23, dropout_p=1.5, dropout_rng=RNG),
    "label_smoothing is 2": lambda: rj.linear_cross_entropy(HIDDEN, WEIGHT, TARGETS, label_smoothing=2),
    "algorithm": lambda: rj.linear_cross_entropy(HIDDEN, WEIGHT, TARGETS, fused=True),
    "columns": lambda: rj.dropout_add_layer_norm(jnp.ones((3, 12)), jnp.ones(12), jnp.ones(12)),
}


@pytest.mark.parametrize("text", LATE)
def test_refused_by_the_library(text):
    with pytest.raises(jax.errors.JaxRuntimeError, match=f"INVALID_ARGUMENT.*{text}"):
        jax.block_until_ready(LATE[text]())


def imported(folder, **environment):
    """What a call of retromae.jax ends with, of a copy of the package in `folder`."""
    text = "import retromae.jax as rj, jax.numpy as jnp; rj.attention(*[jnp.ones((1, 1, 32))] * 3, jnp.arange(2), 1)"
    environment = os.environ | {"PYTHONPATH": str(folder)} | environment
    command = [sys.executable, "-c", text]
    run = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    return (run.stderr or "fine\n").splitlines()[-1]


def test_without_the_custom_call(tmp_path):
    """No handler, a file that is none, and a program that is another one."""
    ignored = shutil.ignore_patterns("lib", "__pycache__")
    shutil.copytree(Path(retromae.__file__).parent, tmp_path / "retromae", ignore=ignored)
    alone = tmp_path / "libretromae.so"
    alone.symlink_to(Path(_library.LIBRARY._name).resolve())
    expected = f"retromae.errors.LibraryError: {_xla._HANDLER} is not there"
    assert imported(tmp_path, RETROMAE_LIBRARY=str(alone)).startswith(expected)
    handler = alone.with_name(_xla._HANDLER)
    handler.write_text("nothing")
    assert imported(tmp_path, RETROMAE_LIBRARY=str(alone)).startswith(expected)
    handler.unlink()
    handler.symlink_to(alone)
    assert imported(tmp_path, RETROMAE_LIBRARY=str(alone)).startswith(expected)
    handler.unlink()
    handler.symlink_to(Path(_xla._handler._name).resolve())
    assert imported(tmp_path, RETROMAE_LIBRARY=str(alone)) == "fine"


def test_random_calls():
    """A few hundred calls with arguments that fit and that do not: an exception of ours or of JAX', or a result."""
    fuzz = Path(__file__).with_name("jax_fuzz.py")
    run = subprocess.run([sys.executable, fuzz, "300"], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    results, refused, late = map(int, run.stdout.split())
    assert results + refused + late == 300 and min(results, refused, late) >= 5, run.stdout
