"""The operations on JAX's arrays, on the CPU and on CUDA devices, with their gradients.

They are traced like any function of JAX: under `jit`, `grad`, `vmap` (one after the other), `lax.scan`, `jax.checkpoint`, and
`shard_map` with `check_vma=False`; there are no derivatives of gradients. Sizes, such as `max_seqlen`, and numbers, such as
`dropout_p`, are Python's, so that they are known when a function is compiled.

Arrays are float32, float16 or bfloat16; where nothing is said of a dtype it is float32. Packed sequences lie one after the other
without padding: `cu_seqlens` int32 [B + 1] are the prefix sums of their lengths. T is tokens, B sequences, A heads, d head size, H
hidden size, V token ids. Arrays of bits and indices may be signed or unsigned.
"""

import functools
from collections.abc import Hashable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from . import _operations
from . import numpy as _numpy
from ._call import F32, I32, integer, text
from ._operations import (
    AttentionOptions,
    BagOfWordsOptions,
    Bags,
    Corruption,
    CountLimit,
    CrossEntropyOptions,
    Dropout,
    Gradients,
    Mask,
    Masks,
    Pool,
    Queries,
)
from ._xla import Arrays, call, is_array
from .errors import wrong

Reduction = Literal["mean", "sum", "none"]


def _split(options):
    """Returns the arrays of options, and what else there is, which can be hashed; `is_array` stands where an array was."""
    leaves, tree = jax.tree.flatten(options)
    arrays = [leaf for leaf in leaves if is_array(leaf)]
    rest = tuple(is_array if is_array(leaf) else leaf for leaf in leaves)
    for leaf in rest:
        if not isinstance(leaf, Hashable):
            wrong("an argument", f"a {type(leaf).__name__}", "a JAX array or a number")
    return arrays, (tree, rest)


def _join(arrays, options):
    """Returns the options that `_split` took apart."""
    tree, rest = options
    arrays = iter(arrays)
    return jax.tree.unflatten(tree, [next(arrays) if leaf is is_array else leaf for leaf in rest])


def _require_arrays(**arguments):
    """Refuses arguments that are no arrays, before JAX does."""
    for name, array in arguments.items():
        if array is not None and not is_array(array):
            wrong(name, f"a {type(array).__name__}", "a JAX array")


def _expect(name, array, shape, dtypes):
    """Refuses an array, if there is one, of another shape or dtype; a size may also be a name."""
    if array is None:
        return
    actual, dtype = Arrays().look(name, array)
    fits = [isinstance(size, str) or size == given for size, given in zip(shape, actual, strict=False)]
    if len(actual) != len(shape) or not all(fits):
        wrong(name, f"of shape {text(actual)}", text(shape))
    if dtype not in dtypes:
        wrong(name, f"of dtype {dtype}", " or ".join(dtypes))


def _dropout(rate, rng, site):
    if rng is None:
        if isinstance(rate, int | float) and rate == 0:
            return None
        wrong("dropout_rng", "None", "four words of `rng_state` or `rng_of_key`, as there is dropout")
    return Dropout(rate, rng, site)


# ---- Attention ----


def attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    cu_seqlens: jax.Array,
    max_seqlen: int,
    *,
    mask: Mask = Mask.FULL,
    queries: Queries | None = None,
    dropout_p: float = 0.0,
    dropout_rng: jax.Array | None = None,
    dropout_site: int = 0,
    scale: float = 0.0,
    atomic: bool = False,
) -> jax.Array:
    """dropout(softmax(scale * Q K^T + mask)) V, a head and a sequence at a time.

    `query` is [Tq, A, d], `key` and `value` are [T, A, d] of the same dtype; d is 32, 64, 96 or 128. No sequence is longer than
    `max_seqlen`. `dropout_rng` is uint32 [4], of `rng_state` or `rng_of_key`, and `dropout_site` the number of the place in a model.
    `scale` 0 stands for 1 / sqrt(d). With `atomic` the gradients of long sequences in 16 bits are computed faster, but each run
    rounds them differently. Returns the output [Tq, A, d]; it is zero for a query that sees nothing.
    """
    _require_arrays(query=query, key=key, value=value)
    dropout = _dropout(dropout_p, dropout_rng, dropout_site)
    options = AttentionOptions(cu_seqlens, max_seqlen, mask, queries, dropout, scale, atomic)
    arrays, rest = _split(options)
    return _attention(rest, arrays, query, key, value)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(rest, arrays, query, key, value):
    return _attention_forward(rest, arrays, query, key, value)[0]


