"""The heads of a language model, their losses and gradients, against a dense statement."""

import pytest
import torch
import torch_reference as reference

from retromae.errors import Unsupported
from retromae.torch import Bags, bag_of_words_loss, linear_cross_entropy, prefix_sums

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
IDS = ("float32", "bfloat16", "float16")
REDUCTIONS = ("none", "sum", "mean")
VOCAB, COLUMNS = 203, 64
OPTIONS = (
    {},
    {"label_smoothing": 0.1},
    {"z_loss": 1e-2},
    {"soft_cap": 5.0},
    {"ignore_index": 3},
    {"chunk_rows": 16},
)


def head(dtype, device, rows):
    hidden = torch.randn(rows, COLUMNS, device=device).to(dtype)
    weight = (torch.randn(VOCAB, COLUMNS, device=device) / 4).to(dtype)
    return hidden, weight, torch.randn(VOCAB, device=device)


def targets(device, rows, ignored=-100):
    ids = torch.randint(0, VOCAB, (rows,), device=device)
    ids[::5] = ignored
    return ids


def reduce(losses, weights, total, reduction):
    """What reductions do to losses [n] with weights."""
    losses = losses * weights.to(losses.dtype)
    return losses if reduction == "none" else losses.sum() / (total if reduction == "mean" else 1)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=IDS)
def test_cross_entropy(device, dtype, reduction, options):
    rows = 67
    tensors = head(dtype, device, rows)
    ids = targets(device, rows, options.get("ignore_index", -100))
    statement = {name: value for name, value in options.items() if name != "chunk_rows"}
    kept = ids != options.get("ignore_index", -100)
    reference.compare(
        ("d_hidden", "d_weight", "d_bias"),
        lambda h, w, b: linear_cross_entropy(h, w, ids, b, reduction=reduction, **options),
        lambda h, w, b: reduce(
            reference.linear_cross_entropy(h, w, b, ids, **statement), kept, kept.sum(), reduction
        ),
        torch.randn(rows, device=device) if reduction == "none" else torch.tensor(1 / 3, device=device),
        tensors,
    )


@pytest.mark.parametrize("rows", (1, 2, 17, 33, 64, 65, 129))
@pytest.mark.parametrize("fused", (False, True))
def test_lengths_and_the_fused_kernel(device, rows, fused):
    dtype = torch.bfloat16
    tensors = head(dtype, device, rows)
    ids = torch.randint(0, VOCAB, (rows,), dtype=torch.int32, device=device)
    reference.compare(
        ("d_hidden", "d_weight", "d_bias"),
        lambda h, w, b: linear_cross_entropy(h, w, ids, b, fused=fused),
        lambda h, w, b: reference.linear_cross_entropy(h, w, b, ids).mean(),
        torch.tensor(1.0, device=device),
        tensors,
    )


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_row_weights(device, reduction):
    rows = 33
    tensors = head(torch.float32, device, rows)
    ids = targets(device, rows)
    # Weights may be of another float dtype; that of an ignored row does not count.
    weights = torch.rand(rows, device=device).bfloat16()
    total = (weights.float() * (ids != -100)).sum()
    reference.compare(
        ("d_hidden", "d_weight", "d_bias"),
        lambda h, w, b: linear_cross_entropy(h, w, ids, b, reduction=reduction, row_weights=weights),
        lambda h, w, b: reduce(reference.linear_cross_entropy(h, w, b, ids), weights, total, reduction),
        torch.randn(rows if reduction == "none" else (), device=device),
        tensors,
    )


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("wanted", range(8))
def test_only_gradients_that_are_asked_for(device, wanted, reduction):
    tensors = head(torch.float32, device, 17)
    ids = targets(device, 17)

    def gradients(asked):
        leaves = [tensor.clone().requires_grad_(wish) for tensor, wish in zip(tensors, asked, strict=True)]
        hidden, weight, bias = leaves
        loss = linear_cross_entropy(hidden, weight, ids, bias, reduction=reduction).sum()
        if any(asked):
            loss.backward()
        else:
            assert not loss.requires_grad
        return [leaf.grad for leaf in leaves]

    asked = [bool(wanted >> place & 1) for place in range(3)]
    for gradient, every, wish in zip(gradients(asked), gradients([True] * 3), asked, strict=True):
        assert torch.equal(gradient, every) if wish else gradient is None


def test_large_gradients_of_f16_are_scaled_in_f32(device):
    """A loss scale that f16 does not hold gives gradients that it does."""
    hidden, weight, _ = head(torch.float16, device, 64)
    hidden.requires_grad_()
    weight /= 256
    ids = targets(device, 64)
    loss = linear_cross_entropy(hidden, weight, ids, reduction="sum")
    (plain,) = torch.autograd.grad(loss, hidden, retain_graph=True)
    (scaled,) = torch.autograd.grad(loss * 131072, hidden)
    assert scaled.isfinite().all()
    torch.testing.assert_close(scaled / 131072, plain, rtol=2**-9, atol=1e-6)


