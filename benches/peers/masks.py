"""Position-specific masks as a collator draws them in Python: on the processor, dense, in 64-bit integers."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

from collator import RATIO, Collator
from peer import CheckFailed, Peer, Rank, Setting, Work

CHECKED_SENTENCES = 2
# A whole batch takes the processor several seconds; every sentence is drawn on its own.
TIMED_SENTENCES_MAX = 8
# Sentences, their length, and the masks in a sentence's set.
SIZES = {
    "gpu": ((64, 512, 128), (64, 512, 256)),
    "cpu": ((64, 512, 128), (64, 512, 256)),
    "self_test": ((3, 32, 8),),
}


def check(length: int, set_size: int) -> None:
    """Holds a few sentences against the rules."""
    collator = Collator(CHECKED_SENTENCES, length, set_size, seed=2)
    masks = collator.batch()["visible"]
    starts = [slot for slot, token in enumerate(collator.tokens[:-1]) if token == "word"] + [length - 1]
    words = [range(start, end) for start, end in pairwise(starts)]
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
    if len({tuple(row) for row in masks[0].tolist()}) < set_size // 2:
        raise CheckFailed("rows share their masks; each should draw one of the set")


def work(sentences: int, length: int, set_size: int) -> Work:
    timed = min(sentences, TIMED_SENTENCES_MAX)
    collator = Collator(timed, length, set_size)
    return Work(
        collator.batch,
        partial(check, length, set_size),
        note=f"one process of Python on the processor: {timed} sentences' time, {sentences // timed} times",
        shares=sentences // timed,
        on_processor=True,
    )


def peers(setting: Setting) -> list[Peer]:
    return [
        Peer(
            op="masks",
            case=f"B{sentences}_L{length}_K{set_size}",
            variant="numpy",
            dtype="int64",
            prepare=partial(work, sentences, length, set_size),
            rank=Rank.SECOND if set_size <= 128 else Rank.CASES,
            seconds=5.0,
        )
        for sentences, length, set_size in SIZES[setting.scale]
    ]
