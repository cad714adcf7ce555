"""LayerNorm of residual + dropout(input + bias) on NumPy arrays against a dense f64 statement."""

import numpy as np
import pytest
from statements import DTYPES, EXACT, Precision, assert_close
from statements import layer_norm as statement

import retromae
import retromae.numpy as rn
from retromae import Dropout

SHAPES = [(1, 8), (2, 32), (17, 96), (33, 256), (65, 768), (129, 1024)]


@pytest.fixture
def dtype(request):
    """A dtype that the library has LayerNorm for."""
    row, gamma = np.zeros((1, 8), DTYPES[request.param]), np.ones(8, np.float32)
    try:
        rn.dropout_add_layer_norm(row, gamma, gamma)
    except retromae.Unsupported as error:
        pytest.skip(f"the library says: {error}")
    return request.param


def factors_of(shape, dtype, dropout):
    """The factor of each element, read from the sum of an input of ones."""
    ones, gamma = np.ones(shape, DTYPES[dtype]), np.ones(shape[1], np.float32)
    kept = rn.dropout_add_layer_norm(ones, gamma, gamma, dropout=dropout).sum.astype(np.float64) > 0
    return kept / (1 - dropout.rate)


def random_arrays(rng, shape, dtype):
    """Input, residual and gradient of the output; gamma, beta and bias."""
    matrices = [(rng.standard_normal(shape) * 2 + 1).astype(DTYPES[dtype]) for _ in range(3)]
    return matrices, [(rng.standard_normal(shape[1]) + 1).astype(np.float32) for _ in range(3)]


def check(shape, dtype, dropout, factors, has_residual, has_bias, eps=1e-12):
    rng = np.random.default_rng(shape[0])
    (input, residual, d_output), (gamma, beta, bias) = random_arrays(rng, shape, dtype)
    residual, bias = residual if has_residual else None, bias if has_bias else None
    forward = rn.dropout_add_layer_norm(input, gamma, beta, residual, bias, dropout=dropout, eps=eps)
    backward = rn.dropout_add_layer_norm_backward(
        d_output, forward, gamma, dropout=dropout, residual=has_residual, bias=has_bias
    )
    arguments = input, gamma, beta, residual, bias, factors, eps, d_output
    exact, naive = statement(*arguments, EXACT), statement(*arguments, Precision(DTYPES[dtype]))
    for name, right, near in zip(forward._fields + backward._fields, exact, naive, strict=True):
        actual = getattr(forward, name, None) if hasattr(forward, name) else getattr(backward, name)
        if name == "d_residual" and not has_residual or name == "d_bias" and not has_bias:
            assert actual is None
        else:
            assert_close(name, actual, right, near, dtype)
    assert forward.output.dtype == forward.sum.dtype == backward.d_input.dtype == input.dtype


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES, indirect=True)
def test_layer_norm(dtype, shape):
    check(shape, dtype, None, 1.0, has_residual=False, has_bias=False)
    check(shape, dtype, None, 1.0, has_residual=True, has_bias=True, eps=1e-2)


@pytest.mark.parametrize("shape", SHAPES[2:])
@pytest.mark.parametrize("dtype", DTYPES, indirect=True)
def test_dropout(dtype, shape):
    dropout = Dropout(0.25, rn.rng_state(3, 1), 2)
    factors = factors_of(shape, dtype, dropout)
    kept = (factors > 0).mean()
    assert abs(kept - 0.75) < 4 * np.sqrt(0.75 * 0.25 / factors.size)
    check(shape, dtype, dropout, factors, has_residual=True, has_bias=True)
    check(shape, dtype, dropout, factors, has_residual=True, has_bias=False)


def test_draws_follow_from_words_and_site():
    draw = lambda seed, site: factors_of((33, 256), "f32", Dropout(0.5, rn.rng_state(seed), site))  # noqa: E731
    assert np.array_equal(draw(1, 2), draw(1, 2))
    assert not np.array_equal(draw(1, 2), draw(2, 2)) and not np.array_equal(draw(1, 2), draw(1, 3))


def test_rate_0_is_no_dropout():
    (input, residual, _), (gamma, beta, bias) = random_arrays(np.random.default_rng(1), (9, 64), "f32")
    plain = rn.dropout_add_layer_norm(input, gamma, beta, residual, bias)
    dropped = rn.dropout_add_layer_norm(
        input, gamma, beta, residual, bias, dropout=Dropout(0.0, rn.rng_state(1))
    )
    assert np.array_equal(plain.output, dropped.output)


def test_no_rows():
    gamma = np.ones(64, np.float32)
    forward = rn.dropout_add_layer_norm(np.zeros((0, 64), np.float32), gamma, gamma)
    backward = rn.dropout_add_layer_norm_backward(forward.output, forward, gamma)
    assert backward.d_input.shape == (0, 64) and not backward.d_gamma.any()


def test_gradients_of_the_statement():
    rng = np.random.default_rng(2)
    shapes = (5, 8), (8,), (8,), (5, 8), (8,)
    arrays, direction = ([rng.standard_normal(shape) for shape in shapes] for _ in range(2))
    factors, d_output = np.where(rng.random((5, 8)) < 0.5, 0, 2), rng.standard_normal((5, 8))

    def value(step):
        moved = [array + step * by for array, by in zip(arrays, direction, strict=True)]
        return (statement(*moved, factors, 1e-3, d_output, EXACT)[0] * d_output).sum()

    d_input, d_residual, d_gamma, d_beta, d_bias = statement(*arrays, factors, 1e-3, d_output, EXACT)[4:]
    gradients = d_input, d_gamma, d_beta, d_residual, d_bias
    slope = sum((gradient * by).sum() for gradient, by in zip(gradients, direction, strict=True))
    assert np.isclose((value(1e-5) - value(-1e-5)) / 2e-5, slope, rtol=1e-6)
