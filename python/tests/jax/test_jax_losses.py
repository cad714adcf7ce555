"""The losses of retromae.jax, their reductions and options, against dense statements in f64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax_dense import DTYPES, bag_of_words, cross_entropy, expect, make

import retromae.jax as rj
from retromae import Bags

VOCABULARY = 301


def head(rng, rows, hidden_size, dtype):
    """Hidden states, weight and bias."""
    hidden = make(rng, (rows, hidden_size), dtype)
    weight = make(rng, (VOCABULARY, hidden_size), dtype, 0.2)
    return [hidden, weight, make(rng, (VOCABULARY,), "float32")]


def targets_of(rng, rows):
    targets = rng.integers(0, VOCABULARY, rows).astype(np.int32)
    targets[rng.random(rows) < 0.3] = -100
    return targets


def check_cross_entropy(dtype, rows=70, hidden_size=64, bias=True, statement_options=(), **options):
    rng = np.random.default_rng(rows)
    arguments = head(rng, rows, hidden_size, dtype)
    targets = targets_of(rng, rows)
    reduction = options.get("reduction", "mean")
    row_weights = options.get("row_weights")
    if not bias:
        del arguments[2]

    def operation(hidden, weight, bias=None):
        return rj.linear_cross_entropy(hidden, weight, jnp.asarray(targets), bias, **options)

    def statement(hidden, weight, bias=None):
        losses = cross_entropy(hidden, weight, bias, targets, *statement_options)
        weights = np.where(targets == -100, 0, 1 if row_weights is None else row_weights)
        losses = losses * weights.astype(losses.dtype)
        if reduction == "none":
            return losses
        return losses.sum() / (weights.sum() if reduction == "mean" else 1)

    expect(operation, statement, arguments, dtype)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_reductions(dtype, reduction):
    check_cross_entropy(dtype, reduction=reduction)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_row_weights(reduction):
    weights = np.random.default_rng(1).random(70).astype(np.float32)
    check_cross_entropy("float32", reduction=reduction, row_weights=weights)


@pytest.mark.parametrize("rows", [1, 2, 17, 129])
@pytest.mark.parametrize("hidden_size", [8, 40, 256])
def test_sizes(rows, hidden_size):
    check_cross_entropy("float32", rows, hidden_size, bias=False, reduction="sum")


@pytest.mark.parametrize("dtype", DTYPES)
def test_options(dtype):
    options = {"label_smoothing": 0.1, "z_loss": 1e-3, "soft_cap": 5.0}
    check_cross_entropy(dtype, statement_options=options.values(), chunk_rows=16, **options)


def test_fused():
    check_cross_entropy("bfloat16", fused=True, bias=False)


def test_gradient_of_row_weights():
    rng = np.random.default_rng(8)
    hidden, weight, bias = head(rng, 30, 32, "float32")
    targets = targets_of(rng, 30)

    def operation(row_weights):
        return rj.linear_cross_entropy(hidden, weight, jnp.asarray(targets), bias, row_weights=row_weights)

    def statement(row_weights):
        dtype = row_weights.dtype
        losses = cross_entropy(*(array.astype(dtype) for array in (hidden, weight, bias)), targets)
        return (losses * row_weights).sum() / (row_weights * (targets != -100)).sum()

    expect(operation, statement, [jnp.asarray(rng.random(30), jnp.float32)], "float32")


@pytest.mark.parametrize("row_weights", [None, jnp.ones(5)])
def test_no_target_at_all(row_weights):
    """A mean over nothing is NaN, and its gradient 0, as in PyTorch; a sum is 0."""
    arrays = head(np.random.default_rng(0), 5, 16, "float32")
    targets = jnp.full(5, -100, jnp.int32)

    def loss(reduction, hidden, weight, bias):
        options = {"reduction": reduction, "row_weights": row_weights}
        return rj.linear_cross_entropy(hidden, weight, targets, bias, **options)

    assert loss("sum", *arrays) == 0
    value, gradients = jax.value_and_grad(loss, (1, 2, 3))("mean", *arrays)
    assert np.isnan(value)
    assert not any(gradient.any() for gradient in gradients)


@pytest.mark.parametrize(
    ("dtype", "weighted", "reduction"),
    [*((dtype, True, "mean") for dtype in DTYPES), ("float32", False, "sum"), ("float32", True, "none")],
)
def test_bag_of_words(dtype, weighted, reduction):
    rng = np.random.default_rng(9)
    lengths, sizes = [1, 2, 17, 65, 33], [0, 3, 1, 40, 7]
    cu_seqlens, offsets = (np.concatenate([[0], np.cumsum(x)]).astype(np.int32) for x in (lengths, sizes))
    ids = rng.integers(0, VOCABULARY, sum(sizes)).astype(np.int32)
    weights = rng.random(len(ids)).astype(np.float32) if weighted else np.ones(len(ids), np.float32)
    sentence_weights = rng.random(len(sizes)).astype(np.float32) if weighted else None
    bags = list(zip(np.split(ids, offsets[1:-1]), np.split(weights, offsets[1:-1]), strict=True))
    arguments = head(rng, sum(lengths), 32, dtype)

    def operation(hidden, weight, bias):
        given = Bags(jnp.asarray(offsets), jnp.asarray(ids), jnp.asarray(weights) if weighted else None)
        arrays = (hidden, weight, given, jnp.asarray(cu_seqlens), max(lengths), bias)
        return rj.bag_of_words_loss(*arrays, reduction=reduction, sentence_weights=sentence_weights)

    def statement(hidden, weight, bias):
        losses = bag_of_words(hidden, weight, bias, cu_seqlens, bags, 1)
        factors = np.ones(len(sizes)) if sentence_weights is None else sentence_weights
        losses = losses * factors.astype(losses.dtype)
        if reduction == "none":
            return losses
        return losses.sum() / (factors.sum() if reduction == "mean" else 1)

    expect(operation, statement, arguments, dtype)
