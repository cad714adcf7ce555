"""A call of the library, whatever framework its arrays are of."""

import ctypes
import math
import numbers
import operator
import reprlib
from typing import Any, Protocol

from . import _abi
from .errors import wrong

DTYPES = {"float32": _abi.RMAE_F32, "bfloat16": _abi.RMAE_BF16, "float16": _abi.RMAE_F16}
FLOATS = tuple(DTYPES)
F32 = ("float32",)
# Arrays of bits and of indices are taken with either sign: not every framework has both.
WORDS = ("int32", "uint32")
HALF_WORDS = ("int16", "uint16")
I32 = ("int32",)


class Arrays(Protocol):
    """How a framework's arrays are looked at and made, and how a call comes to run on them."""

    def look(self, name: str, array: Any) -> tuple[tuple[int, ...], str]:
        """Shape and dtype of an argument. Refuses what is no array of this framework or is on another device."""

    def strides(self, array: Any) -> tuple[int, ...]:
        """Elements from an index of each dimension to the next."""

    def descriptor(self, kind: type) -> Any:
        """A descriptor of this type, to be filled in."""

    def bind(self, call: "Call", struct: Any, field: str, array: Any) -> None:
        """Lets a pointer field of a descriptor, or of a struct in it, point to an array."""

    def empty(self, shape: tuple[int, ...], dtype: str) -> Any: ...

    def zeros(self, shape: tuple[int, ...], dtype: str) -> Any: ...

    def workspace(self, call: "Call", function: str) -> None:
        """Gives the descriptor the workspace that `function` asks for."""

    def run(self, call: "Call", function: str) -> None:
        """Runs `function` on the descriptor."""


class Call:
    """The descriptor of one call, filled in argument by argument. A method that takes `name` is given an argument of the
    caller's, which it checks."""

    __slots__ = ("arrays", "desc")

    def __init__(self, arrays: Arrays, kind: Any):
        self.arrays = arrays
        self.desc = desc = arrays.descriptor(kind)
        desc.size = ctypes.sizeof(kind)
        desc.version = kind.VERSION

    def input(self, struct, field, name, array, shape, dtypes, *, optional=False):
        """Binds a contiguous array of this shape and one of these dtypes."""
        if array is None:
            if not optional:
                wrong(name, "None", f"an array of shape {text(shape)}")
            return
        arrays = self.arrays
        actual, dtype = arrays.look(name, array)
        if actual != shape:
            wrong(name, f"of shape {text(actual)}", text(shape))
        if dtype not in dtypes:
            wrong(name, f"of dtype {dtype}", " or ".join(dtypes))
        if not is_contiguous(actual, arrays.strides(array)):
            wrong(name, "not contiguous", "contiguous")
        arrays.bind(self, struct, field, array)

    def rows(self, field, name, array, shape, dtype):
        """Binds an array whose rows, the elements behind its first dimension, are contiguous; sets their stride."""
        arrays = self.arrays
        actual, actual_dtype = arrays.look(name, array)
        if actual != shape:
            wrong(name, f"of shape {text(actual)}", text(shape))
        if actual_dtype != dtype:
            wrong(name, f"of dtype {actual_dtype}", dtype)
        strides = arrays.strides(array)
        # In this order, so that sizes that are symbols need not be known for rows without gaps.
        stride, row = strides[0], math.prod(shape[1:])
        if stride != row:
            if shape[0] <= 1:
                # A single row may have any.
                stride = 0
            elif stride < row:
                stride = None
        if stride is None or not is_contiguous(shape[1:], strides[1:]):
            wrong(name, f"of strides {text(strides)}", "made of contiguous rows, one after the other")
        desc = self.desc
        arrays.bind(self, desc, field, array)
        setattr(desc, f"{field}_stride", stride)

    def output(self, struct, field, shape, dtype):
        """Makes an array that the call overwrites, and binds it."""
        array = self.arrays.empty(shape, dtype)
        self.arrays.bind(self, struct, field, array)
        return array

    def sum(self, struct, field, shape, dtype):
        """Makes an array of zeros that the call adds to, and binds it."""
        array = self.arrays.zeros(shape, dtype)
        self.arrays.bind(self, struct, field, array)
        return array

    def workspace(self, function):
        self.arrays.workspace(self, function)

    def run(self, function):
        self.arrays.run(self, function)


def offset_of(desc, struct, field):
    """Byte of a descriptor at which a field of it, or of a struct in it, begins."""
    return ctypes.addressof(struct) - ctypes.addressof(desc) + getattr(type(struct), field).offset


def dimensions(arrays, name, array, names, dtypes):
    """Returns the shape of an argument that others are held against, and its dtype. `names` are of its dimensions."""
    shape, dtype = arrays.look(name, array)
    if len(shape) != len(names):
        wrong(name, f"of shape {text(shape)}", f"[{', '.join(names)}]")
    if dtype not in dtypes:
        wrong(name, f"of dtype {dtype}", " or ".join(dtypes))
    return shape, dtype


def is_contiguous(shape, strides):
    expected = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if stride != expected and size > 1:
            return 0 in shape
        expected *= size
    return True


def text(shape):
    return f"[{', '.join(map(str, shape))}]"


def instance(name, value, kind):
    """Refuses an argument that is not one of this package's types."""
    if not isinstance(value, kind):
        wrong(name, f"a {type(value).__name__}", f"a retromae.{kind.__name__}")


def flag(name, value):
    """Returns a switch."""
    if not isinstance(value, bool):
        wrong(name, reprlib.repr(value), "True or False")
    return value


def integer(name, value, least, most):
    """Returns an integer argument in a range that a field of a descriptor has. It may be an element of an array."""
    expected = f"an integer from {least} to {most}"
    is_number = isinstance(value, numbers.Integral) or hasattr(value, "dtype")
    if is_number and not isinstance(value, bool):
        try:
            value = operator.index(value)
        except (TypeError, ValueError, RuntimeError):
            wrong(name, reprlib.repr(value), expected)
    elif is_symbol(value):
        # It is looked at when it has a value.
        return value
    else:
        wrong(name, reprlib.repr(value), expected)
    if not least <= value <= most:
        wrong(name, reprlib.repr(value), expected)
    return value


def real(name, value, least=-math.inf, most=math.inf):
    """Returns a number in a range, as a field of a descriptor takes it."""
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        try:
            value = float(value)
        except OverflowError:
            wrong(name, reprlib.repr(value), "a number that a float can be")
    elif not is_symbol(value):
        wrong(name, reprlib.repr(value), "a number")
    # NaN is in no range.
    if not least <= value <= most:
        wrong(name, value, f"a number from {least} to {most}")
    return value


def is_symbol(value):
    """Tells a number that a framework leaves open while it traces: one of PyTorch has a node in a graph."""
    return hasattr(value, "node")
