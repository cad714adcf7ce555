"""Tensors that are computed on the host from lengths and seeds, and packed masks."""

import ctypes
from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from .. import _host
from .._operations import CountLimit, bit_words
from ..errors import wrong


def _tensor(words, device):
    """A tensor of 32-bit words that ctypes holds, int32 whatever their sign. On its way to a GPU nothing is waited for."""
    tensor = torch.frombuffer(words, dtype=torch.int32)
    if device is None or torch.device(device).type == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


def rng_state(seed: int, step: int = 0, device: torch.device | str | None = None) -> Tensor:
    """The four words, int32 [4], that a step's dropout and masks are drawn from."""
    return _tensor(_host.rng_state(seed, step), device)


def prefix_sums(lengths: Sequence[int], device: torch.device | str | None = None) -> Tensor:
    """Prefix sums of the lengths, int32 [B + 1]: `cu_seqlens`."""
    return _tensor(_host.prefix_sums(lengths), device)


def pool_offsets(lengths: Sequence[int], rows_max: int, device: torch.device | str | None = None) -> Tensor:
    """First word of each sentence's pool of at most `rows_max` masks, int32 [B + 1]; the last is the number of words."""
    return _tensor(_host.pool_offsets(lengths, rows_max), device)


def labeled_offsets(
    lengths: Sequence[int], limit: CountLimit, device: torch.device | str | None = None
) -> Tensor:
    """First labeled row of each sentence, int32 [B + 1]; the last is their number."""
    return _tensor(_host.labeled_offsets(lengths, limit), device)


def mask_bits(visible: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Packs a boolean mask [L, L] for each sequence, true where a query (row) sees a key, for `Mask.visible`.

    Returns bits, int32 [words], and offsets, int32 [B + 1], on the device of the masks.
    """
    if not isinstance(visible, Sequence):
        wrong("visible", f"a {type(visible).__name__}", "a sequence of tensors")
    for place, mask in enumerate(visible):
        name = f"visible[{place}]"
        if not isinstance(mask, Tensor) or mask.dtype is not torch.bool:
            wrong(
                name, f"a {type(mask).__name__} of {getattr(mask, 'dtype', None)}", "a tensor of torch.bool"
            )
        if mask.dim() != 2 or mask.shape[0] != mask.shape[1]:
            wrong(name, f"of shape {list(mask.shape)}", "[L, L]")
        if mask.device != visible[0].device:
            wrong(name, f"on device {mask.device}", f"on {visible[0].device}, as the others")
    sizes = [len(mask) * bit_words(len(mask)) for mask in visible]
    offsets = [0, *accumulate(sizes)]
    if offsets[-1] >= 2**32:
        wrong("visible", f"of {offsets[-1]} words of bits", "of fewer than 2^32")
    device = visible[0].device if len(visible) else None
    bits = [_pack(mask) for mask in visible]
    words = torch.cat(bits) if bits else torch.empty(0, dtype=torch.int32)
    return words, _tensor((ctypes.c_uint32 * len(offsets))(*offsets), device)


def _pack(mask):
    """Words of 32 bits, lowest first, each row padded to whole words."""
    length = len(mask)
    words = bit_words(length)
    padded = torch.nn.functional.pad(mask, (0, 32 * words - length)).view(length * words, 32)
    weights = 1 << torch.arange(32, device=mask.device)
    return (padded * weights).sum(1).to(torch.int32)
