"""What the operations compute, written out densely in PyTorch's own operations, for any dtype; and the comparison with it.

A result is compared with the statement in f64. It may be off by twice what the same statement, run in the dtype of the operation, is off by,
plus a few roundings of the largest value in that dtype.
"""

from itertools import pairwise

import torch

# Roundings of the largest value that are allowed where the statement happens to be exact.
FLOOR = 4


def assert_close(name, actual, exact, naive, dtype):
    """`naive` is the statement in `dtype`."""
    assert actual.shape == exact.shape, name
    assert actual.dtype == naive.dtype, name
    if exact.numel() == 0:
        return
    floor = FLOOR * torch.finfo(dtype).eps * exact.abs().max()
    allowed = 2 * (naive.double() - exact).abs().max() + floor
    error = (actual.double() - exact).abs().max()
    assert error <= allowed, f"{name}: off by {error:.3g}, allowed are {allowed:.3g}"


def with_gradients(function, d_output, *tensors):
    """Result of `function` of leaves made of `tensors`, and the gradients of those."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    output = function(*leaves)
    return [output.detach(), *torch.autograd.grad(output, leaves, d_output.to(output.dtype))]


def compare(names, operation, statement, d_output, tensors):
    """Compares results and gradients of an operation with those of its statement."""
    actual = with_gradients(operation, d_output, *tensors)
    exact = with_gradients(statement, d_output.double(), *(tensor.double() for tensor in tensors))
    naive = with_gradients(statement, d_output, *tensors)
    for name, *values in zip(["output", *names], actual, exact, naive, strict=True):
        assert_close(name, *values, tensors[0].dtype)


def parts(tensor, lengths):
    """The rows of each sequence."""
    return torch.split(tensor, list(lengths))


def attention(query, key, value, lengths, visible, scale=None, factors=None, query_lengths=None):
    """`visible` is bool [Lq, L] for each sequence; `factors` [A, Lq, L] are what dropout multiplies the probabilities with."""
    outputs = []
    rows = zip(
        parts(query, query_lengths or lengths), parts(key, lengths), parts(value, lengths), strict=True
    )
    for place, (q, k, v) in enumerate(rows):
        q, k, v = (tensor.transpose(0, 1) for tensor in (q, k, v))
        scores = q @ k.transpose(1, 2) * (scale or q.shape[-1] ** -0.5)
        seen = visible[place]
        # A query that sees nothing has an output of 0.
        probabilities = scores.masked_fill(~seen, -1e4).softmax(-1) * seen
        if factors is not None:
            probabilities = probabilities * factors[place].to(q.dtype)
        outputs.append((probabilities @ v).transpose(0, 1))
    return torch.cat(outputs)


def unpack(words, count):
    """The first `count` bits of int32 words, lowest first."""
    bits = (words.long()[..., None] >> torch.arange(32, device=words.device)) & 1
    return bits.flatten(-2)[..., :count].bool()


def pool_visible(bits, offsets, rows, lengths):
    """What each query sees under `Mask.pool`: position 0 and the set bits of its row of the pool, but not itself."""
    visible = []
    for span, length, row in zip(pairwise(offsets.tolist()), lengths, parts(rows, lengths), strict=True):
        words = max(1, (length + 31) // 32)
        pool = unpack(bits[slice(*span)].view(-1, words), length)
        seen = pool[row.long() & 0xFFFF]
        seen[:, :1] = True
        visible.append(seen & ~torch.eye(length, dtype=torch.bool, device=seen.device))
    return visible


def linear_cross_entropy(
    hidden, weight, bias, targets, *, ignore_index=-100, label_smoothing=0.0, z_loss=0.0, soft_cap=0.0
):
    """Losses [M]."""
    logits = hidden @ weight.T
    if bias is not None:
        logits = logits + bias.to(logits.dtype)
    # Losses are f32 whatever the dtype of the factors.
    if logits.dtype is not torch.float64:
        logits = logits.float()
    if soft_cap:
        logits = soft_cap * torch.tanh(logits / soft_cap)
    log_sum_exp = logits.logsumexp(-1)
    kept = targets != ignore_index
    chosen = logits.gather(1, targets.long().where(kept, 0)[:, None])[:, 0]
    target = (1 - label_smoothing) * chosen + label_smoothing * logits.mean(-1)
    return (log_sum_exp - target + z_loss * log_sum_exp**2).where(kept, 0)


def bag_of_words(hidden, weight, bias, bags, cu_seqlens, first_position=1):
    """Losses [B]."""
    losses = []
    for (start, end), (first, last) in zip(
        pairwise(cu_seqlens.tolist()), pairwise(bags.offsets.tolist()), strict=True
    ):
        rows = hidden[start + first_position : end]
        ids = bags.ids[first:last].long()
        if len(rows) == 0 or len(ids) == 0:
            losses.append(hidden.sum() * 0)
            continue
        logits = rows @ weight.T
        if bias is not None:
            logits = logits + bias.to(logits.dtype)
        if logits.dtype is not torch.float64:
            logits = logits.float()
        found = logits.amax(0).log_softmax(0)[ids]
        weights = torch.ones_like(found) if bags.weights is None else bags.weights[first:last].to(found.dtype)
        losses.append(-(weights * found).sum())
    return torch.stack(losses)


def dropout_add_layer_norm(input, gamma, beta, residual=None, bias=None, factors=None, eps=1e-12):
    """`factors` [rows, columns] are what dropout multiplies with."""
    wide = input.dtype
    total = input if bias is None else input + bias.to(wide)
    if factors is not None:
        total = total * factors.to(wide)
    if residual is not None:
        total = total + residual
    return torch.nn.functional.layer_norm(total, total.shape[-1:], gamma.to(wide), beta.to(wide), eps)
