"""AdamW over all of BERT's parameters in float32, clipping by the global norm included."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from cases import cases, constant
from peer import Peer, Rank, Setting, Work, assert_close, gradient

LEARNING_RATE: float = constant("adamw", "learning_rate")
WEIGHT_DECAY: float = constant("adamw", "weight_decay")
BETAS: tuple[float, float] = tuple(constant("adamw", "betas"))
EPS: float = constant("adamw", "eps")
NORM_MAX: float = constant("adamw", "max_norm")
# A step is so much smaller than a parameter that float32 keeps three digits of it; weight decay is 1% of it.
TOLERANCE = 3e-3
VARIANTS = {"torch": {"fused": True}, "torch_foreach": {"foreach": True}}


@dataclass(frozen=True)
class Sizes:
    case: str
    layers: int
    hidden_size: int
    intermediate_size: int
    vocab_size: int
    positions: int = 512
    types: int = 2


SMALL = {
    "host": Sizes("tiny", 2, 128, 512, 8192),
    "self_test": Sizes("self_test", 1, 32, 64, 100),
}


def sizes_of(setting: Setting) -> Sizes:
    """On a GPU the model of the step."""
    if setting.scale in SMALL:
        return SMALL[setting.scale]
    names = ("layers", "hidden_size", "intermediate_size", "vocab_size")
    (case,) = cases("adamw", setting.scale)
    return Sizes(case.name, *(constant("step", name) for name in names))


def parameter_shapes(sizes: Sizes) -> list[tuple[int, ...]]:
    """Returns the shapes of BERT's encoder and masked-language-model head; its output matrix is the word embedding."""
    hidden, intermediate = sizes.hidden_size, sizes.intermediate_size
    norm = [(hidden,), (hidden,)]
    linear = [(hidden, hidden), (hidden,)]
    feed_forward = [(intermediate, hidden), (intermediate,), (hidden, intermediate), (hidden,)]
    embeddings = [(rows, hidden) for rows in (sizes.vocab_size, sizes.positions, sizes.types)] + norm
    layer = 4 * linear + norm + feed_forward + norm
    return embeddings + sizes.layers * layer + linear + norm + [(sizes.vocab_size,)]


def optimizer_for(parameters: Sequence[Tensor], **how: bool) -> torch.optim.AdamW:
    """Weight decay for matrices alone, not for biases and LayerNorm."""
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in parameters if p.dim() == 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=BETAS, eps=EPS, **how)


def clip(parameters: Sequence[Tensor]) -> None:
    torch.nn.utils.clip_grad_norm_(parameters, NORM_MAX)


def first_step(parameter: Tensor, gradient: Tensor, norm: float) -> Tensor:
    """Returns a parameter after the first step of AdamW, by the formula."""
    decay = WEIGHT_DECAY if parameter.dim() > 1 else 0.0
    gradient = gradient * min(1.0, NORM_MAX / (norm + 1e-6))
    # The bias corrections turn both first averages back into the gradient and its square.
    return parameter * (1 - LEARNING_RATE * decay) - LEARNING_RATE * gradient / (gradient.abs() + EPS)


def work(setting: Setting, variant: str) -> Work:
    shapes = parameter_shapes(sizes_of(setting))
    random = setting.generator(1)

    def values(shape: tuple[int, ...], scale: float) -> Tensor:
        return torch.randn(shape, generator=random, device=setting.device) * scale

    parameters = [values(shape, 1.0).requires_grad_() for shape in shapes]
    for parameter in parameters:
        parameter.grad = values(parameter.shape, 0.1)
    optimizer = optimizer_for(parameters, **VARIANTS[variant])

    def run() -> None:
        clip(parameters)
        optimizer.step()

    def check() -> None:
        """Checks how far the first and last tensors have moved: large and small, with decay and without."""
        samples = [i for i in range(len(shapes)) if i < 5 or i >= len(shapes) - 5]
        norm = torch.stack([gradient(p).norm() for p in parameters]).norm().item()
        before = {i: parameters[i].detach().clone() for i in samples}
        expected = {i: first_step(before[i], gradient(parameters[i]), norm) for i in samples}
        run()
        # Adam's first step is the same however gradients are scaled: clipping shows in them alone.
        clipped = torch.stack([gradient(p).norm() for p in parameters]).norm()
        assert_close("the clipped norm", clipped, torch.tensor(NORM_MAX), TOLERANCE)
        for i in samples:
            moved, formula = parameters[i].detach() - before[i], expected[i] - before[i]
            assert_close(f"the step of parameter {i}", moved, formula, TOLERANCE)

    return Work(run, check)


def peers(setting: Setting) -> list[Peer]:
    case = sizes_of(setting).case
    return [
        Peer("adamw", case, variant, "f32", partial(work, setting, variant), rank)
        for variant, rank in zip(VARIANTS, (Rank.FIRST, Rank.SECOND))
    ]
