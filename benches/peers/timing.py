"""Medians of repeated runs: device time by CUDA events on a GPU, wall time on the processor."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

# More than any GPU's L2 holds, so that every sample reads its inputs from memory, as in a training step.
FLUSH_ELEMENTS = 64 * 1024 * 1024
# A function that waits for the GPU cannot be enqueued ahead, however long the queue.
FLUSHES_MAX = 64


@dataclass(frozen=True)
class Limits:
    """When to stop: `samples_max`, or `seconds` spent once there are `samples_min`."""

    samples_min: int
    samples_max: int
    seconds: float
    warm_up_runs: int
    warm_up_seconds: float


GPU_LIMITS = Limits(samples_min=5, samples_max=50, seconds=0.4, warm_up_runs=3, warm_up_seconds=0.1)
CPU_LIMITS = Limits(samples_min=3, samples_max=20, seconds=1.0, warm_up_runs=1, warm_up_seconds=0.1)
ONCE = Limits(samples_min=1, samples_max=1, seconds=0.0, warm_up_runs=0, warm_up_seconds=0.0)


@dataclass(frozen=True)
class Measurement:
    median_ns: float
    samples: int


def measure(run: Callable[[], Any], device: torch.device, limits: Limits) -> Measurement:
    """The median time of `run`."""
    sample = _cuda_sampler(run, device, limits) if device.type == "cuda" else _cpu_sampler(run, limits)
    end = time.perf_counter() + limits.seconds
    samples: list[float] = []
    while len(samples) < limits.samples_max:
        if len(samples) >= limits.samples_min and time.perf_counter() >= end:
            break
        samples.append(sample())
    return Measurement(statistics.median(samples), len(samples))


def _warm_up(run: Callable[[], Any], limits: Limits, wait: Callable[[], None]) -> None:
    """A few runs; fewer where they take so long that nothing can still be cold."""
    end = time.perf_counter() + limits.warm_up_seconds
    for _ in range(limits.warm_up_runs):
        run()
        wait()
        if time.perf_counter() >= end:
            break


def _cpu_sampler(run: Callable[[], Any], limits: Limits) -> Callable[[], float]:
    """One sample in nanoseconds."""
    _warm_up(run, limits, lambda: None)

    def sample() -> float:
        begin = time.perf_counter_ns()
        run()
        return float(time.perf_counter_ns() - begin)

    return sample


def _cuda_sampler(run: Callable[[], Any], device: torch.device, limits: Limits) -> Callable[[], float]:
    """One sample in nanoseconds of device time.

    Before each, the L2 cache is flushed by reading a large buffer: what was written before is then in memory,
    and nothing of it is left for the sample to write back. It is read as often as it takes to keep the GPU busy
    while Python enqueues the measured kernels: short operations would otherwise show the interpreter's time.
    """

    def wait() -> None:
        torch.cuda.synchronize(device)

    _warn_of_waiting(run)
    _warm_up(run, limits, wait)
    buffer = torch.zeros(FLUSH_ELEMENTS, dtype=torch.float32, device=device)
    total = torch.empty((), dtype=torch.float32, device=device)

    def flush() -> None:
        torch.sum(buffer, dim=0, out=total)

    flush()
    flush_seconds = _seconds_on_device(flush, device)
    wait()
    begin = time.perf_counter()
    run()
    enqueue_seconds = time.perf_counter() - begin
    wait()
    flushes = min(FLUSHES_MAX, math.ceil(1.0 + 1.5 * enqueue_seconds / flush_seconds))

    def sample() -> float:
        for _ in range(flushes):
            flush()
        return 1e9 * _seconds_on_device(run, device)

    return sample


def _warn_of_waiting(run: Callable[[], Any]) -> None:
    """Runs it once so that PyTorch warns where the processor waits for the GPU."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        run()
    finally:
        torch.cuda.set_sync_debug_mode(before)


def _seconds_on_device(run: Callable[[], Any], device: torch.device) -> float:
    """From when the device reaches the first kernel of `run` until the last is done."""
    stream = torch.cuda.current_stream(device)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record(stream)
    run()
    end.record(stream)
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3
