"""Calls with wrong arguments, drawn from a seed: each returns, or raises one of our exceptions. Run with a seed and a number of
calls."""

import random
import sys
import warnings

import torch

import retromae
from retromae import torch as operations

warnings.filterwarnings("ignore")
LENGTHS = (3, 0, 17, 33)
TOKENS = sum(LENGTHS)
COLUMNS, VOCAB = 64, 37


def integers(*values):
    return torch.tensor(values, dtype=torch.int32)


def calls():
    """Operations with arguments that are right."""
    cu = operations.prefix_sums(LENGTHS)
    limit = operations.CountLimit(0.3)
    offsets = operations.pool_offsets(LENGTHS, 128)
    labeled = operations.labeled_offsets(LENGTHS, limit)
    corruption = operations.Corruption(limit, operations.Replacement(4, VOCAB), labeled, int(labeled[-1]))
    qkv = dict(zip(("query", "key", "value"), torch.randn(TOKENS, 3, 2, 32).unbind(1), strict=True))
    packed = {"cu_seqlens": cu, "max_seqlen": 33}
    matrix = torch.randn(TOKENS, COLUMNS)
    vector = torch.ones(COLUMNS)
    head = {"hidden": matrix, "weight": torch.randn(VOCAB, COLUMNS), "bias": torch.zeros(VOCAB)}
    rng = operations.rng_state(1)
    dropout = {"dropout_p": 0.1, "dropout_rng": rng, "dropout_site": 1}
    bits = torch.randint(-(2**31), 2**31, (int(offsets[-1]),), dtype=torch.int32)
    rows = torch.zeros(TOKENS, dtype=torch.int16)
    starts = torch.full(((TOKENS + 31) // 32,), -1, dtype=torch.int32)
    indices = integers(*range(len(LENGTHS)))
    masks = {
        "rng": rng,
        "sentence_indices": indices,
        "word_starts": starts,
        "ids": torch.zeros(TOKENS, dtype=torch.int32),
        "pool": operations.Pool(limit, offsets, int(offsets[-1])),
        "encoder": corruption,
        "decoder": corruption,
    }
    mask = operations.Mask
    attention = {"mask": mask.FULL, "queries": None, "scale": 0.0, "atomic": False}
    kinds = (
        mask.CAUSAL,
        mask.window(2, 3, True),
        mask.visible(bits, offsets),
        mask.pool(bits, offsets, rows),
        mask.generated(rng, indices, starts, 0.3),
        mask.permutation(torch.zeros(TOKENS, dtype=torch.int16)),
    )
    queries = operations.Queries(operations.prefix_sums((1, 1, 2, 3)), 3, integers(0, 0, 0, 1, 0, 5, 6))
    few = qkv | {"query": torch.randn(7, 2, 32)}
    bags = operations.Bags(integers(0, 1, 1, 3, 4), integers(1, 2, 3, 4), torch.ones(4))
    loss = {"reduction": "mean", "fused": False, "chunk_rows": 16}
    cross_entropy = {"targets": torch.zeros(TOKENS, dtype=torch.int64), "row_weights": torch.ones(TOKENS)}
    cross_entropy |= {"ignore_index": -100, "label_smoothing": 0.1, "z_loss": 0.1, "soft_cap": 5.0}
    bag = {"bags": bags, "sentence_weights": torch.ones(4), "first_position": 1}
    layer_norm = {"input": matrix, "gamma": vector, "beta": vector, "residual": matrix, "bias": vector}
    return [
        (operations.attention, qkv | packed | attention | dropout),
        *((operations.attention, qkv | packed | attention | {"mask": kind}) for kind in kinds),
        (operations.attention, few | packed | attention | {"queries": queries}),
        (operations.two_stream_attention, qkv | packed | {"bits": bits, "offsets": offsets, "rows": rows}),
        (operations.linear_cross_entropy, head | loss | cross_entropy),
        (operations.bag_of_words_loss, head | packed | loss | bag),
        (operations.dropout_add_layer_norm, layer_norm | dropout | {"eps": 1e-5}),
        (operations.draw_masks, masks | packed),
        (operations.mask_bits, {"visible": [torch.ones(5, 5, dtype=torch.bool)]}),
        (operations.prefix_sums, {"lengths": LENGTHS}),
        (operations.pool_offsets, {"lengths": LENGTHS, "rows_max": 128}),
        (operations.labeled_offsets, {"lengths": LENGTHS, "limit": limit}),
        (operations.rng_state, {"seed": 1, "step": 2}),
    ]


DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.complex64, torch.bool)
DTYPES += (torch.int64, torch.int32, torch.uint32, torch.int16, torch.uint8)


def other_tensor(random, tensor):
    """A tensor that differs in something."""
    changes = (
        lambda: tensor.to(random.choice(DTYPES)),
        lambda: tensor.to(random.choice(DTYPES)),
        lambda: tensor[: random.randrange(len(tensor) + 1)] if tensor.dim() else tensor,
        lambda: tensor[None],
        lambda: tensor.flatten(),
        lambda: tensor.to("meta"),
        lambda: tensor.to_sparse(),
        lambda: tensor.T if tensor.dim() < 3 else tensor.transpose(0, 2),
        lambda: torch.cat([tensor, tensor])[::2],
        lambda: tensor[:1].expand_as(tensor),
        lambda: torch._neg_view(tensor),
        lambda: tensor.detach().clone().requires_grad_(),
        lambda: torch.cat([tensor.flatten(), tensor.flatten()[:1]])[1:].view(tensor.shape),
        lambda: tensor * 1000,
        lambda: -tensor - 1,
        lambda: tensor.flip(0),
        lambda: torch.randint(-(2**31), 2**31, tensor.shape).to(tensor.dtype),
        lambda: torch.full_like(tensor, float("nan") if tensor.is_floating_point() else 2**15 - 1),
        lambda: torch.empty(0, dtype=tensor.dtype),
        lambda: tensor.numpy(),
        lambda: tensor.tolist(),
        lambda: torch.nn.Parameter(tensor),
    )
    return random.choice(changes)()


THINGS = (None, True, 0, 1, -1, 2, 33, 2**31, 2**63, 2**70, 0.5, -1.5, float("nan"), float("inf"), 1e300)
THINGS += ("", "mean", b"x", [], (), {}, object(), int, [1, 2], torch.float32, torch.zeros(()), "cuda:7")


def other(random, value):
    """Something else in the place of an argument."""
    if random.random() < 0.3:
        return random.choice(THINGS)
    if isinstance(value, torch.Tensor):
        return other_tensor(random, value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        field = random.choice(value._fields)
        return value._replace(**{field: other(random, getattr(value, field))})
    return random.choice(THINGS)


def run(random, operation, arguments):
    output = operation(**arguments)
    if isinstance(output, torch.Tensor) and output.requires_grad and random.random() < 0.8:
        output.sum().backward()


def main(seed, count):
    draws = random.Random(seed)
    torch.manual_seed(seed)
    table = calls()
    for operation, arguments in table:
        run(draws, operation, arguments)
    refused = 0
    for number in range(count):
        operation, arguments = draws.choice(table)
        names = draws.sample(sorted(arguments), min(len(arguments), draws.choice((1, 1, 2))))
        try:
            changed = {name: other(draws, arguments[name]) for name in names}
        except Exception:
            # PyTorch has no such tensor.
            continue
        try:
            run(draws, operation, arguments | changed)
        except retromae.Error as error:
            refused += 1
            assert str(error), (number, operation, changed)
        except BaseException as error:
            text = f"call {number}: {operation.__name__} with {changed}"
            raise AssertionError(text) from error
    print(f"{refused} of {count} refused")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
