"""A right call of every NumPy function, small, whose arguments the tests of bad calls replace one by one."""

import numpy as np

import retromae.numpy as rn
from retromae import Bags, Corruption, CountLimit, Dropout, Mask, Pool, Queries, Replacement

LENGTHS = [3, 0, 6]
SUMS = np.array([0, 3, 3, 9], np.int32)


def f32(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def mask_of(kind):
    words, halves = np.ones(9, np.uint32), np.zeros(9, np.uint16)
    if kind == "pool":
        return Mask.pool(words, SUMS.astype(np.uint32), halves)
    if kind == "generated":
        return Mask.generated(
            rn.rng_state(1), np.arange(3, dtype=np.uint32), np.ones(1, np.uint32), 0.5, pool_rows_max=4
        )
    if kind == "permutation":
        return Mask.permutation(halves)
    return Mask.window(2, 3)


def attention_arguments(kind):
    queries = Queries(np.array([0, 2, 2, 6], np.int32), 4, np.array([0, 1, 0, 1, 2, 5], np.int32))
    rows = 6 if kind == "queries" else 9
    return {
        "query": f32(rows, 2, 32),
        "key": f32(9, 2, 32),
        "value": f32(9, 2, 32),
        "cu_seqlens": SUMS,
        "mask": mask_of(kind),
        "queries": queries if kind == "queries" else None,
        "dropout": Dropout(0.5, rn.rng_state(1), 1),
        "scale": 0.5,
    }


def attention_backward_arguments(kind):
    arguments = attention_arguments(kind)
    output, log_sum_exp = rn.attention(**arguments)
    return {"d_output": output, "output": output, "log_sum_exp": log_sum_exp} | arguments


def head_arguments():
    return {
        "hidden": f32(9, 32),
        "weight": f32(40, 32),
        "bias": f32(40),
        "fused": False,
        "chunk_rows": 4,
        "gradients": True,
    }


def cross_entropy_arguments():
    options = {"ignore_index": -100, "label_smoothing": 0.1, "z_loss": 0.1, "soft_cap": 5.0}
    return head_arguments() | {"targets": np.arange(9, dtype=np.int32), "row_weights": f32(9)} | options


def bag_of_words_arguments():
    bags = Bags(np.array([0, 2, 2, 3], np.int32), np.array([3, 4, 5], np.int32), f32(3))
    own = {"bags": bags, "cu_seqlens": SUMS, "sentence_weights": f32(3), "first_position": 1}
    return head_arguments() | own


def layer_norm_arguments():
    arrays = {"input": f32(9, 32), "residual": f32(9, 32), "gamma": f32(32), "beta": f32(32), "bias": f32(32)}
    return arrays | {"dropout": Dropout(0.5, rn.rng_state(1), 1), "eps": 1e-5}


def layer_norm_backward_arguments():
    arguments = layer_norm_arguments()
    forward = rn.dropout_add_layer_norm(**arguments)
    kept = {name: arguments[name] for name in ("gamma", "dropout")}
    return {"d_output": f32(9, 32), "forward": forward, "residual": True, "bias": True} | kept


def draw_masks_arguments():
    limit = CountLimit(0.5, 100)
    pools, labels = rn.pool_offsets(LENGTHS, 4), rn.labeled_offsets(LENGTHS, limit)
    corruption = Corruption(limit, Replacement(103, 1000), labels, int(labels[-1]))
    return {
        "ids": np.arange(9, dtype=np.int32),
        "cu_seqlens": SUMS,
        "rng": rn.rng_state(1),
        "sentence_indices": np.arange(3, dtype=np.uint32),
        "word_starts": np.full(1, 2**32 - 1, np.uint32),
        "pool": Pool(limit, pools, int(pools[-1]), 4),
        "encoder": corruption,
        "decoder": corruption,
    }


# Name of the call: the function, and a function that makes its arguments.
CALLS = {
    "linear_cross_entropy": (rn.linear_cross_entropy, cross_entropy_arguments),
    "bag_of_words_loss": (rn.bag_of_words_loss, bag_of_words_arguments),
    "dropout_add_layer_norm": (rn.dropout_add_layer_norm, layer_norm_arguments),
    "dropout_add_layer_norm_backward": (rn.dropout_add_layer_norm_backward, layer_norm_backward_arguments),
    "draw_masks": (rn.draw_masks, draw_masks_arguments),
    "prefix_sums": (rn.prefix_sums, lambda: {"lengths": LENGTHS}),
    "pool_offsets": (rn.pool_offsets, lambda: {"lengths": LENGTHS, "rows_max": 4}),
    "labeled_offsets": (rn.labeled_offsets, lambda: {"lengths": LENGTHS, "limit": CountLimit(0.5, 9)}),
    "rng_state": (rn.rng_state, lambda: {"seed": 1, "step": 2}),
    "mask_bits": (rn.mask_bits, lambda: {"visible": [np.ones((4, 4), bool), np.ones((0, 0), bool)]}),
}
for _kind in ("window", "pool", "generated", "permutation", "queries"):
    CALLS[f"attention {_kind}"] = (rn.attention, lambda kind=_kind: attention_arguments(kind))
    CALLS[f"attention_backward {_kind}"] = (
        rn.attention_backward,
        lambda kind=_kind: attention_backward_arguments(kind),
    )


def paths(arguments, before=()):
    """The place of each argument, those in named tuples, too: a tuple of names."""
    for name, value in arguments.items():
        yield (*before, name)
        if hasattr(value, "_asdict"):
            yield from paths(value._asdict(), (*before, name))


def get(arguments, path):
    value = arguments[path[0]]
    for name in path[1:]:
        value = getattr(value, name)
    return value


def replaced(arguments, path, value):
    """The arguments with another one at a place."""

    def within(owner, names):
        if not names:
            return value
        return owner._replace(**{names[0]: within(getattr(owner, names[0]), names[1:])})

    return arguments | {path[0]: within(arguments[path[0]], path[1:])}
