"""RetroMAE pre-training as a library of GPU kernels that also run on the CPU.

`retromae.torch` has the operations for PyTorch, `retromae.jax` for JAX, and `retromae.numpy` for neither.
"""

from . import _abi
from . import _library as _library
from ._operations import Bags, Corruption, CountLimit, Dropout, Mask, Pool, Queries, Replacement
from .errors import (
    Capturing,
    DeviceError,
    Error,
    FileError,
    InternalError,
    InvalidArgument,
    LibraryError,
    OutOfMemory,
    Unsupported,
)

__version__ = f"{_abi.RMAE_VERSION_MAJOR}.{_abi.RMAE_VERSION_MINOR}.{_abi.RMAE_VERSION_PATCH}"

__all__ = [
    "Bags",
    "Capturing",
    "Corruption",
    "CountLimit",
    "DeviceError",
    "Dropout",
    "Error",
    "FileError",
    "InternalError",
    "InvalidArgument",
    "LibraryError",
    "Mask",
    "OutOfMemory",
    "Pool",
    "Queries",
    "Replacement",
    "Unsupported",
]
