"""Linear + cross-entropy and the bag of words on NumPy arrays against dense f64 statements: losses and gradients."""

import numpy as np
import pytest
from statements import DTYPES, EXACT, Precision, assert_close
from statements import bag_of_words as bags_statement
from statements import cross_entropy as statement

import retromae.numpy as rn
from retromae import Bags

NAMES = ("losses", "log_sum_exp", "log_likelihoods", "correct", "d_hidden", "d_weight", "d_bias")
PLAIN = {"ignore_index": -100, "label_smoothing": 0.0, "z_loss": 0.0, "soft_cap": 0.0}


def head(rng, dtype, rows, hidden_size, vocab_size):
    """Hidden states, weights and bias whose logits have a deviation of about 2."""
    hidden = rng.standard_normal((rows, hidden_size))
    weight = rng.standard_normal((vocab_size, hidden_size)) * 2 / np.sqrt(hidden_size)
    return (
        hidden.astype(DTYPES[dtype]),
        weight.astype(DTYPES[dtype]),
        rng.standard_normal(vocab_size).astype(np.float32),
    )


def check(dtype, hidden, weight, bias, targets, row_weights, options, **algorithm):
    result = rn.linear_cross_entropy(
        hidden, weight, targets, bias, row_weights=row_weights, gradients=True, **options, **algorithm
    )
    arguments = hidden, weight, bias, targets, row_weights, *options.values()
    exact, naive = statement(*arguments, EXACT), statement(*arguments, Precision(DTYPES[dtype]))
    assert result.d_hidden.dtype == hidden.dtype and result.correct.dtype == np.uint8
    for name, right, near in zip(NAMES, exact, naive, strict=True):
        if name == "d_bias" and bias is None:
            assert result.d_bias is None
        elif name == "correct":
            # Other than the exact one only where logits are equal but for their rounding.
            assert (result.correct != right).mean() <= 0.05
        else:
            assert_close(name, getattr(result, name), right, near, dtype)
    without = rn.linear_cross_entropy(
        hidden, weight, targets, bias, row_weights=row_weights, **options, **algorithm
    )
    # More rows are in memory at a time, whose sums may be of another order.
    assert np.allclose(without.losses, result.losses, rtol=1e-5) and without.d_hidden is None


