"""Attention and its gradients against a dense statement."""

import pytest
import torch
import torch_reference as reference

from retromae import Mask, Queries
from retromae.torch import (
    CountLimit,
    Pool,
    attention,
    draw_masks,
    mask_bits,
    pool_offsets,
    prefix_sums,
    rng_state,
    two_stream_attention,
)

LENGTHS = (1, 2, 17, 0, 33, 64, 65, 129)
TOKENS = sum(LENGTHS)
LONGEST = max(LENGTHS)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Rates are in steps of 1/256.
RATE = 0.25
IDS = ("float32", "bfloat16", "float16")


def projection(dtype, device, dim, heads=2, tokens=TOKENS):
    """Queries, keys and values: views of one array [T, 3, A, d]."""
    return torch.randn(tokens, 3, heads, dim, device=device).to(dtype).unbind(1)


def dense(condition, device):
    """A mask of each sequence: `condition` of query positions [L, 1] and key positions [1, L]."""
    positions = [torch.arange(length, device=device) for length in LENGTHS]
    return [condition(p[:, None], p[None, :]).expand(len(p), len(p)) for p in positions]


def full(device):
    return Mask.FULL, dense(lambda q, k: (q == q) & (k == k), device)


def causal(device):
    return Mask.CAUSAL, dense(lambda q, k: k <= q, device)


def window(device):
    return Mask.window(5, 3), dense(lambda q, k: (k >= q - 5) & (k <= q + 3), device)


def window_with_first(device):
    return Mask.window(4, 0, first=True), dense(
        lambda q, k: ((k >= q - 4) & (k <= q)) | ((k == 0) & (q >= 0)), device
    )


def visible(device):
    masks = [torch.rand(length, length, device=device) < 0.3 for length in LENGTHS]
    # A query that sees nothing.
    masks[-1][7] = False
    return Mask.visible(*mask_bits(masks)), masks


