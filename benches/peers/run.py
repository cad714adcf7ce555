#!/usr/bin/env python3
"""Measures what PyTorch offers for the operations of a RetroMAE training step; `README.md` tells more."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from functools import partial
from pathlib import Path

import worker
from cases import OPS
from supervisor import NO_TIME, CannotMeasure, Line, Supervisor

CANNOT_MEASURE = 3
# Packages in Python alone that a bundle brings; those that are installed come first.
WHEELS = Path(__file__).resolve().parent.parent / "wheels"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--ops", type=op_names, default=OPS, metavar="A,B", help="of: " + ", ".join(OPS))
    parser.add_argument("--minutes", type=float, default=20.0, help="when to stop")
    parser.add_argument("--out", type=Path, metavar="FILE", help="append a line of JSON a figure to FILE")
    parser.add_argument(
        "--order", choices=("forward", "reverse"), default="forward", help="among equal ranks"
    )
    parser.add_argument("--self-test", action="store_true", help="everything once, tiny, on the processor")
    return parser.parse_args()


def op_names(text: str) -> tuple[str, ...]:
    names = tuple(name for name in text.split(",") if name)
    unknown = [name for name in names if name not in OPS]
    if unknown or not names:
        raise argparse.ArgumentTypeError(f"{text!r} is not among {', '.join(OPS)}")
    return names


def append(path: Path | None, line: Line) -> None:
    if path is not None:
        with path.open("a") as file:
            file.write(json.dumps(line) + "\n")


def describe(line: Line) -> str:
    name = f"{line['op']:<20} {line['case']:<20} {line['variant']:<24}"
    if "skipped" in line:
        return f"{name} skipped: {line['skipped']}"
    note = f"  ({line['note']})" if "note" in line else ""
    return f"{name} {line['median_ns'] / 1e6:>11.4f} ms{note}"


def table(lines: list[Line]) -> str:
    """The fastest variant of each case beside the others, as multiples of its time."""
    cases: dict[tuple[str, str], list[Line]] = {}
    for line in lines:
        if "skipped" not in line:
            cases.setdefault((line["op"], line["case"]), []).append(line)
    rows = []
    for (op, case), figures in sorted(cases.items()):
        best, *others = sorted(figures, key=lambda line: line["median_ns"])
        times = ", ".join(f"{o['variant']} {o['median_ns'] / best['median_ns']:.2f}x" for o in others)
        rows.append(f"{op:<20} {case:<20} {best['median_ns'] / 1e6:>11.4f} ms {best['variant']:<24} {times}")
    return "\n".join(rows)


def measure(supervisor: Supervisor, out: Path | None) -> list[Line]:
    """All figures, each written when it is known."""
    ready = supervisor.start()
    print("  ".join(f"{name} {version}" for name, version in ready.software.items()), flush=True)
    lines = []
    begun = time.monotonic()
    for line in supervisor.figures(ready.jobs):
        append(out, line)
        lines.append(line)
        ended = time.monotonic()
        if line.get("skipped") != NO_TIME:
            print(f"{ended - begun:>5.1f} s  {describe(line)}", flush=True)
        begun = ended
    return lines


def main() -> int:
    options = arguments()
    if WHEELS.is_dir():
        sys.path.append(str(WHEELS))
    # Whoever ends this program ends the process that measures, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    supervisor = Supervisor(
        partial(worker.serve, options.device, options.ops, options.order), options.minutes
    )
    try:
        if options.self_test:
            import self_test

            return self_test.run(options.ops, describe)
        lines = measure(supervisor, options.out)
    except CannotMeasure as error:
        print(error, file=sys.stderr)
        return CANNOT_MEASURE
    finally:
        supervisor.stop()
    not_begun = sum(line.get("skipped") == NO_TIME for line in lines)
    if not_begun:
        print(f"{NO_TIME}: {not_begun} figures were not begun")
    print(f"\nThe fastest of each case, and the others' multiples of its time:\n{table(lines)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
