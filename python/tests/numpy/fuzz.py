"""Calls NumPy functions with random arguments: `python fuzz.py COUNT SEED`. Each call runs or raises a retromae.Error; the process ends
with 0, and says how many did what."""

import collections
import faulthandler
import random
import sys
import warnings

import numpy as np
from calls import CALLS, get, paths, replaced

import retromae

NUMBERS = [0, 1, -1, 2, 31, 255, 2**16, 2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**63, -(2**63), 2**70]
REALS = [0.0, 0.5, 1.0, -1.0, 1e-30, 1e30, 1e300, float("nan"), float("inf"), -float("inf")]
OTHERS = [
    None,
    "",
    "text",
    b"bytes",
    (),
    [],
    {},
    object(),
    int,
    True,
    1j,
    range(3),
    np.float32(1),
    np.int64(3),
]
DTYPES = [
    "f4",
    "f2",
    "f8",
    "i4",
    "u4",
    "i2",
    "u2",
    "i8",
    "u1",
    "?",
    ">f4",
    ">i4",
    "c8",
    "O",
    "S3",
    "M8[s]",
    "f4,i4",
]


def other_array(sampler, array):
    """An array that is like `array` in some way."""
    kind = sampler.randrange(8)
    if array.dtype.hasobject or array.dtype.kind not in "iuf":
        return array.T
    if kind == 0:
        # Other values of the same type: out of range, most of them.
        bits = np.frombuffer(sampler.randbytes(array.nbytes), np.uint8)
        return bits.view(array.dtype).reshape(array.shape)
    if kind == 1:
        return np.zeros(array.shape, sampler.choice(DTYPES))
    if kind == 2:
        return np.zeros([sampler.choice([0, 1, 2, 9, 32]) for _ in range(sampler.randrange(4))], array.dtype)
    if kind == 3 and array.ndim:
        return array[:: sampler.choice([-2, -1, 2, 3])]
    if kind == 4 and array.ndim:
        return np.broadcast_to(array[:1], array.shape)
    if kind == 5:
        memory = np.zeros(array.nbytes + 8, np.uint8)
        start = sampler.choice([1, 2, 4, 8])
        return memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    if kind == 6:
        return np.zeros((*array.shape[:1], 0), array.dtype)
    return array.T


def other_value(sampler, value):
    choice = sampler.randrange(6)
    if isinstance(value, np.ndarray) and choice:
        return other_array(sampler, value)
    if isinstance(value, (int, float)) and choice > 1:
        return sampler.choice(NUMBERS + REALS)
    if isinstance(value, list) and choice > 1:
        return [sampler.choice([0, 1, 5, *NUMBERS, *OTHERS]) for _ in range(sampler.randrange(4))]
    return sampler.choice([*NUMBERS, *REALS, *OTHERS])


def main(count, seed):
    faulthandler.enable()
    # NumPy's own, about arrays of floats that are compared or cast.
    warnings.simplefilter("ignore")
    sampler = random.Random(seed)
    calls = [(name, function, arguments()) for name, (function, arguments) in CALLS.items()]
    outcomes = collections.Counter()
    for number in range(count):
        name, function, arguments = sampler.choice(calls)
        for _ in range(sampler.choice([1, 1, 1, 2, 3])):
            path = sampler.choice(list(paths(arguments)))
            arguments = replaced(arguments, path, other_value(sampler, get(arguments, path)))
        try:
            function(**arguments)
            outcomes["ran"] += 1
        except retromae.Error as error:
            outcomes[type(error).__name__] += 1
            fault = not isinstance(
                error, retromae.InvalidArgument | retromae.Unsupported | retromae.OutOfMemory
            )
            if fault or not isinstance(error, retromae.OutOfMemory) and "; it should be " not in str(error):
                raise AssertionError(f"call {number} of {name}: {error}") from error
        except Exception as error:
            raise AssertionError(f"call {number} of {name}: {error!r} is no retromae.Error") from error
    print(dict(outcomes))
    assert outcomes["ran"] > count // 20 and outcomes["InvalidArgument"] > count // 4, outcomes


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