@pytest.mark.parametrize("dtype", (torch.int32, torch.int64))
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_targets_out_of_range(device, dtype, reduction):
    """NaN, and no gradient; ids that 32 bits do not hold are no others."""
    hidden, weight, bias = head(torch.float32, device, 6)
    hidden.requires_grad_()
    invalid = [VOCAB, -1, -(2**31)] + ([2**32 + 5, -(2**32) + 5] if dtype is torch.int64 else [])
    for bad in invalid:
        ids = torch.tensor([1, bad, 2, -100, 3, 4], dtype=dtype, device=device)
        losses = linear_cross_entropy(hidden, weight, ids, bias, reduction=reduction)
        assert losses.isnan().tolist() == ([False, True] + [False] * 4 if reduction == "none" else True)
        good = ids.clone()
        good[1] = -100
        kept = linear_cross_entropy(hidden, weight, good, bias, reduction="sum")
        (d_kept,) = torch.autograd.grad(kept, hidden)
        (d_hidden,) = torch.autograd.grad(losses.sum(), hidden)
        torch.testing.assert_close(d_hidden, d_kept / (5 if reduction == "mean" else 1))


def test_the_mean_of_nothing(device):
    """As PyTorch's: NaN, with gradients of 0."""
    hidden, weight, bias = (tensor.requires_grad_() for tensor in head(torch.float32, device, 5))
    ids = torch.full((5,), -100, device=device)
    for logits_of in (
        lambda: linear_cross_entropy(hidden, weight, ids, bias),
        lambda: torch.nn.functional.cross_entropy(hidden @ weight.T + bias, ids),
    ):
        loss = logits_of()
        assert loss.isnan()
        assert not any(gradient.any() for gradient in torch.autograd.grad(loss, (hidden, weight, bias)))


def test_no_rows(device):
    hidden, weight, bias = (tensor.requires_grad_() for tensor in head(torch.float32, device, 0))
    ids = torch.empty(0, dtype=torch.int64, device=device)
    loss = linear_cross_entropy(hidden, weight, ids, bias, reduction="sum")
    assert loss == 0
    assert not any(gradient.any() for gradient in torch.autograd.grad(loss, (hidden, weight, bias)))


def test_bias_of_another_dtype(device):
    hidden, weight, bias = head(torch.bfloat16, device, 17)
    bias = bias.bfloat16().requires_grad_()
    ids = targets(device, 17)
    loss = linear_cross_entropy(hidden, weight, ids, bias)
    assert loss.dtype is torch.float32
    (d_bias,) = torch.autograd.grad(loss, bias)
    wide = bias.detach().float().requires_grad_()
    (expected,) = torch.autograd.grad(linear_cross_entropy(hidden, weight, ids, wide), wide)
    assert torch.equal(d_bias, expected.bfloat16())


# ---- Bag of words ----

LENGTHS = (1, 2, 17, 33, 64, 65, 9)


def bags_of(device, weights=True):
    """Bags of different sizes, one of them empty."""
    sizes = (0, 1, 3, 17, 40, 5, 2)
    ids = torch.cat([torch.randperm(VOCAB, device=device)[:size] for size in sizes])
    factors = torch.rand(len(ids), device=device) if weights else None
    return Bags(prefix_sums(sizes, device), ids.to(torch.int32), factors)


@pytest.mark.parametrize("fused", (False, True))
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=IDS)
def test_bag_of_words(device, dtype, reduction, fused):
    if fused and dtype is torch.float32:
        hidden, weight, _ = head(dtype, device, sum(LENGTHS))
        with pytest.raises(Unsupported, match="dtype|algorithm"):
            bag_of_words_loss(
                hidden, weight, bags_of(device), prefix_sums(LENGTHS, device), max(LENGTHS), fused=True
            )
        return
    tensors = head(dtype, device, sum(LENGTHS))
    cu = prefix_sums(LENGTHS, device)
    bags = bags_of(device)
    weights = torch.rand(len(LENGTHS), device=device)
    reference.compare(
        ("d_hidden", "d_weight", "d_bias"),
        lambda h, w, b: bag_of_words_loss(
            h,
            w,
            bags,
            cu,
            max(LENGTHS),
            b,
            reduction=reduction,
            sentence_weights=weights,
            fused=fused,
        ),
        lambda h, w, b: reduce(reference.bag_of_words(h, w, b, bags, cu), weights, weights.sum(), reduction),
        torch.randn(len(LENGTHS) if reduction == "none" else (), device=device),
        tensors,
    )


@pytest.mark.parametrize("first_position", (0, 1, 3))
def test_bag_of_words_without_weights(device, first_position):
    hidden, weight, _ = head(torch.float32, device, sum(LENGTHS))
    cu = prefix_sums(LENGTHS, device)
    bags = bags_of(device, weights=False)
    long = Bags(bags.offsets, bags.ids.long())
    # The shortest sentence has a bag without words, whatever tokens it has.
    reference.compare(
        ("d_hidden", "d_weight"),
        lambda h, w: bag_of_words_loss(h, w, long, cu, max(LENGTHS), first_position=first_position)
        if first_position < 2
        else bag_of_words_loss(h, w, long, cu, max(LENGTHS), first_position=first_position, reduction="none")[
            2:
        ].mean(),
        lambda h, w: reference.bag_of_words(h, w, None, bags, cu, first_position)[
            0 if first_position < 2 else 2 :
        ].mean(),
        torch.tensor(1.0, device=device),
        (hidden, weight),
    )
