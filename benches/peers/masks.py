"""Position-specific masks as a collator samples them in Python: on the processor, dense, in 64-bit integers."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

from cases import Case
from collator import RATIO, Collator
from peer import CheckFailed, Peer, Rank, Setting, Work

CHECKED_SENTENCES = 2
# A whole batch takes the processor several seconds; every sentence is sampled on its own.
TIMED_SENTENCES_MAX = 8
SELF_TEST = {"B3_L32_K8": {"sentences": 3, "length": 32, "set_size": 8}}


def check(length: int, set_size: int) -> None:
    """Holds a few sentences against the rules."""
    collator = Collator(CHECKED_SENTENCES, length, set_size, seed=2)
    masks = collator.batch()["visible"]
    starts = [position for position, token in enumerate(collator.tokens[:-1]) if token == "word"] + [length - 1]
    words = [range(start, end) for start, end in pairwise(starts)]
    budget = max(1, round(length * RATIO))
    for row, mask in ((row, mask) for sentence in masks for row, mask in enumerate(sentence.tolist())):
        hidden = [position for position, seen in enumerate(mask) if not seen and position != row]
        whole = all(
            sum(mask[s] for s in word if s != row) in (0, len(word) - (row in word)) for word in words
        )
        if mask[row] or (row and not mask[0]) or not whole or not budget - 3 <= len(hidden) <= budget:
            raise CheckFailed(
                f"row {row} breaks the rules: it hides {hidden} of {length} with a budget of {budget}"
            )
    if len({tuple(row) for row in masks[0].tolist()}) < set_size // 2:
        raise CheckFailed("rows share their masks; each should sample one of the set")


def work(case: Case) -> Work:
    sentences, length, set_size = (case.sizes[name] for name in ("sentences", "length", "set_size"))
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
            case=case.name,
            variant="numpy",
            dtype="int64",
            prepare=partial(work, case),
            rank=Rank.SECOND if case.headline else Rank.CASES,
            seconds=5.0,
        )
        for case in setting.cases("masks", SELF_TEST)
    ]
