"""The operations on PyTorch's tensors, on CPU and CUDA devices, with gradients.

They run on PyTorch's current stream without waiting for it, and under torch.compile, autocast, torch.cuda.graph, activation
checkpointing, DistributedDataParallel and fully_shard.
"""

from .._operations import Bags, Corrupted, Corruption, CountLimit, Mask, Masks, Pool, Queries, Replacement
from ._functions import (
    attention,
    bag_of_words_loss,
    draw_masks,
    dropout_add_layer_norm,
    linear_cross_entropy,
    two_stream_attention,
)
from ._tensors import labeled_offsets, mask_bits, pool_offsets, prefix_sums, rng_state
from .collator import RetroMAECollator

__all__ = [
    "Bags",
    "Corrupted",
    "Corruption",
    "CountLimit",
    "Mask",
    "Masks",
    "Pool",
    "Queries",
    "Replacement",
    "RetroMAECollator",
    "RetroMAEForPretraining",
    "attention",
    "bag_of_words_loss",
    "draw_masks",
    "dropout_add_layer_norm",
    "labeled_offsets",
    "linear_cross_entropy",
    "mask_bits",
    "pool_offsets",
    "prefix_sums",
    "rng_state",
    "two_stream_attention",
]


def __getattr__(name):
    # The model needs transformers, which nothing else here does.
    if name == "RetroMAEForPretraining":
        from .pretraining import RetroMAEForPretraining

        return RetroMAEForPretraining
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