def _attention_forward(rest, arrays, query, key, value):
    options = _join(arrays, rest)
    output, log_sum_exp = call(_operations.attention_forward, query, key, value, options)
    return output, (arrays, query, key, value, output, log_sum_exp)


def _attention_backward(rest, saved, d_output):
    arrays, *saved = saved
    options = _join(arrays, rest)
    return None, *call(_operations.attention_backward, d_output, *saved, options)


_attention.defvjp(_attention_forward, _attention_backward)


def two_stream_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    cu_seqlens: jax.Array,
    max_seqlen: int,
    bits: jax.Array,
    offsets: jax.Array,
    rows: jax.Array | None = None,
    **options: Any,
) -> jax.Array:
    """`attention`, whose options it takes, under RetroMAE's position-specific masks: `Mask.pool` of `bits`, `offsets` and `rows`,
    or without `rows` `Mask.independent`."""
    mask = Mask.independent(bits, offsets) if rows is None else Mask.pool(bits, offsets, rows)
    return attention(query, key, value, cu_seqlens, max_seqlen, mask=mask, **options)


# ---- Losses ----


def _cross_entropy(arrays, hidden, weight, bias, weights, gradients, targets, options):
    return _operations.cross_entropy(
        arrays, hidden, weight, bias, targets, weights, options, gradients, statistics=False
    )


def _bag_of_words(arrays, hidden, weight, bias, weights, gradients, cu_seqlens, max_seqlen, bags, options):
    return _operations.bag_of_words(
        arrays, hidden, weight, bias, cu_seqlens, max_seqlen, bags, weights, options, gradients
    )


def _loss(loss, arrays, parameters, weights=None, gradients=False):
    """Losses of hidden states, weight and bias, times `weights`, and with `gradients` those of their sum."""
    operation, rest = loss
    has_bias = parameters[2] is not None
    asked = Gradients(gradients, gradients, gradients and has_bias)
    return call(operation, *parameters, weights, asked, *_join(arrays, rest))


def _to_dtypes(gradients, dtype, factor=1.0):
    """Gradients times a factor, in the dtype of hidden states and weight; the bias is f32."""
    d_hidden, d_weight, d_bias = gradients
    scaled = [(factor * gradient.astype(jnp.float32)).astype(dtype) for gradient in (d_hidden, d_weight)]
    return *scaled, None if d_bias is None else factor * d_bias


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _losses(loss, arrays, parameters):
    """Losses of the rows. The backward pass computes them again, for gradients that are weighted by row."""
    return _loss(loss, arrays, parameters).losses


def _losses_forward(loss, arrays, parameters):
    return _losses(loss, arrays, parameters), (arrays, parameters)


def _losses_backward(loss, saved, d_losses):
    arrays, parameters = saved
    _, *_, d_hidden, d_weight, d_bias = _loss(loss, arrays, parameters, d_losses, gradients=True)
    return None, _to_dtypes((d_hidden, d_weight, d_bias), d_hidden.dtype)


