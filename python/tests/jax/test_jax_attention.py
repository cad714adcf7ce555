"""retromae.jax.attention: every dtype, head size and mask, against dense attention in f64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax_dense import DTYPES, attention, expect, make

import retromae.jax as rj
import retromae.numpy as rn
from retromae import Dropout, Mask, Queries

LENGTHS = [1, 2, 17, 0, 33, 64, 65, 129]


def prefix(lengths):
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)


def triangle(length):
    return np.tri(length, dtype=bool)


def inputs(rng, lengths, head_dim, dtype, heads=2):
    return [make(rng, (sum(lengths), heads, head_dim), dtype) for _ in range(3)]


def check(mask, visible, lengths, head_dim, dtype, **options):
    """Holds attention under a mask against the booleans that state it."""
    rng = np.random.default_rng(head_dim)
    cu_seqlens, longest = prefix(lengths), max(lengths, default=0)

    def operation(q, k, v):
        return rj.attention(q, k, v, jnp.asarray(cu_seqlens), longest, mask=mask, **options)

    def statement(q, k, v):
        return attention(q, k, v, visible)

    expect(operation, statement, inputs(rng, lengths, head_dim, dtype), dtype)


@pytest.mark.parametrize("head_dim", [32, 64, 96, 128])
@pytest.mark.parametrize("dtype", DTYPES)
def test_full(dtype, head_dim):
    visible = [np.ones((length, length), bool) for length in LENGTHS]
    check(Mask.FULL, visible, LENGTHS, head_dim, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("lengths", [[], [0], [1], [0, 0, 5], [65]])
def test_few_sequences(lengths, dtype):
    visible = [np.ones((length, length), bool) for length in lengths]
    check(Mask.FULL, visible, lengths, 32, dtype)


def test_causal():
    check(Mask.CAUSAL, [triangle(length) for length in LENGTHS], LENGTHS, 64, "float32")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_atomic(dtype):
    visible = [np.ones((length, length), bool) for length in LENGTHS]
    check(Mask.FULL, visible, LENGTHS, 64, dtype, atomic=True)


def test_window():
    rows = [np.arange(length) for length in LENGTHS]
    visible = [((row[:, None] - row <= 5) & (row - row[:, None] <= 2)) | (row == 0) for row in rows]
    check(Mask.window(5, 2, first=True), visible, LENGTHS, 32, "float32")


@pytest.mark.parametrize("dtype", DTYPES)
def test_masks_of_ones_own(dtype):
    rng = np.random.default_rng(3)
    visible = [rng.random((length, length)) < 0.3 for length in LENGTHS]
    bits, offsets = rj.mask_bits([jnp.asarray(array) for array in visible])
    for packed, expected in zip((bits, offsets), rn.mask_bits(visible), strict=True):
        np.testing.assert_array_equal(packed, expected)
    check(Mask.visible(bits, offsets), visible, LENGTHS, 64, dtype)


def test_two_streams():
    """A pool of masks, and one mask for each token, as RetroMAE's decoder sees its sentence."""
    rng = np.random.default_rng(4)
    masks = [rng.random((3, length)) < 0.5 for length in LENGTHS]
    rows = [rng.integers(0, 3, length) for length in LENGTHS]
    words = [3 * -(-length // 32) for length in LENGTHS]
    bits = []
    for pool, length in zip(masks, LENGTHS, strict=True):
        padded = np.pad(pool, ((0, 0), (0, -length % 32)))
        bits.append(np.packbits(padded, axis=1, bitorder="little").view(np.uint32).ravel())
    bits, offsets = np.concatenate(bits), prefix(words).astype(np.uint32)
    visible = [pool[row].copy() for pool, row in zip(masks, rows, strict=True)]
    for array in visible:
        array[:, :1] = True
        np.fill_diagonal(array, False)
    rows = np.concatenate(rows).astype(np.uint16)
    check(Mask.pool(bits, offsets, rows), visible, LENGTHS, 32, "float32")

    cu_seqlens, longest = jnp.asarray(prefix(LENGTHS)), max(LENGTHS)
    q, k, v = inputs(rng, LENGTHS, 32, "float32")
    pooled = rj.two_stream_attention(q, k, v, cu_seqlens, longest, bits, offsets, rows)
    own_bits, own_offsets = rj.mask_bits([jnp.asarray(array) for array in visible])
    own = rj.two_stream_attention(q, k, v, cu_seqlens, longest, own_bits, own_offsets)
    np.testing.assert_array_equal(pooled, own)


def test_queries_packed_apart():
    rng = np.random.default_rng(5)
    keys, numbers = [33, 5, 0, 70], [2, 40, 3, 0]
    cu_keys, cu_queries = prefix(keys), prefix(numbers)
    query = make(rng, (sum(numbers), 2, 64), "float32")
    key, value = (make(rng, (sum(keys), 2, 64), "float32") for _ in range(2))
    visible = [np.ones(shape, bool) for shape in zip(numbers, keys, strict=True)]

    def operation(q, k, v):
        queries = Queries(jnp.asarray(cu_queries), max(numbers))
        return rj.attention(q, k, v, jnp.asarray(cu_keys), max(keys), queries=queries)

    def statement(q, k, v):
        return attention(q, k, v, visible)

    expect(operation, statement, [query, key, value], "float32")


@pytest.mark.parametrize("dtype", DTYPES)
def test_dropout_is_that_of_the_library(dtype):
    """The same bits as the call on NumPy arrays, forward and backward, on the CPU."""
    with jax.default_device(jax.devices("cpu")[0]):
        expect_dropout(dtype)


def expect_dropout(dtype):
    rng = np.random.default_rng(6)
    q, k, v = inputs(rng, LENGTHS, 32, dtype)
    cu_seqlens, words = prefix(LENGTHS), rn.rng_state(7, 3)

    def operation(q, k, v):
        rate = {"dropout_p": 0.25, "dropout_rng": jnp.asarray(words), "dropout_site": 5}
        return rj.attention(q, k, v, jnp.asarray(cu_seqlens), max(LENGTHS), **rate)

    dropout = Dropout(0.25, words, 5)
    arrays = [np.asarray(array) for array in (q, k, v)]
    output, log_sum_exp = rn.attention(*arrays, cu_seqlens, dropout=dropout)
    actual, pull = jax.vjp(operation, q, k, v)
    np.testing.assert_array_equal(actual, output)
    expected = rn.attention_backward(output, *arrays, output, log_sum_exp, cu_seqlens, dropout=dropout)
    for got, want in zip(pull(actual), expected, strict=True):
        np.testing.assert_array_equal(got, want)
