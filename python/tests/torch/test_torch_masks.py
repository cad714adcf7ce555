"""Sampled masks, packed masks, and what is computed from lengths."""

import ctypes

import pytest
import torch
import torch_reference as reference

from retromae import _host
from retromae.torch import (
    Corruption,
    CountLimit,
    Pool,
    Replacement,
    draw_masks,
    labeled_offsets,
    mask_bits,
    pool_offsets,
    prefix_sums,
    rng_state,
)

# The permutations of sentences of more than 1,024 tokens lie in a workspace.
LENGTHS = (1, 2, 17, 33, 64, 65, 129, 1100)
TOKENS = sum(LENGTHS)
LIMIT = CountLimit(0.3)
REPLACEMENT = Replacement(mask_id=4, vocab_size=1000)


def draw(device, pool=True, encoder=True, decoder=True, seed=1):
    offsets = pool_offsets(LENGTHS, 128, device)
    labeled = labeled_offsets(LENGTHS, LIMIT, device)
    corruption = Corruption(LIMIT, REPLACEMENT, labeled, int(labeled[-1]))
    ids = torch.arange(100, 100 + TOKENS, dtype=torch.int32, device=device)
    starts = torch.full(((TOKENS + 31) // 32,), -1, dtype=torch.int32, device=device)
    masks = draw_masks(
        ids,
        prefix_sums(LENGTHS, device),
        max(LENGTHS),
        rng_state(seed, 2, device),
        torch.arange(len(LENGTHS), dtype=torch.int32, device=device),
        starts,
        Pool(LIMIT, offsets, int(offsets[-1])) if pool else None,
        corruption if encoder else None,
        corruption if decoder else None,
    )
    return ids, offsets, labeled, masks


def test_pools_hide_as_many_tokens_as_their_limit(device):
    _, offsets, _, masks = draw(device)
    spans = zip(offsets.tolist(), offsets.tolist()[1:], LENGTHS, strict=False)
    for first, last, length in spans:
        pool = reference.unpack(masks.bits[first:last].view(-1, (length + 31) // 32), length)
        assert len(pool) == min(length, 128)
        # The first and the last token are never hidden.
        limit = min(max(1, round(length * LIMIT.ratio)), max(0, length - 2))
        assert ((~pool).sum(1) == limit).all()
    assert all(0 <= row < 128 for row in masks.rows.tolist())


def test_corrupted_inputs(device):
    ids, _, offsets, masks = draw(device)
    for corrupted in (masks.encoder, masks.decoder):
        rows = corrupted.labeled_rows
        used = rows >= 0
        assert torch.equal(corrupted.targets[used], ids[rows[used].long()])
        assert (corrupted.targets[~used] == -100).all()
        assert corrupted.counts.sum() == used.sum()
        unchosen = torch.ones(TOKENS, dtype=torch.bool, device=ids.device)
        unchosen[rows[used].long()] = False
        assert torch.equal(corrupted.input_ids[unchosen], ids[unchosen])
        assert (corrupted.input_ids[~unchosen] == 4).double().mean() > 0.5
        starts = prefix_sums(LENGTHS, device)
        chosen = (~unchosen).cumsum(0)
        ends = chosen[(starts[1:] - 1).long()]
        assert torch.equal(torch.diff(ends, prepend=ends.new_zeros(1)), corrupted.counts.long())
    assert not torch.equal(masks.encoder.input_ids, masks.decoder.input_ids)


@pytest.mark.parametrize("asked", range(1, 8))
def test_only_what_is_asked_for(device, asked):
    flags = [bool(asked >> place & 1) for place in range(3)]
    masks = draw(device, *flags)[-1]
    every = draw(device)[-1]
    for found, whole, flag in (
        (masks.bits, every.bits, flags[0]),
        (masks.rows, every.rows, flags[0]),
        (masks.encoder, every.encoder, flags[1]),
        (masks.decoder, every.decoder, flags[2]),
    ):
        if not flag:
            assert found is None
        elif isinstance(found, torch.Tensor):
            assert torch.equal(found, whole)
        else:
            assert all(torch.equal(one, other) for one, other in zip(found, whole, strict=True))


def test_draws_follow_the_random_state(device):
    first, again, other = (draw(device, seed=seed)[-1].encoder.input_ids for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("lengths", (LENGTHS, (0,), (), (32, 0, 31), (1,)), ids=str)
def test_masks_are_packed_as_by_the_library(device, lengths):
    masks = [torch.rand(length, length, device=device) < 0.5 for length in lengths]
    bits, offsets = mask_bits(masks)
    packed = torch.cat([mask.flatten().cpu() for mask in masks] or [torch.empty(0, dtype=torch.bool)])
    expected, expected_offsets = _host.mask_bits(lengths, packed.data_ptr())
    assert [word % 2**32 for word in bits.tolist()] == list(expected)
    assert offsets.tolist() == list(expected_offsets)
    assert not masks or bits.device == offsets.device == masks[0].device


def test_what_follows_from_lengths(device):
    assert prefix_sums([3, 0, 5], device).tolist() == [0, 3, 3, 8]
    assert prefix_sums([], device).tolist() == [0]
    assert pool_offsets([3, 40], 128, device).tolist() == [0, 3, 83]
    assert labeled_offsets([10, 20], CountLimit(0.3), device).tolist() == [0, 3, 9]
    words = (ctypes.c_uint32 * 4).from_buffer_copy(rng_state(2**63 + 5, 7).numpy().tobytes())
    assert list(words) == list(_host.rng_state(2**63 + 5, 7))
