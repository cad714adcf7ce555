"""The output layer and its mean cross-entropy, forward and backward to hidden states, weight and bias."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from peer import Peer, Setting, Unavailable, Work, assert_all_close, leaf

RESULTS = ("loss", "d_hidden", "d_weight", "d_bias")
VARIANTS = ("torch", "torch_compile", "liger", "cut_cross_entropy")
# Rows of float32 logits that the check holds at once.
CHECKED_ROWS = 4096


@dataclass(frozen=True)
class Sizes:
    rows: tuple[int, ...]
    hidden_size: int
    vocab_size: int

    def case(self, rows: int) -> str:
        full = (self.hidden_size, self.vocab_size) == (768, 30522)
        return f"M{rows}" if full else f"M{rows}_H{self.hidden_size}_V{self.vocab_size}"


SIZES = {
    "gpu": Sizes((32768, 4096, 8192, 16384, 65536), 768, 30522),
    "cpu": Sizes((1024,), 128, 8192),
    "self_test": Sizes((64,), 32, 100),
}


@dataclass(frozen=True)
class Problem:
    hidden: Tensor
    """`[M, H]`"""
    weight: Tensor
    """`[V, H]`"""
    bias: Tensor
    """`[V]`"""
    targets: Tensor
    """`[M]`"""

    @property
    def inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.hidden, self.weight, self.bias


def problem(setting: Setting, sizes: Sizes, rows: int) -> Problem:
    return Problem(
        hidden=leaf(setting.normal(1, rows, sizes.hidden_size)),
        weight=leaf(setting.normal(2, sizes.vocab_size, sizes.hidden_size, scale=0.02)),
        bias=leaf(setting.normal(3, sizes.vocab_size, scale=0.02)),
        targets=setting.integers(4, sizes.vocab_size, rows),
    )


def reference(problem: Problem) -> dict[str, Tensor]:
    """Loss and gradients in plain float32, some rows at a time."""
    hidden, weight, bias = (leaf(values.float()) for values in problem.inputs)
    rows = len(problem.targets)
    loss = torch.zeros((), device=hidden.device)
    for chunk, targets in zip(hidden.split(CHECKED_ROWS), problem.targets.split(CHECKED_ROWS)):
        logits = chunk @ weight.T + bias
        own = logits.gather(1, targets[:, None])[:, 0]
        part = (logits.logsumexp(dim=1) - own).sum() / rows
        part.backward()
        loss += part.detach()
    return dict(zip(RESULTS, (loss, hidden.grad, weight.grad, bias.grad)))


def plain_loss(hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(hidden, weight, bias), targets)


def liger_loss() -> Callable[..., Tensor]:
    try:
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss
    except ImportError:
        raise Unavailable("the package liger-kernel is not installed") from None
    fused = LigerFusedLinearCrossEntropyLoss()
    return lambda hidden, weight, bias, targets: fused(weight, hidden, targets, bias)


def cut_loss() -> Callable[..., Tensor]:
    """Exact: by default it leaves out small gradients, which at random weights are nearly all."""
    try:
        from cut_cross_entropy import linear_cross_entropy
    except ImportError:
        raise Unavailable("the package cut-cross-entropy is not installed") from None
    if "bias" not in inspect.signature(linear_cross_entropy).parameters:
        raise Unavailable("the installed cut-cross-entropy takes no bias")

    def loss(hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
        return linear_cross_entropy(hidden, weight, targets, bias=bias, filter_eps=None)

    return loss


def loss_function(setting: Setting, variant: str) -> tuple[Callable[..., Tensor], str | None]:
    """The variant's loss of hidden, weight, bias and targets, and what is to be noted about it."""
    if variant == "torch_compile":
        return setting.compile(plain_loss), None
    if variant == "liger":
        return liger_loss(), None
    if variant == "cut_cross_entropy":
        return cut_loss(), "filter_eps=None: without its gradient filter"
    return plain_loss, None


def work(setting: Setting, rows: int, variant: str) -> Work:
    loss_of, note = loss_function(setting, variant)
    given = problem(setting, SIZES[setting.scale], rows)

    def run() -> tuple[Tensor, ...]:
        loss = loss_of(*given.inputs, given.targets)
        return (loss.detach(), *torch.autograd.grad(loss, given.inputs))

    return Work(run, lambda: assert_all_close(reference(given), run(), setting.tolerance), note)


def peers(setting: Setting) -> list[Peer]:
    sizes = SIZES[setting.scale]
    return [
        Peer(
            op="cross_entropy",
            case=sizes.case(rows),
            variant=variant,
            dtype=setting.dtype_name,
            prepare=partial(work, setting, rows, variant),
            rank=0 if rows == sizes.rows[0] else 2,
            seconds=20.0 if variant == "torch_compile" else 5.0,
        )
        for rows in sizes.rows
        for variant in VARIANTS
    ]
