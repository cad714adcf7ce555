"""What is computed on the host: sizes that follow from lengths, packed masks, random states."""

import ctypes
import operator
import reprlib
from itertools import accumulate

from . import _abi
from ._call import instance, integer, real
from ._library import LIBRARY, check
from ._operations import I32_MAX, I64_MAX, CountLimit
from .errors import wrong


def _lengths(lengths):
    """Returns the lengths of sequences as integers."""
    try:
        values = [operator.index(length) for length in lengths]
    except TypeError:
        wrong("lengths", reprlib.repr(lengths), "integers, the number of tokens of each sequence")
    total = sum(values)
    if total > I32_MAX or any(value < 0 for value in values):
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
    rows_max = integer("rows_max", rows_max, 1, 2**16)
    offsets = (ctypes.c_uint32 * len(sums))()
    check(LIBRARY.rmae_masks_pool_offsets(sums, len(sums) - 1, rows_max, offsets))
    return offsets


def labeled_offsets(lengths, limit: CountLimit):
    """First labeled row [B + 1] of each sequence; the last is their number."""
    sums = prefix_sums(lengths)
    instance("limit", limit, CountLimit)
    ratio, cap = real("limit.ratio", limit.ratio, 0, 1), integer("limit.cap", limit.cap, 0, I64_MAX)
    offsets = (ctypes.c_int32 * len(sums))()
    field = _abi.rmae_count_limit(ratio, cap)
    check(LIBRARY.rmae_masks_labeled_offsets(sums, len(sums) - 1, field, offsets))
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
    # A seed of 64 bits of either sign.
    seed = integer("seed", seed, -(2**63), 2**64 - 1) % 2**64
    LIBRARY.rmae_rng_state(seed, integer("step", step, 0, 2**32 - 1), words)
    return words
