"""Runs figures in a process of their own, so that one which hangs or crashes costs itself alone.

Without PyTorch, so that whatever an installation does to a process, it does to the other one.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

Line = dict[str, Any]

NO_TIME = "the time was over"
# Importing PyTorch from a cold disk, and starting CUDA.
START_SECONDS_MAX = 120.0
# The first figure of its kind loads libraries, too.
FIGURE_SECONDS_MIN = 20.0
# Compilers take longer on a machine that has not run them before.
FIGURE_SECONDS_FACTOR = 5.0
# For a process that has nothing to do, to end by itself.
LEAVE_SECONDS_MAX = 2.0
STOP_SECONDS_MAX = 10.0


class CannotMeasure(Exception):
    """There is nothing to measure with; the message says what is missing."""


@dataclass(frozen=True)
class Job:
    """One figure, as the process that does not measure knows it."""

    name: dict[str, str]
    """`op`, `case` and `variant`"""
    seconds: float
    """With less time left than this, it is not begun."""

    @property
    def seconds_max(self) -> float:
        """After so long it hangs, or is not worth the time of the others."""
        return max(FIGURE_SECONDS_MIN, FIGURE_SECONDS_FACTOR * self.seconds)


@dataclass(frozen=True)
class Ready:
    """A worker's first message: what it found, and all that it can measure."""

    software: dict[str, str]
    jobs: list[Job]


@dataclass(frozen=True)
class Done:
    """A worker's answer to the index of a job."""

    line: Line
    usable: bool
    """The device still works for this process: after a fault of a kernel CUDA refuses everything."""


Serve = Callable[[Connection], None]


class Worker:
    """A process that measures: sends [`Ready`], then [`Done`] for each index that it is sent."""

    def __init__(self, serve: Serve) -> None:
        spawn = multiprocessing.get_context("spawn")
        self.connection, theirs = spawn.Pipe()
        self.process = spawn.Process(target=serve, args=(theirs,))
        self.process.start()
        theirs.close()

    def receive(self, seconds: float) -> Any:
        """The next message; raises TimeoutError, or EOFError where the process has ended."""
        if not self.connection.poll(max(0.0, seconds)):
            raise TimeoutError
        message = self.connection.recv()
        if isinstance(message, Exception):
            raise message
        return message

    def measure(self, index: int, seconds: float) -> Done:
        self.connection.send(index)
        done: Done = self.receive(seconds)
        return done

    def ready(self, seconds: float) -> Ready:
        ready: Ready = self.receive(seconds)
        return ready

    def stop(self, seconds: float) -> None:
        """Ends it, where it does not leave by itself for so long: what it was doing is lost."""
        self.connection.close()
        self.process.join(seconds)
        self.process.kill()
        self.process.join(STOP_SECONDS_MAX)


class Supervisor:
    """Starts a worker, and another one wherever that is lost."""

    def __init__(self, serve: Serve, minutes: float) -> None:
        self.serve = serve
        self.end = time.monotonic() + 60 * minutes
        self.worker: Worker | None = None
        self.lost: str | None = None
        """Why no other worker can be started."""

    def left(self) -> float:
        return self.end - time.monotonic()

    def start(self) -> Ready:
        """Raises [`CannotMeasure`] where the process says or shows that it cannot."""
        self.stop()
        self.worker = Worker(self.serve)
        try:
            return self.worker.ready(min(self.left(), START_SECONDS_MAX))
        except TimeoutError:
            raise CannotMeasure("the process that measures was not ready in time") from None
        except (EOFError, OSError):
            raise CannotMeasure("the process that measures ended while it started") from None

    def stop(self, seconds: float = LEAVE_SECONDS_MAX) -> None:
        if self.worker is not None:
            self.worker.stop(seconds)
            self.worker = None

    def figures(self, jobs: list[Job]) -> Iterator[Line]:
        """A line for each job, as soon as it is known. What the time does not suffice for is skipped by name."""
        for index, job in enumerate(jobs):
            if self.left() < job.seconds:
                yield {**job.name, "skipped": NO_TIME}
            elif self.has_worker():
                yield self.figure(index, job)
            else:
                yield {**job.name, "skipped": self.lost}

    def has_worker(self) -> bool:
        """Starts one where there is none; where that fails once, it is not tried for every figure."""
        if self.worker is None and self.lost is None:
            try:
                self.start()
            except CannotMeasure as error:
                self.stop()
                self.lost = str(error)
        return self.worker is not None

    def figure(self, index: int, job: Job) -> Line:
        """By the worker, which is stopped where it cannot be used any more."""
        assert self.worker is not None
        seconds = min(job.seconds_max, self.left())
        try:
            done = self.worker.measure(index, seconds)
        except TimeoutError:
            self.stop(0.0)
            return {**job.name, "skipped": timeout(seconds, job.seconds_max)}
        except (EOFError, OSError):
            self.worker.process.join(STOP_SECONDS_MAX)
            code = self.worker.process.exitcode
            self.stop()
            return {**job.name, "skipped": f"its process ended with code {code}"}
        if not done.usable:
            self.stop(0.0)
        return done.line


def timeout(seconds: float, seconds_max: float) -> str:
    if seconds < seconds_max:
        return f"{NO_TIME}: it had {seconds:.0f} s"
    return f"it took more than {seconds_max:.0f} s"
