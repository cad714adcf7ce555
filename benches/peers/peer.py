"""Common parts of all peers: how a case is described, prepared and checked, and where its data comes from."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor

from cases import Case, cases

# Tolerated norm of an error, relative to the result's. 16-bit results carry rounding errors of up to a few
# percent (sums over many rows most of all, and the softmax of 30,522 logits); a bench of something else is
# wrong by much of its norm. Finer differences show in the self-test, which computes the same in float32.
TOLERANCES = {torch.float32: 1e-3, torch.bfloat16: 1e-1}


class Rank(IntEnum):
    """Order of measurement: each operation's main case before any other, by what is likely fastest."""

    FIRST = 0
    """The likely fastest variant of a main case that need not be compiled for long."""
    SECOND = 1
    COMPILED = 2
    """`torch.compile` of a main case."""
    LONG = 3
    """Variants that compile for most of a minute."""
    OTHER = 4
    """Other variants of main cases."""
    CASES = 5
    """The likely fastest variants of other cases."""
    REST = 6
    LAST = 7
    """Variants that nobody would pick."""


class CheckFailed(Exception):
    """A peer computed something else than the plain float32 formula."""


class Unavailable(Exception):
    """The installed software or this device has no such peer."""


@dataclass(frozen=True)
class Setting:
    """Device, type and sizes of all measurements."""

    device: torch.device
    dtype: torch.dtype
    scale: str
    """`gpu`, `host` or `self_test`: which cases are meant."""
    compiler: str = "inductor"
    """The backend of `torch.compile`."""

    @property
    def dtype_name(self) -> str:
        return {torch.float32: "f32", torch.bfloat16: "bf16"}[self.dtype]

    @property
    def tolerance(self) -> float:
        return TOLERANCES[self.dtype]

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def compile(
        self, function: Callable[..., Any], repeats_backward: bool = True, whole: bool = True
    ) -> Callable[..., Any]:
        """`torch.compile` for static shapes, with nothing kept of what was compiled before.

        Without the reset, case after case would count as recompilations of one function, and beyond a limit
        PyTorch silently runs them uncompiled. A backward that is run repeatedly on one graph must not reuse
        the buffers that the forward saved.
        """
        torch._dynamo.reset()
        config = torch._functorch.config
        if hasattr(config, "donated_buffer"):
            config.donated_buffer = not repeats_backward
        compiled: Callable[..., Any] = torch.compile(
            function, dynamic=False, fullgraph=whole, backend=self.compiler
        )
        return compiled

    def cases(self, op: str, self_test: dict[str, dict[str, Any]]) -> list[Case]:
        """Those of the benches' table; in the self-test the given ones, sizes by name."""
        if self.scale == "self_test":
            return [Case(name, True, sizes) for name, sizes in self_test.items()]
        return cases(op, self.scale)

    def generator(self, seed: int) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(seed)

    def normal(self, seed: int, *shape: int, scale: float = 1.0) -> Tensor:
        """Normally distributed values, the same for the same seed and device."""
        values = torch.randn(*shape, generator=self.generator(seed), device=self.device)
        return (values * scale).to(self.dtype)

    def integers(self, seed: int, high: int, *shape: int) -> Tensor:
        return torch.randint(high, shape, generator=self.generator(seed), device=self.device)


@dataclass(frozen=True)
class Work:
    """A case that is ready to run."""

    run: Callable[[], Any]
    """The timed part."""
    check: Callable[[], None]
    """Compares what the timed part computes with plain float32; raises [`CheckFailed`]."""
    note: str | None = None
    context: Callable[[], AbstractContextManager[Any]] = nullcontext
    """Surrounds check and measurement, so that entering it is not timed."""
    shares: int = 1
    """Number of timed parts that make the whole case."""
    on_processor: bool = False
    """Runs on the processor, whatever the device."""


@dataclass(frozen=True)
class Peer:
    """One variant of one case of one operation: one figure."""

    op: str
    case: str
    variant: str
    dtype: str
    prepare: Callable[[], Work]
    rank: Rank
    seconds: float = 1.0
    """With less time left than this, it is not begun."""

    @property
    def name(self) -> dict[str, str]:
        return {"op": self.op, "case": self.case, "variant": self.variant}


def gradient(parameter: Tensor) -> Tensor:
    """Returns the gradient that the backward has left there."""
    if parameter.grad is None:
        raise CheckFailed(f"a parameter of shape {list(parameter.shape)} has no gradient")
    return parameter.grad


def leaf(values: Tensor) -> Tensor:
    """A tensor that gradients are taken with respect to."""
    return values.detach().requires_grad_()


def assert_close(what: str, actual: Tensor, expected: Tensor, tolerance: float) -> None:
    """Raises [`CheckFailed`] unless the difference is a small part of what is expected."""
    if actual.shape != expected.shape:
        raise CheckFailed(f"{what} has shape {list(actual.shape)}; it should be {list(expected.shape)}")
    expected = expected.detach().float()
    difference = (actual.detach().float() - expected).norm().item()
    norm = expected.norm().item()
    if not difference <= tolerance * norm:
        raise CheckFailed(
            f"{what} differs from plain float32 by {difference:.3g} where its norm is {norm:.3g}; "
            f"it should be within {tolerance:g} of the norm"
        )


def assert_all_close(expected: dict[str, Tensor], actual: tuple[Tensor, ...], tolerance: float) -> None:
    """[`assert_close`] for several results, in the order of their names."""
    if len(actual) != len(expected):
        raise CheckFailed(f"there are {len(actual)} results; there should be {len(expected)}")
    for (what, one), other in zip(expected.items(), actual):
        assert_close(what, other, one, tolerance)
