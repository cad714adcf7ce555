"""Everything once, tiny, on the processor; and figures that hang or crash."""

from __future__ import annotations

import importlib
import os
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection

from supervisor import Done, Job, Line, Ready, Supervisor
from worker import MODULES, WRONG, figure, plan, setting

Check = Callable[[], None]

# Whatever else is missing, a processor has these: the self-test fails without them.
ALWAYS_THERE = ("sdpa_math", "hf_eager", "hf_eager_gathered")
PLANTED = ("measured", "crashes", "measured", "faults", "measured", "hangs", "not begun")


def run(ops: tuple[str, ...], describe: Callable[[Line], str]) -> int:
    """0 unless something computes wrong numbers, or lacks what every PyTorch has."""
    # This one needs no PyTorch.
    if failure := outcome("a figure that hangs or crashes costs itself alone", check_supervisor):
        print(failure)
        return 1
    where = setting("cpu", self_test=True)
    from timing import ONCE

    checks: list[tuple[str, Check]] = []
    for name in MODULES:
        checks += getattr(importlib.import_module(name), "self_checks", lambda setting: [])(where)
    failures = [failure for what, check in checks if (failure := outcome(what, check))]
    lines = []
    for peer in plan(where, ops, "forward"):
        lines.append(figure(peer, where, ONCE))
        print(describe(lines[-1]), flush=True)
    failures += [describe(line) for line in lines if "skipped" in line and is_wrong(line)]
    failures += cases_without_figures(lines)
    print("\n".join(["", *failures, f"{len(failures)} failed"]))
    return 1 if failures else 0


def outcome(what: str, check: Check) -> str | None:
    """Returns the error of a check, if any."""
    try:
        check()
    except Exception:  # noqa: BLE001
        return f"{what}: {traceback.format_exc(limit=-2)}"
    print(f"holds: {what}", flush=True)
    return None


def is_wrong(line: Line) -> bool:
    return line["skipped"].startswith(WRONG) or line["variant"] in ALWAYS_THERE


def cases_without_figures(lines: list[Line]) -> list[str]:
    """Cases that no variant ran."""
    measured = {(line["op"], line["case"]) for line in lines if "skipped" not in line}
    skipped = {(line["op"], line["case"]) for line in lines if "skipped" in line}
    return [f"{op} {case}: no variant ran" for op, case in sorted(skipped - measured)]


def serve_planted(connection: Connection) -> None:
    """A worker whose figures do what [`PLANTED`] says."""
    jobs = [Job({"variant": what}, 600.0 if what == "not begun" else 0.0) for what in PLANTED]
    connection.send(Ready({}, jobs))
    with suppress(EOFError):
        while True:
            what = PLANTED[connection.recv()]
            if what == "crashes":
                os._exit(5)
            if what == "hangs":
                time.sleep(600)
            line = {"variant": what, "median_ns": 1.0, "process": os.getpid()}
            connection.send(Done(line, usable=what != "faults"))


def check_supervisor() -> None:
    supervisor = Supervisor(serve_planted, minutes=10 / 60)
    try:
        jobs = supervisor.start().jobs
        begun = time.monotonic()
        lines = list(supervisor.figures(jobs))
    finally:
        supervisor.stop()
    reasons = [line.get("skipped", "") for line in lines]
    assert time.monotonic() - begun < 20, "the one that hangs outlived the time"
    assert [line["variant"] for line in lines] == list(PLANTED), lines
    assert [bool(reason) for reason in reasons] == [w in ("crashes", "hangs", "not begun") for w in PLANTED]
    assert "code 5" in reasons[1] and all("the time was over" in reason for reason in reasons[5:]), reasons
    first, second, third = (line["process"] for line in lines if line["variant"] == "measured")
    assert len({first, second, third}) == 3, "a process outlived a crash, or a fault"