@pytest.mark.parametrize(
    "rows, hidden_size, vocab_size", [(1, 32, 1), (17, 64, 100), (65, 96, 333), (130, 128, 1000)]
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_linear_cross_entropy(dtype, rows, hidden_size, vocab_size):
    rng = np.random.default_rng(rows)
    targets = rng.integers(0, vocab_size, rows).astype(np.int32)
    targets[rng.random(rows) < 0.2] = -100
    check(dtype, *head(rng, dtype, rows, hidden_size, vocab_size), targets, None, PLAIN)


@pytest.mark.parametrize(
    "changed",
    [
        {"ignore_index": 3},
        {"label_smoothing": 0.1},
        {"z_loss": 1e-2},
        {"soft_cap": 5.0},
        {"label_smoothing": 0.2, "z_loss": 1e-3, "soft_cap": 10.0},
    ],
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_options(dtype, changed):
    rng = np.random.default_rng(1)
    hidden, weight, bias = head(rng, dtype, 50, 64, 120)
    targets = rng.integers(0, 12, 50).astype(np.int32)
    row_weights = rng.random(50).astype(np.float32)
    check(dtype, hidden, weight, bias, targets, row_weights, PLAIN | changed)


@pytest.mark.parametrize("dtype", DTYPES)
def test_few_rows_at_a_time(dtype):
    rng = np.random.default_rng(2)
    hidden, weight, _ = head(rng, dtype, 33, 64, 70)
    targets = rng.integers(0, 70, 33).astype(np.int32)
    check(dtype, hidden, weight, None, targets, None, PLAIN, chunk_rows=4)


def test_fused_cross_entropy():
    rng = np.random.default_rng(3)
    hidden, weight, bias = head(rng, "bf16", 40, 64, 200)
    targets = rng.integers(0, 200, 40).astype(np.int32)
    targets[::7] = -100
    check("bf16", hidden, weight, bias, targets, rng.random(40).astype(np.float32), PLAIN, fused=True)


def test_a_target_that_is_no_token_id():
    rng = np.random.default_rng(4)
    hidden, weight, _ = head(rng, "f32", 4, 32, 10)
    targets = np.array([1, 10, -1, -100], np.int32)
    result = rn.linear_cross_entropy(hidden, weight, targets, gradients=True)
    assert np.isnan(result.losses).tolist() == [False, True, True, False]
    assert not result.d_hidden[1:].any() and np.isfinite(result.d_weight).all()


def test_no_rows():
    hidden, weight = np.zeros((0, 32), np.float32), np.zeros((5, 32), np.float32)
    result = rn.linear_cross_entropy(hidden, weight, np.zeros(0, np.int32), gradients=True)
    assert result.losses.shape == (0,) and not result.d_weight.any()


def test_gradients_of_the_cross_entropy_statement():
    rng = np.random.default_rng(5)
    arrays = rng.standard_normal((7, 6)), rng.standard_normal((9, 6)), rng.standard_normal(9)
    direction = [rng.standard_normal(array.shape) for array in arrays]
    targets, row_weights = rng.integers(0, 9, 7), rng.random(7)
    options = targets, row_weights, 2, 0.1, 0.05, 3.0, EXACT

    def value(step):
        moved = [array + step * by for array, by in zip(arrays, direction, strict=True)]
        return statement(*moved, *options)[0].sum()

    slope = sum((g * by).sum() for g, by in zip(statement(*arrays, *options)[4:], direction, strict=True))
    assert np.isclose((value(1e-5) - value(-1e-5)) / 2e-5, slope, rtol=1e-7)


# ---- Bag of words ----

LENGTHS = [1, 2, 17, 0, 9, 4]


def distinct_head(rng, dtype, starts, hidden_size, vocab_size):
    """A head whose largest logit of each token id exceeds the second of its sentence by more than a rounding: in which of two equal tokens
    a gradient belongs is decided by luck."""
    hidden, weight, bias = head(rng, dtype, starts[-1], hidden_size, vocab_size)
    again = np.arange(vocab_size)
    while again.size:
        weight[again] = head(rng, dtype, 1, hidden_size, again.size)[1]
        logits = hidden.astype(np.float64) @ weight[again].astype(np.float64).T
        close = np.zeros(again.size, bool)
        for first, end in zip(starts[:-1] + 1, starts[1:], strict=True):
            if end - first > 1:
                highest = np.sort(logits[first:end], axis=0)
                close |= highest[-1] - highest[-2] < 0.06
        again = again[close]
    return hidden, weight, bias


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("has_options", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_bag_of_words(dtype, has_options, fused):
    if fused and dtype == "f32":
        pytest.skip("the fused algorithm is for 16-bit types")
    rng = np.random.default_rng(6)
    starts, vocab_size = rn.prefix_sums(LENGTHS), 150
    hidden, weight, bias = distinct_head(rng, dtype, starts, 64, vocab_size)
    # The first sentence has one token, which is left out; the fifth's bag is empty.
    bags = [rng.choice(vocab_size, count, replace=False) for count in (3, 1, 12, 2, 0, 5)]
    weights = [rng.random(len(bag)) for bag in bags] if has_options else [np.ones(len(bag)) for bag in bags]
    given = np.concatenate(weights).astype(np.float32)
    weights = np.split(given, np.cumsum([len(bag) for bag in bags])[:-1])
    offsets = rn.prefix_sums([len(bag) for bag in bags])
    described = Bags(offsets, np.concatenate(bags).astype(np.int32), given if has_options else None)
    sentence_weights = rng.random(len(LENGTHS)).astype(np.float32) if has_options else None
    bias = bias if has_options else None
    options = {"sentence_weights": sentence_weights, "fused": fused, "chunk_rows": 5 if has_options else 4096}
    result = rn.bag_of_words_loss(hidden, weight, described, starts, bias, gradients=True, **options)
    arguments = hidden, weight, bias, starts, bags, weights, sentence_weights, 1
    exact = bags_statement(*arguments, EXACT)
    naive = bags_statement(*arguments, Precision(DTYPES[dtype]))
    assert result.losses[0] == 0 and result.losses[4] == 0 and result.d_hidden.dtype == hidden.dtype
    for name, right, near in zip(("losses", "d_hidden", "d_weight"), exact, naive, strict=False):
        assert_close(name, getattr(result, name), right, near, dtype)
    if has_options:
        assert_close("d_bias", result.d_bias, exact[3], naive[3], dtype)
    without = rn.bag_of_words_loss(hidden, weight, described, starts, bias, **options)
    assert np.array_equal(without.losses, result.losses) and without.d_weight is None


@pytest.mark.parametrize("first_position", [0, 2, 9])
def test_first_position(first_position):
    rng = np.random.default_rng(7)
    starts = rn.prefix_sums(LENGTHS)
    hidden, weight, _ = head(rng, "f32", starts[-1], 32, 40)
    bags = [np.array([place, place + 7]) for place in range(len(LENGTHS))]
    described = Bags(rn.prefix_sums([2] * len(bags)), np.concatenate(bags).astype(np.int32))
    result = rn.bag_of_words_loss(hidden, weight, described, starts, first_position=first_position)
    arguments = hidden, weight, None, starts, bags, [np.ones(2)] * len(bags), None, first_position
    exact, naive = bags_statement(*arguments, EXACT), bags_statement(*arguments, Precision(DTYPES["f32"]))
    assert_close("losses", result.losses, exact[0], naive[0], "f32")


def test_gradients_of_the_bag_of_words_statement():
    rng = np.random.default_rng(8)
    arrays = rng.standard_normal((8, 6)), rng.standard_normal((9, 6)), rng.standard_normal(9)
    direction = [rng.standard_normal(array.shape) for array in arrays]
    options = (
        [0, 5, 8],
        [np.array([1, 3]), np.array([3])],
        [rng.random(2), rng.random(1)],
        rng.random(2),
        1,
        EXACT,
    )

    def value(step):
        moved = [array + step * by for array, by in zip(arrays, direction, strict=True)]
        return bags_statement(*moved, *options)[0].sum()

    slope = sum(
        (g * by).sum() for g, by in zip(bags_statement(*arrays, *options)[1:], direction, strict=True)
    )
    assert np.isclose((value(1e-6) - value(-1e-6)) / 2e-6, slope, rtol=1e-6)
