"""Attention on NumPy arrays against a dense f64 statement: outputs and gradients, every dtype, head size and mask."""

import numpy as np
import pytest
from statements import DTYPES, EXACT, Precision, assert_close
from statements import attention as statement

import retromae.numpy as rn
from retromae import CountLimit, Dropout, Mask, Pool, Queries

LENGTHS = [1, 2, 17, 0, 33, 64, 65, 129, 0]
MASKS = [
    "full",
    "causal",
    "window",
    "window with first",
    "visible",
    "pool",
    "independent",
    "generated",
    "permutation",
    "permutation with self",
]


def unpack(bits, length):
    """Booleans [rows, L] of words of bits."""
    if length == 0:
        return np.zeros((0, 0), bool)
    rows = bits.reshape(-1, -(-length // 32))
    return np.unpackbits(rows.view(np.uint8), axis=1, bitorder="little")[:, :length] == 1


def drawn_pool(rng, lengths, cu_seqlens):
    """A pool for each sequence, and the arguments of Mask.generated that stand for the same."""
    tokens = sum(lengths)
    random, indices = rn.rng_state(5, 3), np.arange(len(lengths), dtype=np.uint32) * 7 + 1
    # The mask is of whole words, some of them longer than a token.
    word_starts = rng.integers(0, 2**32, -(-tokens // 32), np.uint32) | np.uint32(0x11111111)
    limit, rows_max = CountLimit(0.5), 24
    offsets = rn.pool_offsets(lengths, rows_max)
    pool = Pool(limit, offsets, int(offsets[-1]), rows_max)
    ids = np.zeros(tokens, np.int32)
    masks = rn.draw_masks(ids, cu_seqlens, random, indices, word_starts, pool)
    return masks.bits, offsets, masks.rows, (random, indices, word_starts, limit.ratio, limit.cap, rows_max)


def make_mask(kind, lengths, rng):
    """A mask, and for each sequence the keys that each position sees [L, L]."""
    places = [np.arange(length) for length in lengths]
    cu_seqlens = rn.prefix_sums(lengths)
    ahead = [place[None, :] - place[:, None] for place in places]
    if kind == "full":
        return Mask.FULL, [delta == delta for delta in ahead]
    if kind == "causal":
        return Mask.CAUSAL, [delta <= 0 for delta in ahead]
    if kind in ("window", "window with first"):
        first = kind == "window with first"
        visible = [
            (delta >= -9) & (delta <= 4) | (first & (place == 0)[None, :])
            for delta, place in zip(ahead, places, strict=True)
        ]
        return Mask.window(9, 4, first), visible
    if kind in ("permutation", "permutation with self"):
        orders = [rng.permutation(length) for length in lengths]
        include_self = kind == "permutation with self"
        compare = np.less_equal if include_self else np.less
        mask = Mask.permutation(np.concatenate(orders).astype(np.uint16), include_self)
        return mask, [compare(order[None, :], order[:, None]) for order in orders]
    if kind in ("pool", "generated"):
        bits, offsets, rows, generated = drawn_pool(rng, lengths, cu_seqlens)
        mask = Mask.pool(bits, offsets, rows) if kind == "pool" else Mask.generated(*generated)
        pools = [bits[offsets[place] : offsets[place + 1]] for place in range(len(lengths))]
        own = [rows[cu_seqlens[place] : cu_seqlens[place + 1]] for place in range(len(lengths))]
        chosen = [unpack(pool, length)[row] for pool, row, length in zip(pools, own, lengths, strict=True)]
    else:
        chosen = [rng.random((length, length)) < 0.4 for length in lengths]
        bits, offsets = rn.mask_bits(chosen)
        if kind == "visible":
            return Mask.visible(bits, offsets), chosen
        mask = Mask.independent(bits, offsets)
    # RetroMAE's rule: position 0 and the chosen keys, but never the query itself.
    visible = [
        (bits | (place == 0)[None, :]) & (delta != 0)
        for bits, place, delta in zip(chosen, places, ahead, strict=True)
    ]
    return mask, visible


def ranges(cu_seqlens):
    return [slice(start, end) for start, end in zip(cu_seqlens[:-1], cu_seqlens[1:], strict=True)]


def check(arrays, cu_seqlens, sequences, dtype, scale, **options):
    """Runs forward and backward pass, and holds both against the statement."""
    query, key, value, d_output = arrays
    output, log_sum_exp = rn.attention(query, key, value, cu_seqlens, scale=scale, **options)
    gradients = rn.attention_backward(
        d_output, query, key, value, output, log_sum_exp, cu_seqlens, scale=scale, **options
    )
    assert output.dtype == query.dtype and log_sum_exp.dtype == np.float32
    scale = scale or query.shape[2] ** -0.5
    exact = statement(*arrays, sequences, scale, EXACT)
    naive = statement(*arrays, sequences, scale, Precision(DTYPES[dtype]))
    seen = np.isfinite(exact[1])
    assert not output[~seen.T].any(), "queries that see nothing have an output of 0"
    names = ("output", "d_query", "d_key", "d_value")
    for name, actual, right, near in zip(
        names, (output, *gradients), exact[:1] + exact[2:], naive[:1] + naive[2:], strict=True
    ):
        assert_close(name, actual, right, near, dtype)
    # Scores and sums are f32, whatever the dtype.
    near = statement(*arrays, sequences, scale, Precision(DTYPES["f32"]))[1]
    assert_close("log_sum_exp", log_sum_exp[seen], exact[1][seen], near[seen], "f32")


def random_arrays(rng, dtype, rows, keys, heads, dim):
    """Query, key, value and the gradient of the output; queries are large enough for weights that differ."""
    shapes = [(rows, heads, dim), (keys, heads, dim), (keys, heads, dim), (rows, heads, dim)]
    return [
        (rng.standard_normal(shape) * factor).astype(DTYPES[dtype])
        for shape, factor in zip(shapes, (2, 1, 1, 1), strict=True)
    ]


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("dim", [32, 64, 96, 128])
@pytest.mark.parametrize("dtype", DTYPES)
def test_attention(dtype, dim, kind):
    rng = np.random.default_rng(dim)
    mask, visible = make_mask(kind, LENGTHS, rng)
    cu_seqlens = rn.prefix_sums(LENGTHS)
    tokens = sum(LENGTHS)
    arrays = random_arrays(rng, dtype, tokens, tokens, 2, dim)
    rows = ranges(cu_seqlens)
    sequences = [(own, own, seen, None) for own, seen in zip(rows, visible, strict=True)]
    check(arrays, cu_seqlens, sequences, dtype, 0.0, mask=mask)


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_queries_packed_apart(dtype, kind):
    rng = np.random.default_rng(1)
    lengths, counts = [5, 0, 33, 64, 7], [9, 3, 1, 40, 0]
    mask, visible = make_mask(kind, lengths, rng)
    if kind != "full":
        # A mask is of the positions of a sequence, and one without tokens has none.
        counts[1] = 0
    # Some positions several times, others never.
    positions = [
        rng.integers(0, max(length, 1), count) for length, count in zip(lengths, counts, strict=True)
    ]
    places = None if kind == "full" else np.concatenate(positions).astype(np.int32)
    queries = Queries(rn.prefix_sums(counts), max(counts), places)
    cu_seqlens = rn.prefix_sums(lengths)
    arrays = random_arrays(rng, dtype, sum(counts), sum(lengths), 3, 64)
    sequences = [
        (own, keys, np.ones((count, length), bool) if kind == "full" else seen[place], None)
        for own, keys, seen, place, count, length in zip(
            ranges(queries.cu_seqlens), ranges(cu_seqlens), visible, positions, counts, lengths, strict=True
        )
    ]
    check(arrays, cu_seqlens, sequences, dtype, 0.3, mask=mask, queries=queries)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_of_a_projection(dtype):
    rng = np.random.default_rng(2)
    projection = rng.standard_normal((40, 3, 2, 32)).astype(DTYPES[dtype])
    query, key, value = np.moveaxis(projection, 1, 0)
    d_output = rng.standard_normal((40, 2, 32)).astype(DTYPES[dtype])
    rows = slice(0, 40), slice(0, 40), np.ones((40, 40), bool), None
    check([query, key, value, d_output], rn.prefix_sums([40]), [rows], dtype, 0.0)


def dropout_factors(cu_seqlens, lengths, heads, dim, dtype, dropout):
    """The factor of each weight [A, L, L], read from the output for weights of 1 / L and values that are the identity."""
    tokens = sum(lengths)
    value = np.zeros((tokens, heads, dim), DTYPES[dtype])
    for rows, length in zip(ranges(cu_seqlens), lengths, strict=True):
        value[rows, :, :length] = np.eye(length)[:, None]
    zeros = np.zeros((tokens, heads, dim), DTYPES[dtype])
    output, _ = rn.attention(zeros, zeros, value, cu_seqlens, dropout=dropout)
    kept = output.astype(np.float64) > 0
    return [
        np.moveaxis(kept[rows, :, :length], 1, 0) / (1 - dropout.rate)
        for rows, length in zip(ranges(cu_seqlens), lengths, strict=True)
    ]


@pytest.mark.parametrize("dim", [64, 128])
@pytest.mark.parametrize("dtype", DTYPES)
def test_dropout(dtype, dim):
    rng = np.random.default_rng(3)
    lengths = [64, 0, 17, 33, 1, 50]
    cu_seqlens, tokens = rn.prefix_sums(lengths), sum(lengths)
    dropout = Dropout(0.25, rn.rng_state(11, 4), 6)
    factors = dropout_factors(cu_seqlens, lengths, 4, dim, dtype, dropout)
    # The mean is kept: of 36,000 weights 75 % remain, within four standard deviations.
    kept = np.concatenate([np.ravel(factor) for factor in factors]) > 0
    assert abs(kept.mean() - 0.75) < 4 * np.sqrt(0.75 * 0.25 / kept.size)
    sequences = [
        (rows, rows, np.ones((length, length), bool), factor)
        for rows, length, factor in zip(ranges(cu_seqlens), lengths, factors, strict=True)
    ]
    arrays = random_arrays(rng, dtype, tokens, tokens, 4, dim)
    check(arrays, cu_seqlens, sequences, dtype, 0.0, dropout=dropout)


def test_draws_follow_from_words_and_site():
    lengths = [64, 30]
    cu_seqlens = rn.prefix_sums(lengths)

    def draw(seed, step, site, rate=0.5):
        dropout = Dropout(rate, rn.rng_state(seed, step), site)
        factors = dropout_factors(cu_seqlens, lengths, 2, 64, "f32", dropout)
        return np.concatenate([np.ravel(factor) for factor in factors])

    first = draw(1, 2, 3)
    assert np.array_equal(first, draw(1, 2, 3))
    for other in (draw(2, 2, 3), draw(1, 3, 3), draw(1, 2, 4)):
        assert 0.4 < (first == other).mean() < 0.6
    assert (draw(1, 2, 3, 0.0) == 1).all()


def test_rate_0_is_no_dropout():
    rng = np.random.default_rng(4)
    query, key, value, _ = random_arrays(rng, "f32", 20, 20, 2, 32)
    cu_seqlens = rn.prefix_sums([20])
    plain, _ = rn.attention(query, key, value, cu_seqlens)
    dropped, _ = rn.attention(query, key, value, cu_seqlens, dropout=Dropout(0.0, rn.rng_state(1)))
    assert np.array_equal(plain, dropped)


def test_gradients_of_the_statement():
    """The statement's own gradients, against finite differences of its output."""
    rng = np.random.default_rng(5)
    arrays = [rng.standard_normal((6, 2, 8)) for _ in range(4)]
    factors = np.where(rng.random((2, 6, 6)) < 0.5, 0, 2)
    sequences = [(slice(0, 6), slice(0, 6), np.tril(np.ones((6, 6), bool)), factors)]
    direction = [rng.standard_normal((6, 2, 8)) for _ in range(3)]
    gradients = statement(*arrays, sequences, 0.4, EXACT)[2:]

    def value(step):
        moved = [array + step * by for array, by in zip(arrays, direction, strict=False)]
        return (statement(*moved, arrays[3], sequences, 0.4, EXACT)[0] * arrays[3]).sum()

    slope = sum((gradient * by).sum() for gradient, by in zip(gradients, direction, strict=True))
    assert np.isclose((value(1e-5) - value(-1e-5)) / 2e-5, slope, rtol=1e-7)
