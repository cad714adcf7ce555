"""Random calls of retromae.jax. Prints how many gave a result, how many were refused when they were traced, and how many by the
library when they ran; any other end is a fault.

    python jax_fuzz.py COUNT [SEED]
"""

import random
import sys

import jax
import jax.numpy as jnp
import numpy as np

import retromae.jax as rj
from retromae import Bags, CountLimit, Error, Mask, Pool, Queries


def sometimes(chance, other, usual):
    return other() if random.random() < chance else usual()


def junk():
    """An argument that hardly fits."""
    return random.choice(
        [
            None,
            -1,
            2**40,
            float("nan"),
            "text",
            [1, 2],
            {},
            object(),
            jnp.zeros(0),
            jnp.zeros((2, 3, 4, 5), jnp.int32),
            np.zeros(3, np.int64),
            np.zeros((3, 2), object),
            jnp.float32(3),
            True,
        ]
    )


def floats(shape):
    dtype = random.choice(["float32", "bfloat16", "float16"]) if random.random() < 0.05 else "float32"
    return jnp.asarray(np.random.normal(size=shape), dtype)


def lengths_of():
    return [random.choice([0, 1, 2, 17, 33]) for _ in range(random.randint(1, 3))]


def attention():
    lengths = lengths_of()
    cu_seqlens, tokens = rj.prefix_sums(lengths), sum(lengths)
    dim = random.choice([32, 32, 64, 96, 128, 8])
    masks = [
        lambda: Mask.FULL,
        lambda: Mask.CAUSAL,
        lambda: Mask.window(random.randint(-3, 9), random.randint(-1, 9)),
        lambda: Mask.visible(*rj.mask_bits([jnp.ones((n, n), bool) for n in lengths])),
        lambda: Mask.permutation(jnp.arange(tokens, dtype=jnp.uint16)),
        lambda: Mask.pool(junk(), junk(), junk()),
        lambda: Mask(random.randint(-1, 9)),
    ]
    options = {
        "mask": random.choice(masks),
        "dropout_p": lambda: random.choice([0.0, 0.5, 1.0]),
        "dropout_rng": lambda: rj.rng_state(random.randint(0, 9)),
        "dropout_site": lambda: random.randint(-1, 9),
        "scale": random.random,
        "queries": lambda: Queries(cu_seqlens, max(lengths)),
        "atomic": lambda: random.random() < 0.5,
    }
    rows = [lambda: floats((tokens, 2, dim))] * 3
    return rj.attention, [*rows, lambda: cu_seqlens, lambda: max(lengths)], options


def cross_entropy():
    rows, hidden_size, vocab_size = (
        random.choice([0, 1, 17]),
        random.choice([8, 16, 40]),
        random.choice([1, 50]),
    )
    options = {
        "reduction": lambda: random.choice(["mean", "sum", "none"]),
        "row_weights": lambda: jnp.ones(rows),
        "ignore_index": lambda: random.randint(-(2**31), 5),
        "label_smoothing": lambda: random.choice([0.1, 1.0]),
        "z_loss": lambda: random.choice([1e-3, -1.0]),
        "soft_cap": lambda: random.choice([5.0, -1.0]),
        "chunk_rows": lambda: random.randint(-1, 9),
    }
    # Also targets that are no token ids, whose loss is NaN.
    targets = lambda: jnp.asarray(np.random.randint(-3, vocab_size + 3, rows), jnp.int32)  # noqa: E731
    arrays = [lambda: floats((rows, hidden_size)), lambda: floats((vocab_size, hidden_size)), targets]
    return rj.linear_cross_entropy, arrays, options


def bag_of_words():
    lengths = lengths_of()
    sizes = [random.randint(0, 5) for _ in lengths]
    bags = Bags(rj.prefix_sums(sizes), jnp.asarray(np.random.randint(-1, 52, sum(sizes)), jnp.int32))
    arrays = [lambda: floats((sum(lengths), 16)), lambda: floats((50, 16)), lambda: bags]
    options = {
        "reduction": lambda: random.choice(["mean", "sum", "none"]),
        "first_position": lambda: random.randint(-1, 70000),
    }
    arrays += [lambda: rj.prefix_sums(lengths), lambda: max(lengths)]
    return rj.bag_of_words_loss, arrays, options


def layer_norm():
    rows, columns = random.choice([0, 1, 17]), random.choice([8, 64, 1024, 12, 1032])
    options = {
        "residual": lambda: floats((rows, columns)),
        "bias": lambda: jnp.ones(columns),
        "eps": lambda: random.choice([1e-5, 0.0, -1.0]),
    }
    return (
        rj.dropout_add_layer_norm,
        [lambda: floats((rows, columns)), *[lambda: jnp.ones(columns)] * 2],
        options,
    )


def draw_masks():
    lengths = lengths_of()
    tokens, offsets = sum(lengths), rj.pool_offsets(lengths, 4)
    pool = Pool(CountLimit(random.choice([0.5, 2.0])), offsets, int(offsets[-1]), random.choice([4, 4, 0]))
    arrays = [
        lambda: jnp.zeros(tokens, jnp.int32),
        lambda: rj.prefix_sums(lengths),
        lambda: max(lengths),
        lambda: rj.rng_state(1),
        lambda: jnp.arange(len(lengths), dtype=jnp.uint32),
        lambda: jnp.full(-(-tokens // 32), 2**32 - 1, jnp.uint32),
        lambda: pool,
    ]
    return rj.draw_masks, arrays, {}


def call():
    function, arguments, options = random.choice(
        [attention, cross_entropy, bag_of_words, layer_norm, draw_masks]
    )()
    arguments = [sometimes(0.04, junk, make) for make in arguments]
    chosen = {name: sometimes(0.1, junk, make) for name, make in options.items() if random.random() < 0.3}
    try:
        is_float = isinstance(arguments[0], jax.Array) and jnp.issubdtype(arguments[0].dtype, jnp.floating)
        if is_float and function is not rj.draw_masks and random.random() < 0.5:
            summed = lambda first: function(first, *arguments[1:], **chosen).astype(jnp.float32).sum()  # noqa: E731
            jax.block_until_ready(jax.grad(summed)(arguments[0]))
        else:
            jax.block_until_ready(function(*arguments, **chosen))
        return 0
    except Error as error:
        assert " is " in str(error), error
        return 1
    except jax.errors.JaxRuntimeError as error:
        assert "INVALID_ARGUMENT" in str(error), error
        return 2


def main(count, seed=0):
    counts = [0, 0, 0]
    for number in range(count):
        random.seed(seed + number)
        np.random.seed(seed + number)
        try:
            counts[call()] += 1
        except BaseException:
            print(f"call {seed + number}", file=sys.stderr)
            raise
    print(*counts)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
