#!/usr/bin/env python3
"""Measures what PyTorch offers for the operations of a RetroMAE training step; `README.md` tells more."""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import json
import os
import sys
import time
import traceback
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peer import Peer, Setting, Work
    from timing import Limits

MODULES = ("attention", "cross_entropy", "bag_of_words", "layer_norm", "embedding", "optimizer", "masks", "step")
OPS = (
    "attention_forward",
    "attention_backward",
    "two_stream_forward",
    "two_stream_backward",
    "cross_entropy",
    "bag_of_words",
    "layer_norm_forward",
    "layer_norm_backward",
    "embedding_backward",
    "adamw",
    "masks",
    "step",
)
CANNOT_MEASURE = 3
REASON_LENGTH_MAX = 300
WRONG = "wrong: "
NO_TIME = "the time was over"
# Whatever else is missing, a processor has these: the self-test fails without them.
ALWAYS_THERE = ("sdpa_math", "hf_eager", "hf_eager_gathered")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--ops", type=op_names, default=OPS, metavar="A,B", help="of: " + ", ".join(OPS))
    parser.add_argument("--minutes", type=float, default=20.0, help="begin no figure after this time")
    parser.add_argument("--out", type=Path, metavar="FILE", help="append a line of JSON a figure to FILE")
    parser.add_argument(
        "--order", choices=("forward", "reverse"), default="forward", help="among equal ranks"
    )
    parser.add_argument("--self-test", action="store_true", help="everything once, tiny, on the processor")
    parser.add_argument("--begin-at", type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args()


def op_names(text: str) -> tuple[str, ...]:
    names = tuple(name for name in text.split(",") if name)
    unknown = [name for name in names if name not in OPS]
    if unknown or not names:
        raise argparse.ArgumentTypeError(f"{text!r} is not among {', '.join(OPS)}")
    return names


def setting(device: str, self_test: bool) -> Setting:
    """Exits where there is nothing to measure with."""
    try:
        import torch
    except ImportError:
        print("PyTorch is not installed: there is nothing to compare with.", file=sys.stderr)
        sys.exit(CANNOT_MEASURE)
    from peer import Setting

    if self_test:
        # Dynamo and autograd without a C++ compiler, which would take most of the minute.
        return Setting(torch.device("cpu"), torch.float32, "self_test", compiler="aot_eager")
    if device == "cpu":
        return Setting(torch.device("cpu"), torch.float32, "cpu")
    if not torch.cuda.is_available():
        print(f"PyTorch {torch.__version__} sees no CUDA device; --device cpu needs none.", file=sys.stderr)
        sys.exit(CANNOT_MEASURE)
    return Setting(torch.device("cuda", 0), torch.bfloat16, "gpu")


def software(setting: Setting) -> dict[str, str]:
    """Versions of what decides the figures."""
    import torch

    found = {"torch": torch.__version__}
    if setting.device.type == "cuda":
        found |= {"cuda": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version())}
        found["device"] = torch.cuda.get_device_name(setting.device)
    for package in ("triton", "transformers", "liger_kernel", "cut_cross_entropy", "flash_attn"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "none"
    return found


def plan(setting: Setting, ops: Iterable[str], order: str) -> list[Peer]:
    """Low ranks first. The order concerns equal ranks alone, so that the important ones stay in front."""
    peers = [peer for name in MODULES for peer in importlib.import_module(name).peers(setting)]
    chosen = [peer for peer in peers if peer.op in ops]
    if order == "reverse":
        chosen.reverse()
    return sorted(chosen, key=lambda peer: peer.rank)


def figure(peer: Peer, setting: Setting, limits: Limits | None) -> dict[str, Any]:
    """Prepares, checks and measures; whatever goes wrong is a reason to skip this one alone."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            return measured(peer, peer.prepare(), setting, limits)
        except Exception as error:  # noqa: BLE001
            # SDPA explains in warnings, not in its error, why a backend refuses.
            hints = [str(warning.message) for warning in caught if issubclass(warning.category, UserWarning)]
            return {**peer.name, "skipped": reason(error, hints)}


def measured(peer: Peer, work: Work, setting: Setting, limits: Limits | None) -> dict[str, Any]:
    import torch

    from timing import CPU_LIMITS, GPU_LIMITS, measure

    device = torch.device("cpu") if work.on_processor else setting.device
    with work.context():
        work.check()
        limits = limits or (GPU_LIMITS if device.type == "cuda" else CPU_LIMITS)
        measurement = measure(work.run, device, limits)
    line: dict[str, Any] = {
        **peer.name,
        "dtype": peer.dtype,
        "median_ns": round(measurement.median_ns, 1),
        "samples": measurement.samples,
    }
    return line if work.note is None else {**line, "note": work.note}


def reason(error: Exception, hints: list[str]) -> str:
    """One line, not too long."""
    import torch

    from peer import CheckFailed, Unavailable

    if isinstance(error, torch.cuda.OutOfMemoryError):
        return "out of memory"
    kinds = {CheckFailed: WRONG, Unavailable: ""}
    kind = kinds.get(type(error), f"{type(error).__name__}: ")
    explained = "No available kernel" in str(error) or "No viable backend" in str(error)
    message = str(error).split("Set TORCHDYNAMO_VERBOSE", 1)[0]
    text = "; ".join([f"{kind}{message}", *(hints if explained else [])])
    return " ".join(text.split())[:REASON_LENGTH_MAX]


def free_memory(setting: Setting) -> bool:
    """Between figures; false where an error has made the device unusable for this process."""
    import torch

    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()
    gc.collect()
    if setting.device.type != "cuda":
        return True
    try:
        torch.cuda.synchronize(setting.device)
        torch.cuda.empty_cache()
    except RuntimeError:
        return False
    return True


def run_all(options: argparse.Namespace, setting: Setting, peers: list[Peer]) -> Iterator[dict[str, Any]]:
    """Figures as they become known. What the time does not suffice for is skipped by name."""
    end = time.monotonic() + 60 * options.minutes
    for index, peer in enumerate(peers):
        if index < options.begin_at:
            continue
        left = end - time.monotonic()
        if left < peer.seconds:
            yield {**peer.name, "skipped": NO_TIME}
            continue
        yield figure(peer, setting, None)
        if not free_memory(setting):
            begin_again(index + 1, (end - time.monotonic()) / 60)


def begin_again(index: int, minutes: float) -> None:
    """A fresh process for the rest: after a fault of a kernel, CUDA refuses everything to the old one."""
    print("the device refuses to go on after this one: starting anew", flush=True)
    rest = ["--begin-at", str(index), "--minutes", str(max(0.0, minutes))]
    os.execv(sys.executable, [sys.executable, *sys.argv, *rest])


def append(path: Path | None, line: dict[str, Any]) -> None:
    if path is not None:
        with path.open("a") as file:
            file.write(json.dumps(line) + "\n")


def describe(line: dict[str, Any]) -> str:
    name = f"{line['op']:<20} {line['case']:<20} {line['variant']:<20}"
    if "skipped" in line:
        return f"{name} skipped: {line['skipped']}"
    note = f"  ({line['note']})" if "note" in line else ""
    return f"{name} {line['median_ns'] / 1e6:>11.4f} ms{note}"


def table(lines: list[dict[str, Any]]) -> str:
    """The fastest variant of each case beside the others, as multiples of its time."""
    cases: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for line in lines:
        if "skipped" not in line:
            cases.setdefault((line["op"], line["case"]), []).append(line)
    rows = []
    for (op, case), figures in sorted(cases.items()):
        best, *others = sorted(figures, key=lambda line: line["median_ns"])
        times = ", ".join(f"{o['variant']} {o['median_ns'] / best['median_ns']:.2f}x" for o in others)
        rows.append(f"{op:<20} {case:<20} {best['median_ns'] / 1e6:>11.4f} ms {best['variant']:<20} {times}")
    return "\n".join(rows)


def self_test(setting: Setting) -> int:
    """0 unless something computes wrong numbers, or lacks what every PyTorch has."""
    from timing import ONCE

    failures = []
    for name in MODULES:
        checks = getattr(importlib.import_module(name), "self_checks", lambda setting: [])
        for what, check in checks(setting):
            try:
                check()
                print(f"holds: {what}", flush=True)
            except Exception:  # noqa: BLE001
                failures.append(f"{what}: {traceback.format_exc(limit=-2)}")
    lines = []
    for peer in plan(setting, OPS, "forward"):
        lines.append(figure(peer, setting, ONCE))
        print(describe(lines[-1]), flush=True)
    failures += wrong_lines(lines)
    print("\n".join(["", *failures, f"{len(failures)} failed"]))
    return 1 if failures else 0


def is_wrong(line: dict[str, Any]) -> bool:
    return line["skipped"].startswith(WRONG) or line["variant"] in ALWAYS_THERE


def wrong_lines(lines: list[dict[str, Any]]) -> list[str]:
    """Wrong numbers, variants that are always there and were not, and cases that no variant ran."""
    skipped = [line for line in lines if "skipped" in line]
    wrong = [line for line in skipped if is_wrong(line)]
    measured_cases = {(line["op"], line["case"]) for line in lines if "skipped" not in line}
    empty = {(line["op"], line["case"]) for line in skipped} - measured_cases
    return [describe(line) for line in wrong] + [f"{op} {case}: no variant ran" for op, case in sorted(empty)]


def main() -> int:
    options = arguments()
    where = setting(options.device, options.self_test)
    print("  ".join(f"{name} {version}" for name, version in software(where).items()), flush=True)
    if options.self_test:
        return self_test(where)
    lines = []
    for line in run_all(options, where, plan(where, options.ops, options.order)):
        append(options.out, line)
        lines.append(line)
        if line.get("skipped") != NO_TIME:
            print(describe(line), flush=True)
    not_begun = sum(line.get("skipped") == NO_TIME for line in lines)
    if not_begun:
        print(f"{NO_TIME}: {not_begun} figures were not begun")
    print(f"\nThe fastest of each case, and the others' multiples of its time:\n{table(lines)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
