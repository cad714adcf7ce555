"""retromae.jax.dropout_add_layer_norm against LayerNorm in f64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax_dense import DTYPES, expect, layer_norm, make

import retromae.jax as rj
import retromae.numpy as rn
from retromae import Dropout


@pytest.mark.parametrize("columns", [8, 136, 768, 1024])
@pytest.mark.parametrize("rows", [1, 33, 129])
@pytest.mark.parametrize("dtype", DTYPES)
def test_sizes(dtype, rows, columns):
    rng = np.random.default_rng(rows)
    vectors = [make(rng, (columns,), "float32") for _ in range(3)]
    arguments = [
        make(rng, (rows, columns), dtype),
        *vectors[:2],
        make(rng, (rows, columns), dtype),
        vectors[2],
    ]
    expect(rj.dropout_add_layer_norm, layer_norm, arguments, dtype)


@pytest.mark.parametrize("given", ["residual", "bias", ""])
def test_optional_arguments(given):
    rng = np.random.default_rng(0)
    gamma, beta, vector = (make(rng, (64,), "float32") for _ in range(3))
    input, residual = (make(rng, (20, 64), "float32") for _ in range(2))
    extra = {"residual": [residual], "bias": [vector], "": []}[given]

    def named(function):
        def call(input, gamma, beta, extra=None):
            residual, bias = (extra if given == name else None for name in ("residual", "bias"))
            return function(input, gamma, beta, residual, bias)

        return call

    arguments = [input, gamma, beta, *extra]
    expect(named(rj.dropout_add_layer_norm), named(layer_norm), arguments, "float32")


def test_dropout_is_that_of_the_library():
    """The same bits as the call on NumPy arrays, on the CPU."""
    rng = np.random.default_rng(1)
    words = rn.rng_state(3, 4)
    input, residual = (make(rng, (33, 64), "bfloat16") for _ in range(2))
    gamma, beta, bias = (make(rng, (64,), "float32") for _ in range(3))
    arrays = [np.asarray(array) for array in (input, gamma, beta, residual, bias)]
    dropout = Dropout(0.5, words, 2)
    forward = rn.dropout_add_layer_norm(*arrays, dropout=dropout)
    d_output = np.asarray(make(rng, (33, 64), "bfloat16"))
    with jax.default_device(jax.devices("cpu")[0]):
        rate = {"dropout_p": 0.5, "dropout_rng": jnp.asarray(words), "dropout_site": 2}
        output, pull = jax.vjp(
            lambda *all: rj.dropout_add_layer_norm(*all, **rate), *map(jnp.asarray, arrays)
        )
        gradients = pull(jnp.asarray(d_output))
    np.testing.assert_array_equal(output, forward.output)
    expected = rn.dropout_add_layer_norm_backward(
        d_output, forward, arrays[1], residual=True, bias=True, dropout=dropout
    )
    names = ("d_input", "d_gamma", "d_beta", "d_residual", "d_bias")
    for name, gradient in zip(names, gradients, strict=True):
        np.testing.assert_array_equal(gradient, getattr(expected, name), err_msg=name)
