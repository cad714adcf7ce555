"""Attention, forward and backward: each backend of PyTorch's SDPA, FlexAttention and packed variants.

`attention` is full bidirectional attention within each sentence. `two_stream` is the enhanced decoder's:
queries from another stream, and a random mask for each row that all heads share.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from operator import methodcaller
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cases import in_turn
from peer import Peer, Rank, Setting, Unavailable, Work, assert_all_close, leaf

# Enough for every mixed length once; the check stops earlier at long sentences.
CHECKED_SENTENCES_MAX = 16
CHECKED_SCORES_MAX = 1 << 26

# The likely fastest first. Flash attention takes no mask.
FULL = ("sdpa_cudnn", "sdpa_flash", "sdpa_efficient", "sdpa_math")
MIXED = (
    "varlen_attn",
    "sdpa_nested",
    "flash_attn_varlen",
    "sdpa_cudnn",
    "sdpa_efficient",
    "flex_attention",
    "sdpa_math",
)
TWO_STREAM = ("sdpa_cudnn", "sdpa_efficient", "flex_attention", "sdpa_math")
RESULTS = ("output", "d_query", "d_key", "d_value")
OPS = ("attention_forward", "attention_backward", "two_stream_forward", "two_stream_backward")


SELF_TEST = {
    "L16_d32": {"lengths": [16], "tokens": 64, "heads": 2, "head_dim": 32},
    "mixed_d64": {"lengths": [16, 24, 32], "tokens": 64, "heads": 1, "head_dim": 64},
}


@dataclass(frozen=True)
class Problem:
    """A packed batch: `query`, `key`, `value`, `d_output` are `[T, A, d]`."""

    lengths: tuple[int, ...]
    query: Tensor
    key: Tensor
    value: Tensor
    d_output: Tensor
    visible: Tensor | None
    """`[B, longest, longest]`, of the keys that each row sees; None where it sees the whole sentence."""

    @property
    def operands(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.query, self.key, self.value, self.d_output

    @property
    def mixed(self) -> bool:
        return len(set(self.lengths)) > 1

    def offsets(self) -> Tensor:
        """`[B + 1]`, the row at which each sentence begins."""
        lengths = torch.tensor((0, *self.lengths), device=self.query.device)
        return lengths.cumsum(0).to(torch.int32)

    def rows(self) -> tuple[Tensor, Tensor]:
        """Sentence and position of each of the `[T]` rows."""
        lengths = torch.tensor(self.lengths, device=self.query.device)
        sentence = torch.arange(len(self.lengths), device=lengths.device).repeat_interleave(
            lengths, output_size=sum(self.lengths)
        )
        position = torch.arange(sum(self.lengths), device=lengths.device) - self.offsets()[sentence].long()
        return sentence, position


@dataclass(frozen=True)
class Formulation:
    """A problem in the layout that a peer wants."""

    inputs: tuple[Tensor, ...]
    """Query, key and value, which gradients are taken of."""
    d_output: Tensor
    attend: Callable[..., Tensor]
    packed: Callable[[Tensor], Tensor]
    """Brings an output or a gradient back to `[T, A, d]`."""
    context: Callable[[], AbstractContextManager[Any]] = nullcontext
    note: str | None = None


def position_specific_masks(setting: Setting, sentences: int, length: int) -> Tensor:
    """`[B, L, L]`, true where row i sees token j: a random half and position 0, but never itself."""
    shape = (sentences, length, length)
    visible = torch.rand(shape, generator=setting.generator(5), device=setting.device) < 0.5
    visible[:, 1:, 0] = True
    visible.diagonal(dim1=1, dim2=2).fill_(False)
    # Row 0 has no position 0 to fall back on: its softmax needs some key.
    visible[:, 0, 1:2] |= ~visible[:, 0].any(dim=1, keepdim=True)
    return visible


def problem(
    setting: Setting, lengths: tuple[int, ...], heads: int, head_dim: int, two_stream: bool
) -> Problem:
    shape = (sum(lengths), heads, head_dim)
    query, key, value, d_output = (setting.normal(seed, *shape) for seed in range(1, 5))
    visible = position_specific_masks(setting, len(lengths), max(lengths)) if two_stream else None
    return Problem(lengths, query, key, value, d_output, visible)


def reference(problem: Problem, sentences: int) -> dict[str, Tensor]:
    """Results for the first sentences, in plain float32."""
    parts: list[tuple[Tensor, ...]] = []
    begin = 0
    for sentence, length in enumerate(problem.lengths[:sentences]):
        rows = slice(begin, begin + length)
        query, key, value, d_output = (operand[rows].float().transpose(0, 1) for operand in problem.operands)
        inputs = tuple(leaf(values) for values in (query, key, value))
        scores = inputs[0] @ inputs[1].transpose(1, 2) * query.shape[-1] ** -0.5
        if problem.visible is not None:
            visible = problem.visible[sentence, :length, :length]
            scores = scores.masked_fill(~visible, float("-inf"))
        output = scores.softmax(dim=-1) @ inputs[2]
        results = (output, *torch.autograd.grad(output, inputs, d_output))
        parts.append(tuple(result.detach().transpose(0, 1) for result in results))
        begin += length
    return {what: torch.cat(part) for what, part in zip(RESULTS, zip(*parts))}


def checked_sentences(problem: Problem) -> int:
    """Returns the number of sentences that the reference can hold: one at least."""
    scores = problem.query.shape[1] * max(problem.lengths) ** 2
    return max(1, min(CHECKED_SENTENCES_MAX, CHECKED_SCORES_MAX // scores, len(problem.lengths)))


def check(setting: Setting, problem: Problem, formulation: Formulation, backward: bool) -> None:
    """Runs it once and compares; the gradients only where they are what is measured, for some have none."""
    sentences = checked_sentences(problem)
    output = formulation.attend(*formulation.inputs)
    results: tuple[Tensor, ...] = (output,)
    if backward:
        results += torch.autograd.grad(output, formulation.inputs, formulation.d_output)
    expected = reference(problem, sentences)
    expected = {what: expected[what] for what in RESULTS[: len(results)]}
    rows = sum(problem.lengths[:sentences])
    actual = tuple(formulation.packed(result.detach())[:rows] for result in results)
    assert_all_close(expected, actual, setting.tolerance)


def sdpa_backend(variant: str) -> Callable[[], AbstractContextManager[Any]]:
    """Returns a context in which SDPA may use that one backend only."""
    try:
        from torch.nn.attention import SDPBackend, sdpa_kernel
    except ImportError:
        names = {"sdpa_flash": "flash", "sdpa_efficient": "mem_efficient", "sdpa_math": "math"}
        if variant not in names:
            raise Unavailable(f"PyTorch {torch.__version__} cannot be made to use {variant}") from None
        flags = {f"enable_{name}": other == variant for other, name in names.items()}
        return partial(torch.backends.cuda.sdp_kernel, **flags)
    names = {
        "sdpa_flash": "FLASH_ATTENTION",
        "sdpa_cudnn": "CUDNN_ATTENTION",
        "sdpa_efficient": "EFFICIENT_ATTENTION",
        "sdpa_math": "MATH",
    }
    backend = getattr(SDPBackend, names[variant], None)
    if backend is None:
        raise Unavailable(f"PyTorch {torch.__version__} cannot be made to use {variant}")
    return partial(sdpa_kernel, backend)


def padded(problem: Problem, values: Tensor) -> Tensor:
    """`[T, A, d]` as `[B, A, longest, d]`, zeros beyond a sentence's end."""
    sentence, position = problem.rows()
    shape = (len(problem.lengths), max(problem.lengths), *values.shape[1:])
    result = torch.zeros(shape, dtype=values.dtype, device=values.device)
    result[sentence, position] = values
    return result.transpose(1, 2).contiguous()


