"""libretromae.so: where it is, its functions, and its devices."""

import ctypes
import os
import threading
from pathlib import Path

from . import _abi, errors

# Versions that fit: those that differ in the last number alone.
WANTED = (_abi.RMAE_VERSION_MAJOR, _abi.RMAE_VERSION_MINOR)
WHEEL = Path(__file__).parent / "lib" / "libretromae.so"


def find():
    """Returns the path of the library: `RETROMAE_LIBRARY`, the wheel's own, or the name that the loader looks for."""
    chosen = os.environ.get("RETROMAE_LIBRARY")
    if chosen:
        return chosen
    return str(WHEEL) if WHEEL.exists() else f"libretromae.so.{_abi.RMAE_VERSION_MAJOR}"


def load(path):
    """Returns the library at `path`, its functions with their types."""
    try:
        library = ctypes.CDLL(path)
    except OSError as error:
        wanted = f"a file libretromae.so of version {'.'.join(map(str, WANTED))} (RETROMAE_LIBRARY names one)"
        errors.wrong("the library", f"not there ({error})", wanted, errors.LibraryError)
    try:
        version = (ctypes.c_int32 * 3)()
        numbers = [ctypes.byref(version, 4 * place) for place in range(3)]
        library.rmae_version(*numbers)
        if tuple(version[:2]) != WANTED:
            actual = f"of version {'.'.join(map(str, version))} ({path})"
            errors.wrong("the library", actual, ".".join(map(str, WANTED)), errors.LibraryError)
        for name, (result, arguments) in _abi.FUNCTIONS.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except AttributeError as error:
        errors.wrong("the library", f"another one ({error})", "libretromae.so", errors.LibraryError)
    return library


LIBRARY = load(find())


def check(status):
    """Raises the calling thread's last failure, if `status` is one."""
    if status:
        raise errors.of_status(status, LIBRARY.rmae_last_error().decode(errors="replace"))


_devices: dict[str, int] = {}
_opening = threading.Lock()


def device(name):
    """Returns the handle of a device: "host", or "cuda:N". It is opened once."""
    handle = _devices.get(name)
    if handle is None:
        with _opening:
            if name not in _devices:
                opened = ctypes.c_void_p()
                check(LIBRARY.rmae_device_open(name.encode(), 0, ctypes.byref(opened)))
                _devices[name] = opened.value
            handle = _devices[name]
    return handle


def workspace_bytes(function, device_name, desc):
    """Returns the size that a function of the library tells for a descriptor on a device."""
    size = ctypes.c_size_t()
    check(getattr(LIBRARY, function)(device(device_name), ctypes.byref(desc), ctypes.byref(size)))
    return size.value


def _after_fork():
    """A forked process has none of the threads that its devices worked with."""
    global _opening
    _opening = threading.Lock()
    _devices.clear()


os.register_at_fork(after_in_child=_after_fork)
