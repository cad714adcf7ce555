"""The gradient of the word embedding: rows of `d_output` summed by token id."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from cases import Case, constant
from peer import Peer, Rank, Setting, Work, assert_close, leaf

# This share of the encoder's input has this one id: the hard case of the sum.
MASK_ID: int = constant("embedding_backward", "mask_id")
MASKED_SHARE: float = constant("embedding_backward", "masked_share")
SELF_TEST = {"T64_H32": {"tokens": 64, "hidden_size": 32, "vocab_size": 100}}


def token_ids(setting: Setting, tokens: int, vocab_size: int) -> Tensor:
    """`[T]`, frequent as the words of a language are: the r-th 1/r as much as the first; and [MASK]."""
    frequencies = 1.0 / torch.arange(1, vocab_size + 1, device=setting.device)
    ids = torch.multinomial(frequencies, tokens, replacement=True, generator=setting.generator(1))
    masked = torch.rand(tokens, generator=setting.generator(2), device=setting.device) < MASKED_SHARE
    return ids.masked_fill(masked, MASK_ID)


def work(setting: Setting, case: Case) -> Work:
    tokens, hidden_size, vocab_size = (case.sizes[name] for name in ("tokens", "hidden_size", "vocab_size"))
    ids = token_ids(setting, tokens, vocab_size)
    weight = leaf(setting.normal(3, vocab_size, hidden_size))
    d_output = setting.normal(4, tokens, hidden_size)
    output = F.embedding(ids, weight)

    def backward() -> Tensor:
        return torch.autograd.grad(output, weight, d_output, retain_graph=True)[0]

    def check() -> None:
        expected = torch.zeros(weight.shape, device=weight.device).index_add_(0, ids, d_output.float())
        assert_close("d_weight", backward(), expected, setting.tolerance)

    return Work(backward, check)


def peers(setting: Setting) -> list[Peer]:
    op = "embedding_backward"
    return [
        Peer(op, case.name, "torch", setting.dtype_name, partial(work, setting, case), Rank.FIRST)
        for case in setting.cases(op, SELF_TEST)
    ]