def dense_mask(problem: Problem) -> Tensor | None:
    """Returns the addends of SDPA's scores, broadcast over heads; None where there is nothing to hide.

    SDPA would make it of a boolean mask in every call.
    """
    visible = visible_keys(problem)
    if visible is None:
        return None
    mask = torch.zeros(visible.shape, dtype=problem.query.dtype, device=visible.device)
    return mask.masked_fill(~visible, float("-inf"))


def visible_keys(problem: Problem) -> Tensor | None:
    """The keys that each row of a padded batch sees."""
    lengths = torch.tensor(problem.lengths, device=problem.query.device)
    exists = torch.arange(max(problem.lengths), device=lengths.device) < lengths[:, None]
    if problem.visible is None:
        return exists[:, None, None, :] if problem.mixed else None
    # Rows beyond the end keep position 0, so that their softmax is a number.
    return (problem.visible & exists[:, None, :])[:, None]


def sdpa(setting: Setting, problem: Problem, variant: str) -> Formulation:
    """SDPA on a padded batch."""
    sentence, position = problem.rows()
    mask = dense_mask(problem)
    query, key, value, d_output = (padded(problem, operand) for operand in problem.operands)
    return Formulation(
        inputs=tuple(leaf(values) for values in (query, key, value)),
        d_output=d_output,
        attend=partial(F.scaled_dot_product_attention, attn_mask=mask),
        packed=lambda values: values.transpose(1, 2)[sentence, position],
        context=sdpa_backend(variant),
        note=sdpa_note(problem, variant),
    )


