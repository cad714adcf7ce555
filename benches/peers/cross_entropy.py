"""The output layer and its mean cross-entropy, forward and backward to hidden states, weight and bias."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version

import torch
import torch.nn.functional as F
from torch import Tensor

from cases import Case
from peer import Peer, Rank, Setting, Unavailable, Work, assert_all_close, leaf

RESULTS = ("loss", "d_hidden", "d_weight", "d_bias")
# With the rank of the main case, and the seconds that it needs.
VARIANTS = {
    "torch": (Rank.FIRST, 2.0),
    "liger": (Rank.SECOND, 5.0),
    "cut_cross_entropy": (Rank.SECOND, 5.0),
    "torch_compile": (Rank.COMPILED, 10.0),
}
# Rows of float32 logits that the check holds at once.
CHECKED_ROWS = 4096


SELF_TEST = {"M64": {"rows": 64, "hidden_size": 32, "vocab_size": 100}}


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


def problem(setting: Setting, case: Case) -> Problem:
    rows, hidden_size, vocab_size = (case.sizes[name] for name in ("rows", "hidden_size", "vocab_size"))
    return Problem(
        hidden=leaf(setting.normal(1, rows, hidden_size)),
        weight=leaf(setting.normal(2, vocab_size, hidden_size, scale=0.02)),
        bias=leaf(setting.normal(3, vocab_size, scale=0.02)),
        targets=setting.integers(4, vocab_size, rows),
    )


def reference(problem: Problem, with_bias: bool) -> dict[str, Tensor]:
    """Loss and gradients in plain float32, some rows at a time."""
    hidden, weight, bias = (leaf(values.float()) for values in problem.inputs)
    rows = len(problem.targets)
    loss = torch.zeros((), device=hidden.device)
    for chunk, targets in zip(hidden.split(CHECKED_ROWS), problem.targets.split(CHECKED_ROWS)):
        logits = chunk @ weight.T + (bias if with_bias else 0)
        own = logits.gather(1, targets[:, None])[:, 0]
        part = (logits.logsumexp(dim=1) - own).sum() / rows
        part.backward()
        loss += part.detach()
    results = dict(zip(RESULTS, (loss, hidden.grad, weight.grad, bias.grad)))
    return {what: values for what, values in results.items() if values is not None}


@dataclass(frozen=True)
class Formulation:
    """A peer's function."""

    loss: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    """The loss by hidden, weight, bias and targets."""
    note: str | None = None
    with_bias: bool = True
    """The bias is added, and has a gradient."""


def plain_loss(hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(hidden, weight, bias), targets)


def liger() -> Formulation:
    """From the operation itself: the package's modules want more of transformers than is needed here."""
    try:
        from liger_kernel.ops.fused_linear_cross_entropy import LigerFusedLinearCrossEntropyFunction
    except ImportError as error:
        raise Unavailable(f"the package liger-kernel cannot be used: {error}") from None

    def loss(hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
        return LigerFusedLinearCrossEntropyFunction.apply(hidden, weight, targets, bias)[0]

    return Formulation(loss, f"liger-kernel {version('liger-kernel')}")


def cut_cross_entropy() -> Formulation:
    """Exact: by default it leaves out small gradients, which at random weights are nearly all."""
    try:
        from cut_cross_entropy import linear_cross_entropy
    except ImportError as error:
        raise Unavailable(f"the package cut-cross-entropy cannot be used: {error}") from None
    with_bias = "bias" in inspect.signature(linear_cross_entropy).parameters

    def loss(hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
        more = {"bias": bias} if with_bias else {}
        return linear_cross_entropy(hidden, weight, targets, filter_eps=None, **more)

    name = f"cut-cross-entropy {version('cut-cross-entropy')}, filter_eps=None: without its gradient filter"
    return Formulation(loss, name if with_bias else f"{name}; less work: it takes no bias", with_bias)


def formulate(setting: Setting, variant: str) -> Formulation:
    if variant == "torch_compile":
        return Formulation(setting.compile(plain_loss))
    if variant == "liger":
        return liger()
    if variant == "cut_cross_entropy":
        return cut_cross_entropy()
    return Formulation(plain_loss)


def work(setting: Setting, case: Case, variant: str) -> Work:
    form = formulate(setting, variant)
    given = problem(setting, case)
    differentiated = given.inputs if form.with_bias else given.inputs[:2]

    def run() -> tuple[Tensor, ...]:
        loss = form.loss(*given.inputs, given.targets)
        return (loss.detach(), *torch.autograd.grad(loss, differentiated))

    def check() -> None:
        assert_all_close(reference(given, form.with_bias), run(), setting.tolerance)

    return Work(run, check, form.note)


def peers(setting: Setting) -> list[Peer]:
    return [
        Peer(
            op="cross_entropy",
            case=case.name,
            variant=variant,
            dtype=setting.dtype_name,
            prepare=partial(work, setting, case, variant),
            rank=rank if case.headline else Rank.CASES,
            seconds=seconds,
        )
        for case in setting.cases("cross_entropy", SELF_TEST)
        for variant, (rank, seconds) in VARIANTS.items()
    ]
