"""Measures figures in the process that [`supervisor`] starts."""

from __future__ import annotations

import gc
import importlib
import importlib.metadata
import signal
import sys
import traceback
import warnings
from collections.abc import Iterable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from supervisor import CannotMeasure, Done, Job, Line, Ready

if TYPE_CHECKING:
    from peer import Peer, Setting, Work
    from timing import Limits

# Among equal ranks in this order: what takes long to prepare comes last.
MODULES = (
    "attention",
    "layer_norm",
    "embedding",
    "optimizer",
    "cross_entropy",
    "masks",
    "bag_of_words",
    "step",
)
PACKAGES = ("triton", "transformers", "liger-kernel", "cut-cross-entropy", "flash-attn")
REASON_LENGTH_MAX = 300
WRONG = "wrong: "
TRACEBACK_LINES = 8
# Messages of SDPA where the one backend that it may use does not take the case.
REFUSALS = ("No available kernel", "No viable backend")
SYNCHRONIZES = "called a synchronizing CUDA operation"


def setting(device: str, self_test: bool) -> Setting:
    """Raises [`CannotMeasure`] where there is nothing to measure with."""
    try:
        import torch
    except (ImportError, OSError) as error:
        # OSError: a library of its own that does not load.
        raise CannotMeasure(f"PyTorch is not installed, or not whole: {error}") from None
    from peer import Setting

    if self_test:
        # Dynamo and autograd without a C++ compiler, which would take most of the minute.
        return Setting(torch.device("cpu"), torch.float32, "self_test", compiler="aot_eager")
    if device == "cpu":
        return Setting(torch.device("cpu"), torch.float32, "host")
    if not torch.cuda.is_available():
        raise CannotMeasure(f"PyTorch {torch.__version__} sees no CUDA device; --device cpu needs none")
    return Setting(torch.device("cuda", 0), torch.bfloat16, "gpu")


def software(setting: Setting) -> dict[str, str]:
    """Versions of what decides the figures."""
    import torch

    found = {"torch": str(torch.__version__)}
    if setting.device.type == "cuda":
        found |= {"cuda": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version())}
        found["device"] = torch.cuda.get_device_name(setting.device)
    for package in PACKAGES:
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


def serve(device: str, ops: tuple[str, ...], order: str, connection: Connection) -> None:
    """Answers the indices that are sent until nobody sends any more."""
    # Ctrl-C goes to both processes; the other one ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        where = setting(device, self_test=False)
    except CannotMeasure as error:
        connection.send(error)
        return
    peers = plan(where, ops, order)
    jobs = [Job(peer.name, peer.seconds) for peer in peers]
    connection.send(Ready(software(where), jobs))
    # Imported objects stay: there is no need to search it for garbage after every figure.
    gc.freeze()
    with suppress(EOFError, BrokenPipeError):
        while True:
            line = figure(peers[connection.recv()], where, None)
            connection.send(Done(line, free_memory(where)))


def figure(peer: Peer, setting: Setting, limits: Limits | None) -> Line:
    """Prepares, checks and measures; whatever goes wrong is a reason to skip this one alone."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            line = measured(peer, peer.prepare(), setting, limits)
        except Exception as error:  # noqa: BLE001
            return {**peer.name, "skipped": reason(error, [str(warning.message) for warning in caught])}
        if any(SYNCHRONIZES in str(warning.message) for warning in caught):
            line["note"] = "; ".join([*filter(None, [line.get("note")]), "waits for the device within"])
        return line


def measured(peer: Peer, work: Work, setting: Setting, limits: Limits | None) -> Line:
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
        "median_ns": round(measurement.median_ns * work.shares, 1),
        "samples": measurement.samples,
    }
    return line if work.note is None else {**line, "note": work.note}


def reason(error: Exception, warned: list[str]) -> str:
    """One line, not too long; what nobody expected is shown whole, too."""
    import torch

    from peer import CheckFailed, Unavailable

    if isinstance(error, Unavailable):
        return one_line(str(error))
    if isinstance(error, CheckFailed):
        return one_line(f"{WRONG}{error}")
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return "out of memory"
    if any(refusal in str(error) for refusal in REFUSALS):
        # SDPA explains in warnings, not in its error, why a backend refuses.
        return one_line("; ".join(["refused", *warned]))
    traceback.print_exception(error, limit=-TRACEBACK_LINES)
    return one_line(f"{type(error).__name__}: {error}")


def one_line(text: str) -> str:
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
