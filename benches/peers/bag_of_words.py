"""The bag-of-words head of DupMAE: each word's largest logit among a sentence's tokens must predict its words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from cases import Case
from peer import Peer, Rank, Setting, Work, assert_all_close, gradient, leaf

RESULTS = ("loss", "d_hidden", "d_weight", "d_bias")
VARIANTS = ("torch", "torch_compile")


SELF_TEST = {"B3_L16": {"sentences": 3, "length": 16, "hidden_size": 32, "vocab_size": 100}}


@dataclass(frozen=True)
class Problem:
    hidden: Tensor
    """`[B, L, H]`"""
    weight: Tensor
    """`[V, H]`"""
    bias: Tensor
    """`[V]`"""
    bags: Tensor
    """`[B, V]`: the weight of each word"""

    @property
    def inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.hidden, self.weight, self.bias


def problem(setting: Setting, case: Case) -> Problem:
    sentences, length, hidden_size, vocab_size = (
        case.sizes[name] for name in ("sentences", "length", "hidden_size", "vocab_size")
    )
    ids = setting.integers(4, vocab_size, sentences * length).view(sentences, length)
    bags = torch.zeros(sentences, vocab_size, device=ids.device)
    bags.scatter_(1, ids, 1 / length)
    return Problem(
        hidden=leaf(setting.normal(1, sentences, length, hidden_size)),
        weight=leaf(setting.normal(2, vocab_size, hidden_size, scale=0.02)),
        bias=leaf(setting.normal(3, vocab_size, scale=0.02)),
        bags=bags,
    )


def exact(given: Problem) -> Problem:
    """The same with operands whose logits are whole multiples of 1/32 that 16 bits hold exactly.

    Else which token has a word's maximum would depend on how often a logit is rounded.
    """
    return Problem(
        hidden=leaf(given.hidden.sign()),
        weight=leaf(given.weight.sign() / 32),
        bias=leaf((given.bias * 32).round() / 32),
        bags=given.bags,
    )


def plain_loss(hidden: Tensor, weight: Tensor, bias: Tensor, bags: Tensor) -> Tensor:
    maxima = F.linear(hidden, weight, bias).amax(dim=1).float()
    return -(bags * F.log_softmax(maxima, dim=-1)).sum(dim=1).mean()


def loss_and_gradients(loss_of: Callable[..., Tensor], given: Problem) -> tuple[Tensor, ...]:
    loss = loss_of(*given.inputs, given.bags)
    return (loss.detach(), *torch.autograd.grad(loss, given.inputs))


def reference(given: Problem) -> dict[str, Tensor]:
    """Loss and gradients in plain float32, a sentence at a time."""
    hidden, weight, bias = (leaf(values.float()) for values in given.inputs)
    loss = torch.zeros((), device=hidden.device)
    for sentence, bag in zip(hidden, given.bags):
        maxima = (sentence @ weight.T + bias).amax(dim=0)
        part = -(bag * F.log_softmax(maxima, dim=-1)).sum() / len(given.bags)
        part.backward()
        loss += part.detach()
    return dict(zip(RESULTS, (loss, *map(gradient, (hidden, weight, bias)))))


def work(setting: Setting, case: Case, variant: str) -> Work:
    loss_of = setting.compile(plain_loss) if variant == "torch_compile" else plain_loss
    given = problem(setting, case)

    def run() -> tuple[Tensor, ...]:
        return loss_and_gradients(loss_of, given)

    def check() -> None:
        checked = exact(given)
        assert_all_close(reference(checked), loss_and_gradients(loss_of, checked), setting.tolerance)

    return Work(run, check)


def peers(setting: Setting) -> list[Peer]:
    cases = setting.cases("bag_of_words", SELF_TEST)
    return [
        Peer(
            op="bag_of_words",
            case=case.name,
            variant=variant,
            dtype=setting.dtype_name,
            prepare=partial(work, setting, case, variant),
            rank=Rank.OTHER if case is cases[0] else Rank.CASES,
            seconds=15.0 if variant == "torch_compile" else 3.0,
        )
        for case in cases
        for variant in VARIANTS
    ]
