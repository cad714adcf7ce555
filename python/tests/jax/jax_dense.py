"""Dense statements of the operations in plain JAX, which differentiates them, and the comparison with them.

Computed in f64 a statement is what an operation should give; computed in the operation's own precision it is the naive
composition, whose error bounds that of the operation.
"""

import jax
import jax.numpy as jnp
import numpy as np

DTYPES = ["float32", "bfloat16", "float16"]
# Relative to the largest value of a result, or to 1, which inputs are as large as. The library's exponentials and its f32 sums in another order are good for a few units in the last
# place of f32, and each result in 16 bits is rounded once more at the end.
FLOORS = {"float32": 2.0**-20, "bfloat16": 2.0**-8, "float16": 2.0**-11}


def make(rng, shape, dtype, scale=1.0):
    """Normally distributed values that the dtype has."""
    return jnp.asarray(rng.normal(size=shape) * scale, jnp.dtype(dtype))


def attention(query, key, value, visible):
    """Attention of packed rows; `visible` has a boolean matrix for each sequence."""
    seen = np.zeros((len(query), len(key)), bool)
    row = column = 0
    for block in visible:
        seen[row : row + block.shape[0], column : column + block.shape[1]] = block
        row, column = row + block.shape[0], column + block.shape[1]
    if 0 in seen.shape:
        return jnp.zeros_like(query)
    some = seen.any(1)[None, :, None]
    scores = jnp.einsum("qad,kad->aqk", query, key) / np.sqrt(query.shape[2]).astype(query.dtype)
    weights = jax.nn.softmax(jnp.where(seen, scores, jnp.where(some, -jnp.inf, 0)), -1)
    return jnp.einsum("aqk,kad->qad", jnp.where(some, weights, 0), value)


def cross_entropy(hidden, weight, bias, targets, smoothing=0.0, z_loss=0.0, soft_cap=0.0):
    """Losses of rows; targets of -100 have none."""
    logits = hidden @ weight.T
    if bias is not None:
        logits = logits + bias.astype(hidden.dtype)
    if soft_cap:
        logits = soft_cap * jnp.tanh(logits / soft_cap)
    logs = jax.nn.log_softmax(logits, -1)
    log_sum_exp = jax.nn.logsumexp(logits, -1)
    chosen = jnp.take_along_axis(logs, jnp.maximum(targets, 0)[:, None], 1)[:, 0]
    losses = -(1 - smoothing) * chosen - smoothing * logs.mean(-1) + z_loss * log_sum_exp**2
    return jnp.where(targets == -100, 0, losses)


def bag_of_words(hidden, weight, bias, cu_seqlens, bags, first_position):
    """Losses of sentences; `bags` has ids and weights for each."""
    losses = []
    for sentence, (ids, weights) in enumerate(bags):
        rows = hidden[cu_seqlens[sentence] + first_position : cu_seqlens[sentence + 1]]
        if len(rows) == 0 or len(ids) == 0:
            losses.append(jnp.zeros((), hidden.dtype))
            continue
        logits = (rows @ weight.T).max(0)
        if bias is not None:
            logits = logits + bias.astype(hidden.dtype)
        logs = jax.nn.log_softmax(logits)
        losses.append(-(logs[ids] * weights.astype(hidden.dtype)).sum())
    return jnp.stack(losses)


def layer_norm(input, gamma, beta, residual, bias):
    total = input if bias is None else input + bias.astype(input.dtype)
    if residual is not None:
        total = total + residual
    mean = total.mean(-1, keepdims=True)
    variance = ((total - mean) ** 2).mean(-1, keepdims=True)
    normalized = (total - mean) / jnp.sqrt(variance + 1e-12)
    return normalized * gamma.astype(input.dtype) + beta.astype(input.dtype)


def expect(operation, statement, arguments, dtype, seed=0):
    """Holds result and gradients of `operation` against those of `statement`, which takes the same arrays."""
    rng = np.random.default_rng(seed)
    shape = jax.eval_shape(operation, *arguments).shape
    cotangent = rng.normal(size=shape)
    actual = _values(operation, arguments, cotangent)
    naive = _values(statement, arguments, cotangent)
    # Newer versions of JAX have it at the top.
    enable_x64 = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64
    with enable_x64(True):
        wide = [jnp.asarray(np.asarray(argument, np.float64)) for argument in arguments]
        exact = _values(statement, wide, cotangent)
    names = ["result", *(f"gradient {place}" for place in range(len(arguments)))]
    for name, got, rough, right in zip(names, actual, naive, exact, strict=True):
        assert np.isfinite(got).all(), name
        if right.size == 0:
            continue
        error, bound = (np.abs(other - right).max() for other in (got, rough))
        limit = 2 * bound + FLOORS[dtype] * max(np.abs(right).max(), 1)
        assert error <= limit, f"{name}: error {error:.3g} beyond {limit:.3g}"


def _values(function, arguments, cotangent):
    """Result and gradients, as f64."""

    def both(arguments, cotangent):
        output, pull = jax.vjp(function, *arguments)
        return output, *pull(cotangent.astype(output.dtype))

    values = jax.jit(both)(list(arguments), cotangent)
    return [np.asarray(value, np.float64) for value in values]
