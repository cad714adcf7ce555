"""The operations on NumPy arrays, in the CPU emulator of the GPU's kernels: for tests and for code without a framework.

Arrays are float32, float16, or bfloat16 of ml_dtypes. Each operation has a function for its result and one for its gradients.
"""

import ctypes
from collections.abc import Sequence

import numpy as np

from . import _host, _operations
from ._library import LIBRARY, check, device
from ._operations import (
    AttentionOptions,
    Dropout,
    Mask,
    Queries,
)
from .errors import wrong


class _Arrays:
    """NumPy's arrays; calls run at once on the host device."""

    def __init__(self):
        # What a descriptor points to, until the call has run.
        self.kept = []

    def look(self, name, array):
        if not isinstance(array, np.ndarray):
            wrong(name, f"a {type(array).__name__}", "a NumPy array")
        if not array.dtype.isnative:
            wrong(name, f"of dtype {array.dtype}, in another byte order", "in the machine's byte order")
        return array.shape, array.dtype.name

    def strides(self, array):
        size = array.itemsize
        # A stride that is no multiple of the element belongs to no array that a kernel could read.
        return tuple(stride // size if stride % size == 0 else -1 for stride in array.strides)

    def descriptor(self, kind):
        return kind()

    def bind(self, call, struct, field, array):
        self.kept.append(array)
        setattr(struct, field, array.ctypes.data)

    def empty(self, shape, dtype):
        return np.empty(shape, _dtype(dtype))

    def zeros(self, shape, dtype):
        return np.zeros(shape, _dtype(dtype))

    def workspace(self, call, function):
        size = ctypes.c_size_t()
        desc = call.desc
        check(getattr(LIBRARY, function)(device("host"), ctypes.byref(desc), ctypes.byref(size)))
        desc.workspace_bytes = size.value
        self.bind(call, desc, "workspace", np.empty(size.value, np.uint8))

    def run(self, call, function):
        check(getattr(LIBRARY, function)(device("host"), None, ctypes.byref(call.desc)))


def _dtype(name):
    if name == "bfloat16":
        from ml_dtypes import bfloat16

        return bfloat16
    return np.dtype(name)


def _longest(cu_seqlens):
    """The largest step of prefix sums, which are checked later."""
    if isinstance(cu_seqlens, np.ndarray) and cu_seqlens.ndim == 1 and cu_seqlens.size > 1:
        return max(0, int(np.diff(cu_seqlens.astype(np.int64)).max()))
    return 0


def attention(
    query: np.ndarray,
    key: np.ndarray,
    value: np.ndarray,
    cu_seqlens: np.ndarray,
    *,
    mask: Mask = Mask.FULL,
    queries: Queries | None = None,
    dropout: Dropout | None = None,
    scale: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """dropout(softmax(scale * Q K^T + mask)) V, a head and a sequence at a time.

    `query` is [Tq, A, d], `key` and `value` are [T, A, d], of float32, float16 or bfloat16; d is 32, 64, 96 or 128. `cu_seqlens`
    is int32 [B + 1]: prefix sums of the lengths. `scale` 0 stands for 1 / sqrt(d). Returns the output [Tq, A, d] and the
    log-sum-exp [A, Tq] of the scores.
    """
    options = AttentionOptions(cu_seqlens, _longest(cu_seqlens), mask, queries, dropout, scale)
    return _operations.attention_forward(_Arrays(), query, key, value, options)


def attention_backward(
    d_output: np.ndarray,
    query: np.ndarray,
    key: np.ndarray,
    value: np.ndarray,
    output: np.ndarray,
    log_sum_exp: np.ndarray,
    cu_seqlens: np.ndarray,
    *,
    mask: Mask = Mask.FULL,
    queries: Queries | None = None,
    dropout: Dropout | None = None,
    scale: float = 0.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gradients of `query`, `key` and `value`, from that of the output of `attention`, and from what it returned."""
    options = AttentionOptions(cu_seqlens, _longest(cu_seqlens), mask, queries, dropout, scale)
    return _operations.attention_backward(
        _Arrays(), d_output, query, key, value, output, log_sum_exp, options
    )


def rng_state(seed: int, step: int = 0) -> np.ndarray:
    """The four words that a step's dropout and masks are drawn from."""
    return np.frombuffer(_host.rng_state(seed, step), np.uint32)


def mask_bits(visible: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Packs a boolean mask [L, L] for each sequence, true where a query (row) sees a key, for `Mask.visible`: bits and
    offsets."""
    for place, array in enumerate(visible):
        name = f"visible[{place}]"
        if not isinstance(array, np.ndarray) or array.dtype != np.bool_:
            wrong(
                name, f"a {type(array).__name__} of {getattr(array, 'dtype', None)}", "a NumPy array of bool"
            )
        if array.ndim != 2 or array.shape[0] != array.shape[1]:
            wrong(name, f"of shape {list(array.shape)}", "[L, L]")
    packed = np.concatenate([np.ravel(array) for array in visible] or [np.empty(0, np.bool_)])
    lengths = [array.shape[0] for array in visible]
    return tuple(np.frombuffer(words, np.uint32) for words in _host.mask_bits(lengths, packed.ctypes.data))
