"""The gradient of the word embedding: rows of `d_output` summed by token id."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from peer import Peer, Rank, Setting, Work, assert_close, leaf

# Of the encoder's input, so many tokens share this one id: the hard case of the sum.
MASK_ID = 4
MASKED_SHARE = 0.15


@dataclass(frozen=True)
class Sizes:
    tokens: int
    hidden_size: int
    vocab_size: int


SIZES = {
    "gpu": Sizes(32768, 768, 30522),
    "cpu": Sizes(1024, 128, 8192),
    "self_test": Sizes(64, 32, 100),
}


def token_ids(setting: Setting, tokens: int, vocab_size: int) -> Tensor:
    """`[T]`, frequent as the words of a language are: the r-th 1/r as much as the first; and [MASK]."""
    frequencies = 1.0 / torch.arange(1, vocab_size + 1, device=setting.device)
    ids = torch.multinomial(frequencies, tokens, replacement=True, generator=setting.generator(1))
    masked = torch.rand(tokens, generator=setting.generator(2), device=setting.device) < MASKED_SHARE
    return ids.masked_fill(masked, MASK_ID)


def work(setting: Setting) -> Work:
    sizes = SIZES[setting.scale]
    ids = token_ids(setting, sizes.tokens, sizes.vocab_size)
    weight = leaf(setting.normal(3, sizes.vocab_size, sizes.hidden_size))
    d_output = setting.normal(4, sizes.tokens, sizes.hidden_size)
    output = F.embedding(ids, weight)

    def backward() -> Tensor:
        return torch.autograd.grad(output, weight, d_output, retain_graph=True)[0]

    def check() -> None:
        expected = torch.zeros(weight.shape, device=weight.device).index_add_(0, ids, d_output.float())
        assert_close("d_weight", backward(), expected, setting.tolerance)

    return Work(backward, check)


def peers(setting: Setting) -> list[Peer]:
    sizes = SIZES[setting.scale]
    case = f"T{sizes.tokens}_H{sizes.hidden_size}"
    return [Peer("embedding_backward", case, "torch", setting.dtype_name, partial(work, setting), Rank.FIRST)]
