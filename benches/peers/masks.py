"""Position-specific masks as a collator draws them in Python: on the processor, dense, in int64.

Every row of every sentence gets a whole-word mask of its own: words in a random order, taken until half of
the sentence's tokens are hidden. Slot 0 is visible to all other rows, and no row sees itself.
"""

from __future__ import annotations

import random
from functools import partial

import torch
from torch import Tensor

from peer import CheckFailed, Peer, Setting, Work

RATIO = 0.5
# Tokens of a word, in turn: most words of a text are one token.
WORD_LENGTHS = (1, 1, 2, 1, 1, 3, 1)
CHECKED_SENTENCES = 2
SIZES = {
    "gpu": ((256, 128), (64, 512)),
    "cpu": ((256, 128), (64, 512)),
    "self_test": ((3, 32),),
}

Word = range
"""The slots of a word."""


def words_of(length: int) -> list[Word]:
    """Words between [CLS] at slot 0 and [SEP] at the last, which belong to none."""
    words: list[Word] = []
    begin = 1
    while begin < length - 1:
        end = min(begin + WORD_LENGTHS[len(words) % len(WORD_LENGTHS)], length - 1)
        words.append(range(begin, end))
        begin = end
    return words


def hidden_slots(words: list[Word], length: int, draw: random.Random) -> list[int]:
    """A whole-word mask: a word that would exceed the budget is passed over."""
    budget = max(1, round(length * RATIO))
    hidden: list[int] = []
    for word in draw.sample(words, len(words)):
        if len(hidden) + len(word) <= budget:
            hidden.extend(word)
        if len(hidden) == budget:
            break
    return hidden


def sentence_mask(words: list[Word], length: int, draw: random.Random) -> Tensor:
    """`[L, L]` int64, 1 where row i sees token j."""
    rows: list[list[int]] = []
    for slot in range(length):
        row = [1] * length
        for other in hidden_slots(words, length, draw):
            row[other] = 0
        row[slot] = 0
        rows.append(row)
    return torch.tensor(rows)


def batch_mask(sentences: int, length: int, draw: random.Random) -> Tensor:
    """`[B, L, L]` int64."""
    return torch.stack([sentence_mask(words_of(length), length, draw) for _ in range(sentences)])


def check(length: int) -> None:
    """Holds a few sentences against the rules."""
    masks = batch_mask(CHECKED_SENTENCES, length, random.Random(2))
    words = words_of(length)
    budget = max(1, round(length * RATIO))
    for row, mask in ((row, mask) for sentence in masks for row, mask in enumerate(sentence.tolist())):
        hidden = [slot for slot, seen in enumerate(mask) if not seen and slot != row]
        whole = all(
            sum(mask[s] for s in word if s != row) in (0, len(word) - (row in word)) for word in words
        )
        if mask[row] or (row and not mask[0]) or not whole or not budget - 3 <= len(hidden) <= budget:
            raise CheckFailed(
                f"row {row} breaks the rules: it hides {hidden} of {length} with a budget of {budget}"
            )
    if len({tuple(row) for row in masks[0].tolist()}) < length // 2:
        raise CheckFailed("rows share their masks; each should draw its own")


def work(sentences: int, length: int) -> Work:
    draw = random.Random(1)
    note = "one process of Python on the processor"
    return Work(partial(batch_mask, sentences, length, draw), partial(check, length), note, on_processor=True)


def peers(setting: Setting) -> list[Peer]:
    return [
        Peer(
            op="mask_bank",
            case=f"B{sentences}_L{length}",
            variant="torch",
            dtype="int64",
            prepare=partial(work, sentences, length),
            rank=1 if length <= 128 else 2,
            seconds=5.0 if length <= 128 else 30.0,
        )
        for sentences, length in SIZES[setting.scale]
    ]
