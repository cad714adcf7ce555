"""The cases of the benches, in `cases.json`: one table for the Rust program and for these.

Without PyTorch, so that a process which measures nothing can read it, too.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Written by `cargo bench --bench bench -- --export`.
TABLE: list[dict[str, Any]] = json.loads(Path(__file__).with_name("cases.json").read_text())
OPS: tuple[str, ...] = tuple(dict.fromkeys(line["op"] for line in TABLE))


@dataclass(frozen=True)
class Case:
    """One size of an operation, under the name that the benches use."""

    name: str
    headline: bool
    sizes: dict[str, Any]


def cases(op: str, scale: str) -> list[Case]:
    """Those of a scale, `gpu` or `host`, the headline cases first."""
    found = [
        Case(line["case"], line["headline"], line["sizes"])
        for line in TABLE
        if (line["op"], line["scale"]) == (op, scale)
    ]
    return sorted(found, key=lambda case: not case.headline)


def constant(op: str, name: str) -> Any:
    """A number that all cases of an operation share."""
    return next(line["sizes"][name] for line in TABLE if line["op"] == op)


def in_turn(lengths: list[int], tokens: int) -> tuple[int, ...]:
    """Sentence lengths: `lengths` in turn, the last cut where the tokens end."""
    result: list[int] = []
    while (left := tokens - sum(result)) > 0:
        result.append(min(left, lengths[len(result) % len(lengths)]))
    return tuple(result)