def sampled_pool(device):
    limit = CountLimit(0.5)
    offsets = pool_offsets(LENGTHS, 16)
    rng = rng_state(3, 4, device)
    indices = torch.arange(len(LENGTHS), dtype=torch.int32, device=device)
    starts = torch.randint(-(2**31), 2**31, ((TOKENS + 31) // 32,), dtype=torch.int32, device=device)
    pool = Pool(limit, offsets.to(device), int(offsets[-1]), 16)
    ids = torch.zeros(TOKENS, dtype=torch.int32, device=device)
    masks = draw_masks(ids, prefix_sums(LENGTHS, device), LONGEST, rng, indices, starts, pool)
    seen = reference.pool_visible(masks.bits, offsets, masks.rows, LENGTHS)
    return masks, pool, (rng, indices, starts), seen


def pool(device):
    masks, drawn, _, seen = sampled_pool(device)
    return Mask.pool(masks.bits, drawn.offsets, masks.rows), seen


def generated(device):
    _, drawn, sources, seen = sampled_pool(device)
    return Mask.generated(*sources, *drawn.limit, pool_rows_max=16), seen


def independent(device):
    masks = [torch.rand(length, length, device=device) < 0.5 for length in LENGTHS]
    bits, offsets = mask_bits(masks)
    rows = torch.cat([torch.arange(length, device=device) for length in LENGTHS])
    return Mask.independent(bits, offsets), reference.pool_visible(bits, offsets, rows, LENGTHS)


def permutation(device, include_self=False):
    orders = [torch.randperm(length, device=device) for length in LENGTHS]
    seen = [
        (order[None, :] < order[:, None]) | (include_self and order[None, :] == order[:, None])
        for order in orders
    ]
    return Mask.permutation(torch.cat(orders).to(torch.int16), include_self), seen


def permutation_with_self(device):
    return permutation(device, True)


MASKS = (
    full,
    causal,
    window,
    window_with_first,
    visible,
    pool,
    generated,
    independent,
    permutation,
    permutation_with_self,
)


def kept_factors(query, key, cu, mask, rng, site=0):
    """What dropout multiplied each probability with, [A, L, L] of each sequence: the output on values that are rows of an
    identity matrix is the probabilities."""
    dim = query.shape[2]
    positions = torch.cat([torch.arange(length, device=query.device) for length in LENGTHS])
    columns = []
    for first in range(0, LONGEST, dim):
        ones = torch.nn.functional.one_hot((positions - first).clamp(0, dim - 1), dim)
        ones = ones * ((positions >= first) & (positions < first + dim))[:, None]
        values = ones.to(query.dtype)[:, None].expand_as(key).contiguous()
        options = dict(mask=mask, dropout_p=RATE, dropout_rng=rng, dropout_site=site)
        columns.append(attention(query, key, values, cu, LONGEST, **options))
    dropped = torch.cat(columns, 2)
    return [
        (part[:, :, : len(part)] != 0).transpose(0, 1) / (1 - RATE)
        for part in reference.parts(dropped, LENGTHS)
    ]


@pytest.mark.parametrize("dim", (32, 64, 96, 128))
@pytest.mark.parametrize("dtype", DTYPES, ids=IDS)
def test_every_head_size(device, dtype, dim):
    mask, seen = pool(device)
    check(device, dtype, dim, mask, seen)


@pytest.mark.parametrize("make", MASKS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("dtype", DTYPES, ids=IDS)
def test_every_mask(device, dtype, make):
    check(device, dtype, 32, *make(device))


def check(device, dtype, dim, mask, seen, scale=0.0):
    query, key, value = projection(dtype, device, dim)
    cu = prefix_sums(LENGTHS, device)
    reference.compare(
        ("d_query", "d_key", "d_value"),
        lambda *qkv: attention(*qkv, cu, LONGEST, mask=mask, scale=scale),
        lambda *qkv: reference.attention(*qkv, LENGTHS, seen, scale),
        torch.randn_like(query),
        (query, key, value),
    )


def test_scale(device):
    check(device, torch.float32, 32, *full(device), scale=0.5)


@pytest.mark.parametrize("make", (full, pool), ids=lambda make: make.__name__)
@pytest.mark.parametrize("dtype", DTYPES, ids=IDS)
def test_dropout(device, dtype, make):
    mask, seen = make(device)
    query, key, value = projection(dtype, device, 32)
    # Scores near 0, so that no probability is too small to be seen.
    query = query / 4
    cu = prefix_sums(LENGTHS, device)
    rng = rng_state(1, 2, device)
    factors = kept_factors(query, key, cu, mask, rng, site=3)
    share = (
        torch.cat([factor[:, seen[i]].flatten() for i, factor in enumerate(factors)]).ne(0).double().mean()
    )
    assert abs(share - (1 - RATE)) < 0.02
    reference.compare(
        ("d_query", "d_key", "d_value"),
        lambda *qkv: attention(*qkv, cu, LONGEST, mask=mask, dropout_p=RATE, dropout_rng=rng, dropout_site=3),
        lambda *qkv: reference.attention(*qkv, LENGTHS, seen, factors=factors),
        torch.randn_like(query),
        (query, key, value),
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=IDS)
def test_queries_apart_from_keys(device, dtype):
    """Some tokens of each sequence ask, in any order."""
    query_lengths = tuple(length // 2 for length in LENGTHS)
    positions = [torch.randperm(n, device=device)[: n // 2] for n in LENGTHS]
    _, key, value = projection(dtype, device, 32)
    query, *_ = projection(dtype, device, 32, tokens=sum(query_lengths))
    query = query.contiguous()
    seen = [
        torch.arange(length, device=device)[None, :] <= place[:, None]
        for length, place in zip(LENGTHS, positions, strict=True)
    ]
    queries = Queries(
        prefix_sums(query_lengths, device), max(query_lengths), torch.cat(positions).to(torch.int32)
    )
    cu = prefix_sums(LENGTHS, device)
    reference.compare(
        ("d_query", "d_key", "d_value"),
        lambda *qkv: attention(*qkv, cu, LONGEST, mask=Mask.CAUSAL, queries=queries),
        lambda *qkv: reference.attention(*qkv, LENGTHS, seen, query_lengths=query_lengths),
        torch.randn_like(query),
        (query, key, value),
    )


def test_two_streams_are_attention_under_a_pool(device):
    masks, drawn, _, _ = sampled_pool(device)
    query, key, value = projection(torch.float32, device, 32)
    cu = prefix_sums(LENGTHS, device)
    for rows, mask in (
        (masks.rows, Mask.pool(masks.bits, drawn.offsets, masks.rows)),
        (None, Mask.independent(*independent(device)[0][2:4])),
    ):
        two = two_stream_attention(query, key, value, cu, LONGEST, mask.bits, mask.offsets, rows)
        assert torch.equal(two, attention(query, key, value, cu, LONGEST, mask=mask))


def test_words_of_either_sign(device):
    mask, _ = pool(device)
    query, key, value = projection(torch.float32, device, 32)
    cu = prefix_sums(LENGTHS, device)
    unsigned = Mask.pool(
        mask.bits.view(torch.uint32), mask.offsets.view(torch.uint32), mask.rows.view(torch.uint16)
    )
    first, second = (attention(query, key, value, cu, LONGEST, mask=m) for m in (mask, unsigned))
    assert torch.equal(first, second)


def test_one_tensor_in_several_places(device):
    """What is remembered of a call with one tensor holds for others of its shape."""
    query, key, value = (tensor.contiguous() for tensor in projection(torch.float32, device, 96))
    cu = prefix_sums(LENGTHS, device)
    seen = full(device)[1]
    for tensors in ((query, query, query), (query, key, value), (key, key, value)):
        output = attention(*tensors, cu, LONGEST)
        exact = reference.attention(*(tensor.double() for tensor in tensors), LENGTHS, seen)
        torch.testing.assert_close(output.double(), exact, rtol=0, atol=1e-5)


def test_draws_follow_the_seed(device):
    query, key, value = projection(torch.float32, device, 32)
    cu = prefix_sums(LENGTHS, device)

    def run(seed):
        torch.manual_seed(seed)
        return [attention(query, key, value, cu, LONGEST, dropout_p=RATE) for _ in range(2)]

    first, again, other = run(1), run(1), run(2)
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], first[1]) and not torch.equal(first[0], other[0])


def test_draws_follow_the_site(device):
    query, key, value = projection(torch.float32, device, 32)
    cu = prefix_sums(LENGTHS, device)
    rng = rng_state(1, 2, device)
    first, again, other = (
        attention(query, key, value, cu, LONGEST, dropout_p=RATE, dropout_rng=rng, dropout_site=site)
        for site in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=IDS[1:])
def test_atomic_gradients(device, dtype):
    query, key, value = projection(dtype, device, 64)
    cu = prefix_sums(LENGTHS, device)
    mask, seen = full(device)
    reference.compare(
        ("d_query", "d_key", "d_value"),
        lambda *qkv: attention(*qkv, cu, LONGEST, atomic=True),
        lambda *qkv: reference.attention(*qkv, LENGTHS, seen),
        torch.randn_like(query),
        (query, key, value),
    )
