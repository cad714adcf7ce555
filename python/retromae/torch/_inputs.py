"""The inputs of a pre-training step on the model's device: drawn from a packed batch, or taken from a padded one."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import _operations
from .._operations import Bags, Corruption, CountLimit, Mask, Pool, Replacement
from ..errors import wrong
from ._functions import draw_masks
from ._tensors import mask_bits
from .collator import PackedBatch

IGNORED = -100


class Predicted(NamedTuple):
    """A corrupted input: ids int32 [T], rows [M] that predict, and the ids int32 [M] that they should (-100: none)."""

    ids: Tensor
    rows: Tensor
    targets: Tensor


class Inputs(NamedTuple):
    """Sentences one after the other: prefix sums int32 [B + 1] of their lengths and the largest; the sentence [T] and the position
    [T] of each token; what encoder and decoder read and predict; the keys that each of the decoder's queries sees; and bags of
    words."""

    cu_seqlens: Tensor
    max_seqlen: int
    sentences: Tensor
    positions: Tensor
    encoder: Predicted
    decoder: Predicted
    mask: Mask
    bags: Bags | None


def _places(cu_seqlens, tokens):
    """Returns the sentence and the position of each of `tokens` tokens."""
    rows = torch.arange(tokens, dtype=torch.int32, device=cu_seqlens.device)
    sentences = torch.bucketize(rows, cu_seqlens[1:], out_int32=True, right=True)
    return sentences, rows - cu_seqlens.index_select(0, sentences)


def draw(batch: PackedBatch, rng: Tensor, vocab_size: int, enhanced: bool) -> Inputs:
    """Draws what is masked in a packed batch, from the four words `rng`. Does not wait for the device."""

    def corruption(ratio, offsets, labeled, replacement):
        return Corruption(CountLimit(ratio), replacement, offsets, labeled)

    pool = decoder = None
    if enhanced:
        limit = CountLimit(batch.decoder_mlm_probability)
        pool = Pool(limit, batch.pool_offsets, batch.pool_words, batch.pool_rows)
    else:
        decoder = corruption(
            batch.decoder_mlm_probability,
            batch.decoder_offsets,
            batch.decoder_labeled,
            Replacement(batch.mask_token_id, vocab_size, mask_share=1.0, random_share=0.0),
        )
    masks = draw_masks(
        batch.input_ids,
        batch.cu_seqlens,
        batch.max_seqlen,
        rng,
        batch.sentence_indices,
        batch.word_starts,
        pool=pool,
        encoder=corruption(
            batch.encoder_mlm_probability,
            batch.encoder_offsets,
            batch.encoder_labeled,
            Replacement(batch.mask_token_id, vocab_size),
        ),
        decoder=decoder,
    )
    ids, cu_seqlens = batch.input_ids, batch.cu_seqlens
    sentences, positions = _places(cu_seqlens, ids.shape[0])
    if enhanced:
        # All tokens but the first and the last of each sentence.
        count = batch.sentence_indices.shape[0]
        inner = torch.arange(ids.shape[0] - 2 * count, dtype=torch.int32, device=ids.device)
        ends = cu_seqlens[1:] - 2 * torch.arange(1, count + 1, dtype=torch.int32, device=ids.device)
        rows = inner + 2 * torch.bucketize(inner, ends, out_int32=True, right=True) + 1
        decoder = Predicted(ids, rows, ids.index_select(0, rows))
        mask = Mask.pool(masks.bits, batch.pool_offsets, masks.rows)
    else:
        decoder, mask = _labeled(masks.decoder), Mask.FULL
    bags = None if batch.bag_ids is None else Bags(batch.bag_offsets, batch.bag_ids, batch.bag_weights)
    return Inputs(
        cu_seqlens,
        batch.max_seqlen,
        sentences,
        positions,
        _labeled(masks.encoder),
        decoder,
        mask,
        bags,
    )


def _labeled(corrupted: _operations.Corrupted) -> Predicted:
    # Rows without a label have none of their own either.
    return Predicted(corrupted.input_ids, corrupted.labeled_rows.clamp(min=0), corrupted.targets)


def unpad(
    encoder_input_ids: Tensor,
    encoder_attention_mask: Tensor,
    encoder_labels: Tensor,
    decoder_input_ids: Tensor,
    decoder_attention_mask: Tensor | None,
    decoder_labels: Tensor,
    bag_word_weight: Tensor | None,
) -> Inputs:
    """Takes a padded batch, [B, L] each, whose masks are drawn: `decoder_attention_mask` [B, L, L] is not 0 where a query sees a
    key, `bag_word_weight` is [B, V]. Waits for the device, as it must know how many tokens and labels there are."""
    shape = encoder_input_ids.shape
    if len(shape) != 2:
        wrong("encoder_input_ids", f"of shape {list(shape)}", "[B, L]")
    for name, array in (
        ("encoder_attention_mask", encoder_attention_mask),
        ("encoder_labels", encoder_labels),
        ("decoder_input_ids", decoder_input_ids),
        ("decoder_labels", decoder_labels),
    ):
        if array is None or array.shape != shape:
            actual = "None" if array is None else f"of shape {list(array.shape)}"
            wrong(name, actual, f"{list(shape)}, as encoder_input_ids is")
    attended = encoder_attention_mask != 0
    lengths = attended.sum(1)
    packed = torch.arange(shape[1], device=lengths.device) < lengths[:, None]
    if not bool(((packed == attended) & attended[:, :1]).all()):
        wrong("encoder_attention_mask", "of other rows", "of rows of ones, at least one, and then zeros")
    sizes = lengths.tolist()
    kept = attended.flatten().nonzero().squeeze(1)
    cu_seqlens = F.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)

    def predicted(ids, labels):
        labels = labels.flatten()[kept]
        rows = (labels != IGNORED).nonzero().squeeze(1)
        return Predicted(ids.flatten()[kept].to(torch.int32), rows, labels[rows].to(torch.int32))

    mask = Mask.FULL
    if decoder_attention_mask is not None:
        if decoder_attention_mask.shape != (*shape, shape[1]):
            actual = f"of shape {list(decoder_attention_mask.shape)}"
            wrong("decoder_attention_mask", actual, f"{[*shape, shape[1]]}")
        visible = zip(decoder_attention_mask != 0, sizes, strict=True)
        mask = Mask.visible(*mask_bits([seen[:length, :length] for seen, length in visible]))
    bags = None
    if bag_word_weight is not None:
        place, ids = bag_word_weight.nonzero(as_tuple=True)
        ends = torch.bincount(place, minlength=shape[0]).cumsum(0)
        offsets = F.pad(ends, (1, 0)).to(torch.int32)
        bags = Bags(offsets, ids.to(torch.int32), bag_word_weight[place, ids].float())
    return Inputs(
        cu_seqlens,
        max(sizes),
        *_places(cu_seqlens, kept.shape[0]),
        predicted(encoder_input_ids, encoder_labels),
        predicted(decoder_input_ids, decoder_labels),
        mask,
        bags,
    )
