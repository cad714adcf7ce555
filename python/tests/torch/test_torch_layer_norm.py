"""Dropout + residual + LayerNorm and its gradients against a dense statement."""

import pytest
import torch
import torch_reference as reference

from retromae.torch import dropout_add_layer_norm, rng_state

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
IDS = ("float32", "bfloat16", "float16")
RATE = 0.25


def inputs(dtype, device, rows, columns):
    matrices = [torch.randn(rows, columns, device=device).to(dtype) for _ in range(2)]
    vectors = [torch.randn(columns, device=device) for _ in range(3)]
    return matrices, vectors


@pytest.mark.parametrize("columns", (8, 64, 768, 1024))
@pytest.mark.parametrize("dtype", DTYPES, ids=IDS)
@pytest.mark.parametrize("residual", (False, True), ids=("", "residual"))
@pytest.mark.parametrize("bias", (False, True), ids=("", "bias"))
def test_layer_norm(device, dtype, columns, residual, bias):
    (x, r), (gamma, beta, b) = inputs(dtype, device, 33, columns)
    names = ["d_input", "d_gamma", "d_beta"] + ["d_residual"] * residual + ["d_bias"] * bias
    tensors = [x, gamma, beta] + [r] * residual + [b] * bias

    def arguments(x, gamma, beta, *rest):
        return (x, gamma, beta, rest[0] if residual else None, rest[-1] if bias else None)

    reference.compare(
        names,
        lambda *t: dropout_add_layer_norm(*arguments(*t)),
        lambda *t: reference.dropout_add_layer_norm(*arguments(*t)),
        torch.randn_like(x),
        tensors,
    )


@pytest.mark.parametrize("rows", (1, 2, 17, 65, 129))
def test_rows(device, rows):
    (x, r), (gamma, beta, b) = inputs(torch.bfloat16, device, rows, 256)
    reference.compare(
        ("d_input", "d_gamma", "d_beta", "d_residual", "d_bias"),
        lambda *t: dropout_add_layer_norm(*t, eps=1e-5),
        lambda *t: reference.dropout_add_layer_norm(*t, eps=1e-5),
        torch.randn_like(x),
        (x, gamma, beta, r, b),
    )


def kept_factors(shape, dtype, rng, site):
    """What dropout multiplies with: the LayerNorm of a row of ones, of which some became 0, is positive where they are kept."""
    ones = torch.ones(shape, dtype=dtype, device=rng.device)
    vectors = (torch.ones(shape[1], device=rng.device), torch.zeros(shape[1], device=rng.device))
    options = dict(dropout_p=RATE, dropout_rng=rng, dropout_site=site)
    return (dropout_add_layer_norm(ones, *vectors, **options) > 0) / (1 - RATE)


@pytest.mark.parametrize("dtype", DTYPES, ids=IDS)
def test_dropout(device, dtype):
    (x, r), (gamma, beta, b) = inputs(dtype, device, 65, 384)
    rng = rng_state(1, 2, device)
    factors = kept_factors(x.shape, dtype, rng, 5)
    assert abs(factors.ne(0).double().mean() - (1 - RATE)) < 0.02
    reference.compare(
        ("d_input", "d_gamma", "d_beta", "d_residual", "d_bias"),
        lambda *t: dropout_add_layer_norm(*t, dropout_p=RATE, dropout_rng=rng, dropout_site=5),
        lambda *t: reference.dropout_add_layer_norm(*t, factors=factors),
        torch.randn_like(x),
        (x, gamma, beta, r, b),
    )


def test_vectors_of_another_dtype(device):
    (x, _), (gamma, beta, _) = inputs(torch.bfloat16, device, 17, 64)
    gamma, beta = (vector.bfloat16().requires_grad_() for vector in (gamma, beta))
    output = dropout_add_layer_norm(x, gamma, beta)
    gradients = torch.autograd.grad(output.sum(), (gamma, beta))
    wide = [vector.detach().float().requires_grad_() for vector in (gamma, beta)]
    again = dropout_add_layer_norm(x, *wide)
    expected = torch.autograd.grad(again.sum(), wide)
    assert torch.equal(output, again)
    for gradient, other in zip(gradients, expected, strict=True):
        assert torch.equal(gradient, other.bfloat16())


def test_draws_follow_the_site(device):
    rng = rng_state(1, 2, device)
    first, again, other = (kept_factors((17, 64), torch.float32, rng, site) for site in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