def sdpa_note(problem: Problem, variant: str) -> str | None:
    parts = [f"cuDNN {torch.backends.cudnn.version()}"] if variant == "sdpa_cudnn" else []
    if problem.mixed:
        parts.append("padded batch")
    if problem.mixed or problem.visible is not None:
        parts.append(f"a mask to add in {problem.query.dtype}, made beforehand".replace("torch.", ""))
    return ", ".join(parts) or None


def flex_attention(setting: Setting, problem: Problem) -> Formulation:
    """FlexAttention: a batch where all sentences are equally long, else one packed sequence of documents."""
    query, key, value, d_output = (
        operand.transpose(0, 1)[None] if problem.mixed else padded(problem, operand)
        for operand in problem.operands
    )
    batch, _, length, _ = query.shape
    sentence, position = problem.rows()
    attend, note = compiled_flex_attention(setting, flex_mask(problem), batch, length)
    return Formulation(
        inputs=tuple(leaf(values.contiguous()) for values in (query, key, value)),
        d_output=d_output.contiguous(),
        attend=attend,
        packed=lambda values: (
            values[0].transpose(0, 1) if problem.mixed else values.transpose(1, 2)[sentence, position]
        ),
        note=note,
    )


def flex_mask(problem: Problem) -> Callable[..., Tensor]:
    """Returns whether a query sees a key: of a packed batch by their rows, else by sentence and positions."""
    sentence, position = problem.rows()

    def in_document(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return sentence[q] == sentence[k]

    if problem.visible is None:
        return in_document
    visible = problem.visible

    def in_visible_document(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (sentence[q] == sentence[k]) & visible[sentence[q], position[q], position[k]]

    def in_visible(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return visible[b, q, k]

    return in_visible_document if problem.mixed else in_visible


def compiled_flex_attention(
    setting: Setting, allowed: Callable[..., Tensor], batch: int, length: int
) -> tuple[Callable[..., Tensor], str]:
    """The compiled function with its block mask, and a note of what making such a mask costs."""
    try:
        from torch.nn.attention import flex_attention as flex
    except ImportError:
        raise Unavailable(f"PyTorch {torch.__version__} has no FlexAttention") from None
    if setting.device.type == "cpu":
        raise Unavailable("FlexAttention has no backward on a processor")

    def create() -> object:
        return flex.create_block_mask(allowed, batch, None, length, length, device=setting.device.type)

    create()
    setting.synchronize()
    begin = time.perf_counter()
    block_mask = create()
    setting.synchronize()
    milliseconds = 1e3 * (time.perf_counter() - begin)
    attend = partial(setting.compile(flex.flex_attention), block_mask=block_mask)
    return attend, f"the block mask took another {milliseconds:.2f} ms"


def nested(setting: Setting, problem: Problem) -> Formulation:
    """SDPA on jagged nested tensors: the backend is PyTorch's choice."""
    make = getattr(torch.nested, "nested_tensor_from_jagged", None)
    if make is None:
        raise Unavailable(f"PyTorch {torch.__version__} has no torch.nested.nested_tensor_from_jagged")
    # Known beforehand, or every call would wait for the device to tell them.
    known = {
        "offsets": problem.offsets().long(),
        "min_seqlen": min(problem.lengths),
        "max_seqlen": max(problem.lengths),
    }

    def attend(*nested: Tensor) -> Tensor:
        query, key, value = (values.transpose(1, 2) for values in nested)
        return F.scaled_dot_product_attention(query, key, value).transpose(1, 2)

    # Operations on several nested tensors want the very same offsets.
    query, key, value, d_output = (make(leaf(operand), **known) for operand in problem.operands)
    packed = methodcaller("values")
    return Formulation((query, key, value), d_output.detach(), attend, packed)


def varlen_attn(setting: Setting, problem: Problem) -> Formulation:
    """PyTorch's own attention on the packed rows."""
    try:
        from torch.nn.attention.varlen import varlen_attn as attention
    except ImportError:
        raise Unavailable(f"PyTorch {torch.__version__} has no torch.nn.attention.varlen") from None
    if setting.device.type == "cpu":
        raise Unavailable("varlen_attn is for GPUs")
    offsets, longest = problem.offsets(), max(problem.lengths)

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output = attention(query, key, value, offsets, offsets, longest, longest)
        # A pair where more than the output is asked for.
        return output if isinstance(output, Tensor) else output[0]

    inputs = tuple(leaf(values) for values in (problem.query, problem.key, problem.value))
    return Formulation(inputs, problem.d_output, attend, packed=lambda values: values)


def flash_attn_varlen(setting: Setting, problem: Problem) -> Formulation:
    """The flash-attn package on the packed rows."""
    try:
        from flash_attn import flash_attn_varlen_func
    except ImportError:
        raise Unavailable("the package flash-attn is not installed") from None
    offsets, longest = problem.offsets(), max(problem.lengths)

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return flash_attn_varlen_func(query, key, value, offsets, offsets, longest, longest)

    inputs = tuple(leaf(values) for values in (problem.query, problem.key, problem.value))
    return Formulation(inputs, problem.d_output, attend, packed=lambda values: values)


def formulate(setting: Setting, problem: Problem, variant: str) -> Formulation:
    if variant == "flex_attention":
        return flex_attention(setting, problem)
    if variant == "sdpa_nested":
        return nested(setting, problem)
    if variant == "varlen_attn":
        return varlen_attn(setting, problem)
    if variant == "flash_attn_varlen":
        return flash_attn_varlen(setting, problem)
    return sdpa(setting, problem, variant)


@dataclass(frozen=True)
class Case:
    """A packed batch, and what to do with it."""

    op: str
    name: str
    headline: bool
    lengths: tuple[int, ...]
    heads: int
    head_dim: int

    @property
    def mixed(self) -> bool:
        return len(set(self.lengths)) > 1

    @property
    def stream(self) -> str:
        return self.op.rsplit("_", 1)[0]


def cases(setting: Setting, op: str) -> list[Case]:
    """Every length and head size, and a batch of mixed lengths; the heads of BERT come first."""
    result = [
        Case(
            op,
            case.name,
            case.headline,
            in_turn(case.sizes["lengths"], case.sizes["tokens"]),
            case.sizes["heads"],
            case.sizes["head_dim"],
        )
        for case in setting.cases(op, SELF_TEST)
    ]
    return sorted(result, key=lambda case: (not case.headline, case.head_dim != 64))


def variants(case: Case) -> tuple[str, ...]:
    if case.stream == "two_stream":
        return TWO_STREAM
    return MIXED if case.mixed else FULL


def rank(case: Case, variant: str) -> Rank:
    index = variants(case).index(variant)
    if variant == "sdpa_math":
        return Rank.LAST
    if variant == "flex_attention":
        # With masks for each row it has no block to leave out: one case shows what that costs.
        return Rank.LONG if case.stream == "two_stream" and case.name == "L512_d64" else Rank.LAST
    if case.headline:
        return (Rank.FIRST, Rank.SECOND)[index] if index < 2 else Rank.OTHER
    return Rank.CASES if index == 0 and case.head_dim == 64 else Rank.REST


def work(setting: Setting, case: Case, variant: str) -> Work:
    """Forward alone, or backward alone on the graph of one forward."""
    two_stream = case.stream == "two_stream"
    given = problem(setting, case.lengths, case.heads, case.head_dim, two_stream)
    form = formulate(setting, given, variant)
    backward_alone = case.op.endswith("_backward")
    checked = partial(check, setting, given, form, backward_alone)

    def forward() -> Tensor:
        return form.attend(*form.inputs)

    if not backward_alone:
        return Work(forward, checked, form.note, form.context)
    # Made at the first run, within the backend's context.
    output = cache(forward)

    def backward() -> tuple[Tensor, ...]:
        return torch.autograd.grad(output(), form.inputs, form.d_output, retain_graph=True)

    return Work(backward, checked, form.note, form.context)


def peers(setting: Setting) -> list[Peer]:
    """Every variant of every case, forward and backward."""
    return [
        Peer(
            op=case.op,
            case=case.name,
            variant=variant,
            dtype=setting.dtype_name,
            prepare=partial(work, setting, case, variant),
            rank=rank(case, variant),
            # Compiling takes much longer than measuring.
            seconds=15.0 if variant == "flex_attention" else 1.0,
        )
        for same_size in zip(*(cases(setting, op) for op in OPS))
        for case in same_size
        for variant in variants(case)
    ]