_losses.defvjp(_losses_forward, _losses_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _total(loss, arrays, parameters):
    """The sum of the losses of the rows, whose gradients are computed with it."""
    return _loss(loss, arrays, parameters).losses.sum()


def _total_forward(loss, arrays, parameters):
    losses, *_, d_hidden, d_weight, d_bias = _loss(loss, arrays, parameters, gradients=True)
    return losses.sum(), (d_hidden, d_weight, d_bias)


def _total_backward(loss, gradients, d_total):
    return None, _to_dtypes(gradients, gradients[0].dtype, d_total)


_total.defvjp(_total_forward, _total_backward)


def _reduced(operation, inputs, parameters, reduction, weights, counted):
    """Losses of rows, times `weights`, reduced; their mean is over the rows that are `counted`, by their weights."""
    if not isinstance(reduction, str) or reduction not in ("mean", "sum", "none"):
        wrong("reduction", repr(reduction), "'mean', 'sum' or 'none'")
    hidden, weight, bias = parameters
    _require_arrays(hidden=hidden, weight=weight, bias=bias)
    arrays, rest = _split(inputs)
    loss = (operation, rest)
    if weights is None and reduction != "none":
        total, count = _total(loss, arrays, parameters), counted.sum()
    else:
        losses = _losses(loss, arrays, parameters)
        if weights is not None:
            losses = losses * weights
            counted = jnp.where(counted, weights, 0)
        if reduction == "none":
            return losses
        total, count = losses.sum(), counted.sum()
    return total if reduction == "sum" else _mean(total, count)


def _mean(total, count):
    """total / count. The mean of nothing is NaN, and its gradient 0, as in PyTorch's cross_entropy."""
    return jnp.where(count == 0, jnp.nan, total / jnp.where(count == 0, 1, count))


def linear_cross_entropy(
    hidden: jax.Array,
    weight: jax.Array,
    targets: jax.Array,
    bias: jax.Array | None = None,
    *,
    reduction: Reduction = "mean",
    row_weights: jax.Array | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    soft_cap: float = 0.0,
    fused: bool = False,
    chunk_rows: int = 4096,
) -> jax.Array:
    """Cross-entropy of the logits hidden weight^T + bias against `targets`, without all logits in memory.

    `hidden` is [M, H] and `weight` [V, H] of the same dtype; `targets` int32 [M], in [0, V) or `ignore_index`; `bias` [V];
    `row_weights` [M], factors of the losses. `z_loss` is the factor of the squared log-sum-exp, `soft_cap` the bound c in
    c * tanh(logit / c), 0 for none. `fused` stores no logit (bfloat16 without options); else `chunk_rows` rows of logits are in
    memory at a time. The mean is over the rows with a target, by their weights. Returns [M] for "none", else [].
    """
    options = CrossEntropyOptions(ignore_index, label_smoothing, z_loss, soft_cap, fused, chunk_rows)
    _expect("targets", targets, ("M",), I32)
    ignored = integer("ignore_index", ignore_index, -(2**31), _operations.I32_MAX)
    _expect("row_weights", row_weights, targets.shape, F32)
    counted = targets != ignored
    parameters = (hidden, weight, bias)
    return _reduced(_cross_entropy, (targets, options), parameters, reduction, row_weights, counted)


def bag_of_words_loss(
    hidden: jax.Array,
    weight: jax.Array,
    bags: Bags,
    cu_seqlens: jax.Array,
    max_seqlen: int,
    bias: jax.Array | None = None,
    *,
    reduction: Reduction = "mean",
    sentence_weights: jax.Array | None = None,
    first_position: int = 1,
    fused: bool = False,
    chunk_rows: int = 4096,
) -> jax.Array:
    """Cross-entropy of a sentence's largest logits against the words of its bag, DupMAE's second objective: the sum of
    -weight * log_softmax(max over its tokens of hidden weight^T + bias).

    `hidden` is [T, H] and `weight` [V, H] of the same dtype; `bags` has int32 offsets [B + 1], int32 ids [N] and weights [N], which
    are constants; `bias` is [V], `sentence_weights` [B], factors of the losses. The first `first_position` tokens of a sentence are
    left out. `fused` and `chunk_rows` are those of `linear_cross_entropy`. The mean is over the sentences, by their weights. Returns
    [B] for "none", else [].
    """
    options = BagOfWordsOptions(first_position, fused, chunk_rows)
    _expect("cu_seqlens", cu_seqlens, ("B + 1",), I32)
    sentences = cu_seqlens.shape[0] - 1
    _expect("sentence_weights", sentence_weights, (sentences,), F32)
    counted = jnp.ones(max(sentences, 0), jnp.bool_)
    parameters = (hidden, weight, bias)
    inputs = (cu_seqlens, max_seqlen, bags, options)
    return _reduced(_bag_of_words, inputs, parameters, reduction, sentence_weights, counted)


# ---- Dropout + residual + LayerNorm ----


def dropout_add_layer_norm(
    input: jax.Array,
    gamma: jax.Array,
    beta: jax.Array,
    residual: jax.Array | None = None,
    bias: jax.Array | None = None,
    *,
    dropout_p: float = 0.0,
    dropout_rng: jax.Array | None = None,
    dropout_site: int = 0,
    eps: float = 1e-12,
) -> jax.Array:
    """gamma * normalized(residual + dropout(input + bias)) + beta, a row at a time.

    `input` and `residual` are [T, H] of the same dtype, H a multiple of 8 up to 1024; `gamma`, `beta` and `bias` are [H]. Dropout is
    that of `attention`. Returns the output [T, H].
    """
    _require_arrays(input=input, gamma=gamma, beta=beta, residual=residual, bias=bias)
    arrays, rest = _split((_dropout(dropout_p, dropout_rng, dropout_site), eps))
    return _layer_norm(rest, arrays, input, gamma, beta, residual, bias)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _layer_norm(rest, arrays, *parameters):
    return _layer_norm_forward(rest, arrays, *parameters)[0]


def _layer_norm_forward(rest, arrays, input, gamma, beta, residual, bias):
    options = _join(arrays, rest)
    output, *saved = call(_operations.layer_norm_forward, input, gamma, beta, residual, bias, *options)
    # A row of each, for their presence alone.
    optional = [None if array is None else array[:0] for array in (residual, bias)]
    return output, (arrays, gamma, saved, optional)


def _layer_norm_backward(rest, saved, d_output):
    arrays, gamma, saved, optional = saved
    asked = [array is not None for array in optional]
    gradients = call(_operations.layer_norm_backward, d_output, *saved, gamma, *_join(arrays, rest), *asked)
    d_input, d_residual, d_gamma, d_beta, d_bias = gradients
    return None, d_input, d_gamma, d_beta, d_residual, d_bias


_layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


# ---- Masks, random states, offsets ----


def draw_masks(
    ids: jax.Array,
    cu_seqlens: jax.Array,
    max_seqlen: int,
    rng: jax.Array,
    sentence_indices: jax.Array,
    word_starts: jax.Array,
    pool: Pool | None = None,
    encoder: Corruption | None = None,
    decoder: Corruption | None = None,
) -> Masks:
    """Draws the masks of a step: for each sentence a pool of position-specific masks, and the corrupted inputs of encoder and decoder.

    `ids` is int32 [T]; `rng` uint32 [4] is of `rng_state` or `rng_of_key`; `sentence_indices` uint32 [B] are the sentences' numbers in
    the corpus, and `word_starts` uint32 [ceil(T / 32)] has a bit for each token, lowest first, 1 where a word starts. What is drawn
    for a sentence follows from `rng` and its number alone. The first and the last token of a sentence are never chosen. Numbers in
    `pool`, `encoder` and `decoder` are Python's.
    """
    arguments = (ids, cu_seqlens, max_seqlen, rng, sentence_indices, word_starts)
    masks = call(_operations.draw_masks, *arguments, pool, encoder, decoder)
    if pool is None:
        return masks
    as_unsigned = jax.lax.bitcast_convert_type
    return masks._replace(bits=as_unsigned(masks.bits, jnp.uint32), rows=as_unsigned(masks.rows, jnp.uint16))


def mask_bits(visible: Sequence[jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Packs a boolean mask [L, L] for each sequence, true where a query (row) sees a key, for `Mask.visible`: bits uint32 [words]
    and offsets uint32 [B + 1]."""
    packed = [jnp.zeros(0, jnp.uint32)]
    for place, array in enumerate(visible):
        _expect(f"visible[{place}]", array, ("L", "L"), ("bool",))
        length, width = array.shape
        if length != width:
            wrong(f"visible[{place}]", f"of shape {text(array.shape)}", "[L, L]")
        padded = jnp.pad(array, ((0, 0), (0, -length % 32))).reshape(-1, 32)
        packed.append(
            (padded.astype(jnp.uint32) << jnp.arange(32, dtype=jnp.uint32)).sum(1, dtype=jnp.uint32)
        )
    offsets = np.cumsum([words.size for words in packed], dtype=np.uint32)
    return jnp.concatenate(packed), jnp.asarray(offsets)


def rng_of_key(key: jax.Array) -> jax.Array:
    """The four words uint32 [4] that dropout and masks are drawn from, of a key of `jax.random`."""
    return jax.random.bits(key, (4,), jnp.uint32)


def rng_state(seed: int, step: int = 0) -> jax.Array:
    """The four words uint32 [4] that a step's dropout and masks are drawn from."""
    return jnp.asarray(_numpy.rng_state(seed, step))


def prefix_sums(lengths: Sequence[int]) -> jax.Array:
    """Prefix sums int32 [B + 1] of the lengths of sequences: `cu_seqlens`."""
    return jnp.asarray(_numpy.prefix_sums(lengths))


def pool_offsets(lengths: Sequence[int], rows_max: int = 128) -> jax.Array:
    """First word uint32 [B + 1] of each sequence's pool of at most `rows_max` masks; the last is the number of words."""
    return jnp.asarray(_numpy.pool_offsets(lengths, rows_max))


def labeled_offsets(lengths: Sequence[int], limit: CountLimit) -> jax.Array:
    """First labeled row int32 [B + 1] of each sequence under a limit of chosen tokens; the last is their number."""
    return jnp.asarray(_numpy.labeled_offsets(lengths, limit))
