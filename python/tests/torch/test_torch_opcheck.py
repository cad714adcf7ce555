"""PyTorch's own check of operations: schemas, fake kernels, gradients, traces with and without symbols for sizes."""

import pytest
import torch

from retromae.torch import (
    Bags,
    CountLimit,
    Mask,
    labeled_offsets,
    mask_bits,
    pool_offsets,
    prefix_sums,
    rng_state,
)

LENGTHS = (3, 0, 17, 33)
TOKENS, LONGEST, COLUMNS, VOCAB = sum(LENGTHS), max(LENGTHS), 64, 37
OPS = torch.ops.retromae


def check(operation, *arguments):
    torch.library.opcheck(operation.default, arguments)


def leaf(*shape, device, dtype=torch.float32):
    return torch.randn(*shape, device=device).to(dtype).requires_grad_()


def attention_arguments(device, dtype):
    leaves = [leaf(TOKENS, 2, 32, device=device, dtype=dtype) for _ in range(3)]
    return (*leaves, prefix_sums(LENGTHS, device), LONGEST)


def masks(device):
    bits, offsets = mask_bits([torch.rand(n, n, device=device) < 0.5 for n in LENGTHS])
    rows = torch.zeros(TOKENS, dtype=torch.int16, device=device)
    return {
        "full": (),
        "window": tuple(Mask.window(3, 4, first=True)),
        "visible": tuple(Mask.visible(bits, offsets)),
        "pool": tuple(Mask.pool(bits, offsets, rows)),
        "permutation": tuple(Mask.permutation(rows)),
    }


@pytest.mark.parametrize("mask", ("full", "window", "visible", "pool", "permutation"))
def test_attention(device, mask):
    rng = rng_state(1, device=device)
    check(
        OPS.attention,
        *attention_arguments(device, torch.float32),
        0.25,
        rng,
        1,
        0.5,
        False,
        *masks(device)[mask],
    )


def test_attention_of_queries_apart(device):
    query = leaf(4, 2, 32, device=device)
    _, *rest = attention_arguments(device, torch.float32)
    queries = (prefix_sums((1, 1, 1, 1), device), 1, torch.zeros(4, dtype=torch.int32, device=device))
    options = (0.0, None, 0, 0.0, False, *Mask.FULL)
    check(OPS.attention, query, *rest, *options, *queries)


def test_attention_backward(device):
    query, key, value, *rest = (
        value.detach() if isinstance(value, torch.Tensor) else value
        for value in attention_arguments(device, torch.bfloat16)
    )
    output, log_sum_exp = OPS.attention(query, key, value, *rest)
    check(OPS.attention_backward, output.clone(), query, key, value, output, log_sum_exp, *rest)


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
def test_linear_cross_entropy(device, dtype):
    hidden = leaf(TOKENS, COLUMNS, device=device, dtype=dtype)
    weight = leaf(VOCAB, COLUMNS, device=device, dtype=dtype)
    bias = leaf(VOCAB, device=device)
    targets = torch.zeros(TOKENS, dtype=torch.int32, device=device)
    options = (-100, 0.1, 0.1, 5.0, False, 16)
    for b, weights in ((None, None), (bias, torch.rand(TOKENS, device=device))):
        arguments = (hidden, weight, targets, b, weights, *options)
        check(OPS.linear_cross_entropy, *arguments)
        check(OPS.linear_cross_entropy_gradients, *arguments, True, True, b is not None)
    frozen = (weight.detach(), targets, bias.detach(), None)
    check(OPS.linear_cross_entropy_gradients, hidden, *frozen, *options, True, False, False)


def test_bag_of_words(device):
    hidden, weight = leaf(TOKENS, COLUMNS, device=device), leaf(VOCAB, COLUMNS, device=device)
    ids = torch.tensor([1, 2, 3, 4], dtype=torch.int32, device=device)
    bags = Bags(prefix_sums((1, 0, 2, 1), device), ids, torch.rand(4, device=device))
    weights, bias = torch.rand(4, device=device), leaf(VOCAB, device=device)
    cu = prefix_sums(LENGTHS, device)
    arguments = (hidden, weight, cu, bias, weights, LONGEST, *bags, 1, False, 16)
    check(OPS.bag_of_words, *arguments)
    check(OPS.bag_of_words_gradients, *arguments, True, True, True)


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
def test_dropout_add_layer_norm(device, dtype):
    x, residual = (leaf(TOKENS, COLUMNS, device=device, dtype=dtype) for _ in range(2))
    gamma, beta, bias = (leaf(COLUMNS, device=device) for _ in range(3))
    rng = rng_state(1, device=device)
    check(OPS.dropout_add_layer_norm, x, gamma, beta, residual, bias, 1e-5, 0.25, rng, 1)
    check(OPS.dropout_add_layer_norm, x, gamma, beta, None, None, 1e-5)
    plain = [tensor.detach() for tensor in (x, gamma, beta, residual, bias)]
    _, total, mean, rstd = OPS.dropout_add_layer_norm(*plain, 1e-5)
    check(OPS.dropout_add_layer_norm_backward, total.clone(), total, mean, rstd, plain[1], True, False, 1e-5)


def test_draw_masks(device):
    limit = CountLimit(0.3)
    offsets, labeled = pool_offsets(LENGTHS, 16, device), labeled_offsets(LENGTHS, limit, device)
    ids = torch.zeros(TOKENS, dtype=torch.int32, device=device)
    indices = torch.arange(len(LENGTHS), dtype=torch.int32, device=device)
    starts = torch.full(((TOKENS + 31) // 32,), -1, dtype=torch.int32, device=device)
    corruption = (*limit, 4, VOCAB, 0.8, 0.1, labeled, int(labeled[-1]))
    check(
        OPS.draw_masks,
        ids,
        prefix_sums(LENGTHS, device),
        LONGEST,
        rng_state(1, device=device),
        indices,
        starts,
        *limit,
        offsets,
        int(offsets[-1]),
        16,
        *corruption,
        *corruption,
    )
