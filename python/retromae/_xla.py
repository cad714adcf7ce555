"""The library's calls as a custom call of XLA, for retromae.jax."""

import ctypes
import functools
from pathlib import Path

import jax
import jax.ffi
import jax.numpy as jnp
import numpy as np

from . import _library
from ._call import offset_of
from .errors import LibraryError, wrong

_TARGET = "retromae"
_HANDLER = "libretromae_jax.so"
# The first with what handler.cc asks XLA for.
_OLDEST_JAX = (0, 6, 0)


def _load_handler():
    """Returns the library of the custom call (python/xla/handler.cc), beside libretromae.so or in the wheel."""
    if jax.__version_info__ < _OLDEST_JAX:
        wanted = f"{'.'.join(map(str, _OLDEST_JAX))} or later"
        wrong("jax", f"of version {jax.__version__}", wanted, LibraryError)
    places = [library.with_name(_HANDLER) for library in (Path(_library.find()), _library.WHEEL)]
    path = next((place for place in places if place.exists()), places[-1])
    try:
        handler = ctypes.CDLL(str(path))
        handler.retromae_jax_init.argtypes = [ctypes.c_void_p]
        handler.retromae_jax_init(_library.LIBRARY._handle)
    except (OSError, AttributeError) as error:
        wanted = "what python/tools/handler.py compiles with the headers of a jaxlib"
        wrong(_HANDLER, f"not there ({error})", wanted, LibraryError)
    return handler


_handler = _load_handler()


@functools.cache
def _register():
    """Registers the custom call, at the first use. A handler that XLA refuses is an error only once there is a backend; before,
    it would keep each backend from starting."""
    jax.local_devices()
    try:
        for platform, name in (("cpu", "retromae_jax_host"), ("CUDA", "retromae_jax_cuda")):
            capsule = jax.ffi.pycapsule(getattr(_handler, name))
            jax.ffi.register_ffi_target(_TARGET, capsule, platform=platform)
    except Exception as error:
        wanted = "one that was compiled with the headers of this jaxlib, or of an earlier one"
        wrong(_HANDLER, f"refused ({error})", wanted, LibraryError)


def is_array(value):
    """Tells what JAX takes as an array: its own, and NumPy's of numbers."""
    if isinstance(value, np.ndarray):
        return value.dtype == np.bool_ or jnp.issubdtype(value.dtype, jnp.number)
    return isinstance(value, jax.Array)


class Result:
    """A result of a call: its array, once the call is part of the program. `before` is what it is added to."""

    __slots__ = ("aval", "array", "before")

    def __init__(self, shape, dtype, before=None):
        self.aval = jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))
        self.before = before


class Arrays:
    """JAX's arrays, traced or not; a call becomes a custom call."""

    def __init__(self):
        self.operands = []
        self.operands_at = []
        self.results = []
        self.results_at = []
        # Numbers of operands whose memory becomes that of results, and of these.
        self.aliases = {}
        self.workspace_function = ""
        self.workspace_at = []

    def look(self, name, array):
        if not is_array(array):
            wrong(name, f"a {type(array).__name__}", "a JAX array")
        return array.shape, array.dtype.name

    def strides(self, array):
        return tuple(int(np.prod(array.shape[axis + 1 :])) for axis in range(array.ndim))

    def descriptor(self, kind):
        return kind()

    def bind(self, call, struct, field, array):
        at = offset_of(call.desc, struct, field)
        is_result = isinstance(array, Result)
        operand = array.before if is_result else array
        if is_result and operand is not None:
            self.aliases[len(self.operands)] = len(self.results)
        if operand is not None:
            self.operands.append(operand)
            self.operands_at.append(at)
        if is_result:
            self.results.append(array)
            self.results_at.append(at)

    def empty(self, shape, dtype):
        return Result(shape, dtype)

    def zeros(self, shape, dtype):
        return Result(shape, dtype, before=jnp.zeros(shape, dtype))

    def workspace(self, call, function):
        self.workspace_function = function
        self.workspace_at = [
            offset_of(call.desc, call.desc, field) for field in ("workspace", "workspace_bytes")
        ]

    def run(self, call, function):
        _register()
        custom_call = jax.ffi.ffi_call(
            _TARGET,
            [result.aval for result in self.results],
            vmap_method="sequential",
            input_output_aliases=self.aliases,
        )
        arrays = custom_call(
            *self.operands,
            desc=np.frombuffer(bytes(call.desc), np.uint8),
            operands_at=np.array(self.operands_at, np.int64),
            results_at=np.array(self.results_at, np.int64),
            workspace_at=np.array(self.workspace_at, np.int64),
            function=function,
            workspace=self.workspace_function,
        )
        for result, array in zip(self.results, arrays, strict=True):
            result.array = array


def call(operation, *arguments):
    """Makes an operation's call part of the program; returns its results."""
    outputs = operation(Arrays(), *arguments)
    return jax.tree.map(lambda result: result.array, outputs)
