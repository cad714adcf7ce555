"""What is computed on the host: sizes that follow from lengths, packed masks, random states."""

import ctypes
import operator
from itertools import accumulate

from . import _abi
from ._library import LIBRARY, check
from ._operations import CountLimit
from .errors import wrong


def _lengths(lengths):
    """Returns the lengths of sequences as integers."""
    try:
        values = [operator.index(length) for length in lengths]
    except TypeError:
        wrong("lengths", repr(lengths), "integers, the number of tokens of each sequence")
    total = sum(values)
    if total >= 2**31 or any(value < 0 for value in values):
        wrong(
            "lengths", f"of {total} tokens, the least {min(values)}", "at least 0 each, below 2^31 together"
        )
    return values


def prefix_sums(lengths):
    """Prefix sums [B + 1] of the lengths."""
    values = _lengths(lengths)
    return (ctypes.c_int32 * (len(values) + 1))(0, *accumulate(values))


def pool_offsets(lengths, rows_max):
    """First word [B + 1] of each sequence's pool of at most `rows_max` masks; the last is the number of words."""
    sums = prefix_sums(lengths)
    offsets = (ctypes.c_uint32 * len(sums))()
    check(LIBRARY.rmae_masks_pool_offsets(sums, len(sums) - 1, rows_max, offsets))
    return offsets


def labeled_offsets(lengths, limit: CountLimit):
    """First labeled row [B + 1] of each sequence; the last is their number."""
    sums = prefix_sums(lengths)
    offsets = (ctypes.c_int32 * len(sums))()
    limit = _abi.rmae_count_limit(limit.ratio, limit.cap)
    check(LIBRARY.rmae_masks_labeled_offsets(sums, len(sums) - 1, limit, offsets))
    return offsets


def mask_bits(lengths, visible: int):
    """Bits [words] and offsets [B + 1] of booleans: `visible` is the address of [L, L] bytes for each sequence."""
    values = _lengths(lengths)
    count = len(values)
    lengths = (ctypes.c_int64 * count)(*values)
    offsets = (ctypes.c_uint32 * (count + 1))()
    check(LIBRARY.rmae_mask_bits(lengths, count, visible, offsets, None))
    bits = (ctypes.c_uint32 * offsets[count])()
    check(LIBRARY.rmae_mask_bits(lengths, count, visible, offsets, bits))
    return bits, offsets


def rng_state(seed: int, step: int):
    """The four words of a step's random state."""
    words = (ctypes.c_uint32 * 4)()
    LIBRARY.rmae_rng_state(seed % 2**64, step % 2**32, words)
    return words
