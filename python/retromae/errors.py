"""Exceptions. Each says which argument is wrong, what it is, and what it should be."""

from . import _abi


class Error(RuntimeError):
    """A failure of the library. `status` is its code in include/retromae.h; 0 if it was found before the call."""

    status = 0


class InvalidArgument(Error, ValueError):
    """An argument that can never be right: its type, shape, device, memory, or value."""


class Unsupported(Error, NotImplementedError):
    """An argument that is right, but that nothing here is built for: a size, a type, a device."""


class Capturing(Error):
    """What was asked for cannot be captured into a CUDA graph."""


class DeviceError(Error):
    """A kernel, the driver, or a library of the device failed."""


class OutOfMemory(DeviceError, MemoryError):
    """The device has no memory left."""


class FileError(Error):
    """A file cannot be read or written."""


class LibraryError(Error, ImportError):
    """libretromae.so is missing, or is of another version than this package."""


class InternalError(Error):
    """A fault of the library."""


def wrong(argument, actual, expected, kind=InvalidArgument):
    """Raises the error that `argument` is `actual` and should be `expected`."""
    raise kind(f"{argument} is {actual}; it should be {expected}")


def of_status(status, text):
    """Returns the exception of a status other than RMAE_OK."""
    if status == _abi.RMAE_OUT_OF_MEMORY:
        kind = OutOfMemory
    else:
        kinds = {1: InvalidArgument, 2: Unsupported, 3: Capturing, 4: DeviceError, 5: FileError}
        kind = kinds.get(status // 1000, InternalError)
    error = kind(text)
    error.status = status
    return error
