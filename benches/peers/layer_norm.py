"""The end of a transformer block: `LayerNorm(residual + Dropout(input))`, forward and backward."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor

from cases import Case, constant
from peer import CheckFailed, Peer, Rank, Setting, Work, assert_all_close, leaf

DROPOUT: float = constant("layer_norm_forward", "dropout")
EPS: float = constant("layer_norm_forward", "eps")
RESULTS = ("output", "d_input", "d_residual", "d_gamma", "d_beta")
VARIANTS = (("torch", Rank.FIRST, 1.0), ("torch_compile", Rank.COMPILED, 8.0))
# Standard deviations that the share of dropped values may be off.
DEVIATIONS_MAX = 6


SELF_TEST = {"R64_C32": {"rows": 64, "columns": 32}}


def block_end(input: Tensor, residual: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    summed = residual + F.dropout(input, DROPOUT, training=True)
    return F.layer_norm(summed, gamma.shape, gamma, beta, EPS)


def reference(inputs: tuple[Tensor, ...], kept: Tensor, d_output: Tensor) -> dict[str, Tensor]:
    """Results in plain float32 where `kept` tells which values dropout keeps."""
    leaves = tuple(leaf(values.float()) for values in inputs)
    input, residual, gamma, beta = leaves
    summed = residual + input * kept / (1 - DROPOUT)
    centered = summed - summed.mean(dim=1, keepdim=True)
    variance = centered.square().mean(dim=1, keepdim=True)
    output = centered / (variance + EPS).sqrt() * gamma + beta
    gradients = torch.autograd.grad(output, leaves, d_output.float())
    return dict(zip(RESULTS, (output.detach(), *gradients)))


def check(
    setting: Setting, function: Callable[..., Tensor], inputs: tuple[Tensor, ...], d_output: Tensor
) -> None:
    """Reads from the gradient which values were dropped, so that any generator will do."""
    output = function(*inputs)
    results = (output.detach(), *torch.autograd.grad(output, inputs, d_output))
    kept = results[1] != 0
    deviation = (DROPOUT * (1 - DROPOUT) / kept.numel()) ** 0.5
    share = 1 - kept.float().mean().item()
    if abs(share - DROPOUT) > DEVIATIONS_MAX * deviation:
        raise CheckFailed(f"{share:.4f} of the values were dropped; it should be {DROPOUT}")
    assert_all_close(reference(inputs, kept, d_output), results, setting.tolerance)


def work(setting: Setting, case: Case, direction: str, variant: str) -> Work:
    shape = (case.sizes["rows"], case.sizes["columns"])
    inputs = (
        leaf(setting.normal(1, *shape)),
        leaf(setting.normal(2, *shape)),
        leaf(1 + setting.normal(3, shape[1], scale=0.1)),
        leaf(setting.normal(4, shape[1], scale=0.1)),
    )
    d_output = setting.normal(5, *shape)
    function = setting.compile(block_end) if variant == "torch_compile" else block_end
    checked = partial(check, setting, function, inputs, d_output)
    if direction == "forward":
        return Work(partial(function, *inputs), checked)
    output = cache(partial(function, *inputs))

    def backward() -> tuple[Tensor, ...]:
        return torch.autograd.grad(output(), inputs, d_output, retain_graph=True)

    return Work(backward, checked)


def peers(setting: Setting) -> list[Peer]:
    return [
        Peer(
            op=f"layer_norm_{direction}",
            case=case.name,
            variant=variant,
            dtype=setting.dtype_name,
            prepare=partial(work, setting, case, direction, variant),
            rank=rank,
            seconds=seconds,
        )
        for direction in ("forward", "backward")
        for case in setting.cases(f"layer_norm_{direction}", SELF_TEST)
        for variant, rank, seconds in VARIANTS
    ]
