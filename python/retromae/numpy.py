"""The operations on NumPy arrays, in the CPU emulator of the GPU's kernels: for tests and for code without a framework.

Arrays are float32, float16, or bfloat16 of ml_dtypes, and contiguous unless it is said otherwise; where nothing is said of a
dtype it is float32. Gradients are those of the sum of the results. Packed sequences lie one after the other without padding:
`cu_seqlens` int32 [B + 1] are the prefix sums of their lengths. T is tokens, B sequences, A heads, d head size, H hidden size, V
token ids.
"""

import ctypes
from collections.abc import Sequence

import numpy as np

from . import _host, _operations
from ._call import flag, instance, integer, text
from ._library import LIBRARY, check, device, workspace_bytes
from ._operations import (
    AttentionOptions,
    BagOfWords,
    BagOfWordsOptions,
    Bags,
    Corruption,
    CountLimit,
    CrossEntropy,
    CrossEntropyOptions,
    Dropout,
    Gradients,
    LayerNorm,
    LayerNormGradients,
    Mask,
    Masks,
    Pool,
    Queries,
)
from .errors import OutOfMemory, wrong

__all__ = [
    "attention",
    "attention_backward",
    "bag_of_words_loss",
    "draw_masks",
    "dropout_add_layer_norm",
    "dropout_add_layer_norm_backward",
    "labeled_offsets",
    "linear_cross_entropy",
    "mask_bits",
    "pool_offsets",
    "prefix_sums",
    "rng_state",
]


class _Arrays:
    """NumPy's arrays; calls run at once on the host device."""

    def __init__(self):
        # The arrays that a descriptor points to, until the call has run.
        self.kept = []

    def look(self, name, array):
        if not _is_array(array):
            wrong(name, f"a {type(array).__name__}", "a NumPy array")
        if not array.dtype.isnative:
            wrong(name, f"of dtype {array.dtype}, in another byte order", "in the machine's byte order")
        return array.shape, array.dtype.name

    def strides(self, array):
        size = array.itemsize
        # A stride that is no multiple of the element belongs to no array that a kernel could read.
        return tuple(stride // size if stride % size == 0 else -1 for stride in array.strides)

    def descriptor(self, kind):
        return kind()

    def bind(self, call, struct, field, array):
        self.kept.append(array)
        setattr(struct, field, array.ctypes.data)

    def empty(self, shape, dtype):
        return _make(np.empty, shape, _dtype(dtype))

    def zeros(self, shape, dtype):
        return _make(np.zeros, shape, _dtype(dtype))

    def workspace(self, call, function):
        desc = call.desc
        desc.workspace_bytes = size = workspace_bytes(function, "host", desc)
        self.bind(call, desc, "workspace", _make(np.empty, (size,), np.uint8))

    def run(self, call, function):
        check(getattr(LIBRARY, function)(device("host"), None, ctypes.byref(call.desc)))


def _dtype(name):
    if name == "bfloat16":
        from ml_dtypes import bfloat16

        return bfloat16
    return np.dtype(name)


def _make(maker, shape, dtype):
    try:
        return maker(shape, dtype)
    except (MemoryError, ValueError) as error:
        raise OutOfMemory(f"no memory for an array of shape {text(shape)}: {error}") from None


def _is_array(array):
    """Tells an array; of a masked one the elements that are left out would be taken, too."""
    return isinstance(array, np.ndarray) and not isinstance(array, np.ma.MaskedArray)


def _is_sums(cu_seqlens):
    """Tells an array that may be prefix sums by its type and shape."""
    is_contiguous = _is_array(cu_seqlens) and cu_seqlens.flags.c_contiguous
    return is_contiguous and cu_seqlens.dtype == np.int32 and cu_seqlens.ndim == 1 and cu_seqlens.size > 0


def _longest(cu_seqlens, rows, dimensions):
    """Returns the largest step of prefix sums, which must fit the rows of an array. What is none of these is refused later."""
    if not _is_sums(cu_seqlens) or not _is_array(rows) or rows.ndim != dimensions:
        return 0
    steps = np.diff(cu_seqlens.astype(np.int64))
    if cu_seqlens[0] != 0 or steps.min(initial=0) < 0 or cu_seqlens[-1] > len(rows):
        wrong("cu_seqlens", _shown(cu_seqlens), f"prefix sums of lengths, from 0 to at most {len(rows)}")
    return int(steps.max(initial=0))


def _shown(array):
    """The ends of an array, for an error."""
    return np.array2string(array, threshold=8, edgeitems=3)


def attention(
    query: np.ndarray,
    key: np.ndarray,
    value: np.ndarray,
    cu_seqlens: np.ndarray,
    *,
    mask: Mask = Mask.FULL,
    queries: Queries | None = None,
    dropout: Dropout | None = None,
    scale: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """dropout(softmax(scale * Q K^T + mask)) V, a head and a sequence at a time.

    `query` is [Tq, A, d], `key` and `value` are [T, A, d], of float32, float16 or bfloat16; d is 32, 64, 96 or 128. Their rows
    may lie apart, as in a view of a projection [T, 3, A, d]. `scale` 0 stands for 1 / sqrt(d). Returns the output [Tq, A, d] and
    the log-sum-exp [A, Tq] of the scores.
    """
    options = AttentionOptions(cu_seqlens, _longest(cu_seqlens, key, 3), mask, queries, dropout, scale)
    return _operations.attention_forward(_Arrays(), query, key, value, options)


def attention_backward(
    d_output: np.ndarray,
    query: np.ndarray,
    key: np.ndarray,
    value: np.ndarray,
    output: np.ndarray,
    log_sum_exp: np.ndarray,
    cu_seqlens: np.ndarray,
    *,
    mask: Mask = Mask.FULL,
    queries: Queries | None = None,
    dropout: Dropout | None = None,
    scale: float = 0.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gradients of `query` [Tq, A, d], `key` and `value` [T, A, d], from that of the output of `attention` [Tq, A, d], and from what
    it returned for the same arguments."""
    options = AttentionOptions(cu_seqlens, _longest(cu_seqlens, key, 3), mask, queries, dropout, scale)
    return _operations.attention_backward(
        _Arrays(), d_output, query, key, value, output, log_sum_exp, options
    )


def linear_cross_entropy(
    hidden: np.ndarray,
    weight: np.ndarray,
    targets: np.ndarray,
    bias: np.ndarray | None = None,
    *,
    row_weights: np.ndarray | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    soft_cap: float = 0.0,
    fused: bool = False,
    chunk_rows: int = 4096,
    gradients: bool = False,
) -> CrossEntropy:
    """Cross-entropy of the logits hidden weight^T + bias against `targets`, without all logits in memory.

    `hidden` is [M, H] and `weight` [V, H], both of float32, float16 or bfloat16; `targets` int32 [M], in [0, V) or `ignore_index`;
    `bias` [V]; `row_weights` [M], factors of losses and gradients. `z_loss` is the factor of the squared log-sum-exp, `soft_cap`
    the bound c in c * tanh(logit / c), 0 for none. `fused` stores no logit (bfloat16 without options); else `chunk_rows` rows of
    logits are in memory at a time.

    Returns `losses` [M], `log_sum_exp` [M], `log_likelihoods` [M] and `correct` uint8 [M]; with `gradients` `d_hidden` [M, H] of
    hidden's dtype, `d_weight` [V, H] and, where there is a bias, `d_bias` [V].
    """
    options = CrossEntropyOptions(ignore_index, label_smoothing, z_loss, soft_cap, fused, chunk_rows)
    asked = _gradients(gradients, bias)
    return _operations.cross_entropy(
        _Arrays(), hidden, weight, bias, targets, row_weights, options, asked, statistics=True
    )


def _gradients(asked, bias):
    """All gradients that there are, or none."""
    asked = flag("gradients", asked)
    return Gradients(asked, asked, asked and bias is not None)


def bag_of_words_loss(
    hidden: np.ndarray,
    weight: np.ndarray,
    bags: Bags,
    cu_seqlens: np.ndarray,
    bias: np.ndarray | None = None,
    *,
    sentence_weights: np.ndarray | None = None,
    first_position: int = 1,
    fused: bool = False,
    chunk_rows: int = 4096,
    gradients: bool = False,
) -> BagOfWords:
    """Cross-entropy of a sentence's largest logits against the words of its bag, DupMAE's second objective: the sum of
    -weight * log_softmax(max over its tokens of hidden weight^T + bias).

    `hidden` is [T, H] and `weight` [V, H], both of float32, float16 or bfloat16; `bags` has int32 offsets [B + 1], int32 ids [N] and
    weights [N]; `bias` is [V], `sentence_weights` [B], factors of losses and gradients. The first `first_position` tokens of a
    sentence are left out. `fused` and `chunk_rows` are those of `linear_cross_entropy`.

    Returns `losses` [B]; with `gradients` `d_hidden` [T, H] of hidden's dtype, `d_weight` [V, H] and, where there is a bias,
    `d_bias` [V].
    """
    options = BagOfWordsOptions(first_position, fused, chunk_rows)
    asked = _gradients(gradients, bias)
    longest = _longest(cu_seqlens, hidden, 2)
    return _operations.bag_of_words(
        _Arrays(), hidden, weight, bias, cu_seqlens, longest, bags, sentence_weights, options, asked
    )


def dropout_add_layer_norm(
    input: np.ndarray,
    gamma: np.ndarray,
    beta: np.ndarray,
    residual: np.ndarray | None = None,
    bias: np.ndarray | None = None,
    *,
    dropout: Dropout | None = None,
    eps: float = 1e-12,
) -> LayerNorm:
    """gamma * normalized(residual + dropout(input + bias)) + beta, a row at a time.

    `input` and `residual` are [T, H] of float32, float16 or bfloat16, H a multiple of 8 up to 1024; `gamma`, `beta` and `bias` are
    [H]. Returns `output` [T, H], `sum` [T, H], which was normalized, and its `mean` [T] and `rstd` [T], 1 / sqrt(variance + eps).
    """
    return _operations.layer_norm_forward(_Arrays(), input, gamma, beta, residual, bias, dropout, eps)


def dropout_add_layer_norm_backward(
    d_output: np.ndarray,
    forward: LayerNorm,
    gamma: np.ndarray,
    *,
    residual: bool = False,
    bias: bool = False,
    dropout: Dropout | None = None,
) -> LayerNormGradients:
    """Gradients from that of the output of `dropout_add_layer_norm` [T, H], and from what it returned: `d_input` [T, H], `d_gamma`
    [H] and `d_beta` [H], with `residual` also `d_residual` [T, H], with `bias` `d_bias` [H]."""
    instance("forward", forward, LayerNorm)
    _, sum, mean, rstd = forward
    # Its eps is in `rstd` already.
    return _operations.layer_norm_backward(
        _Arrays(), d_output, sum, mean, rstd, gamma, dropout, 0.0, residual, bias
    )


def draw_masks(
    ids: np.ndarray,
    cu_seqlens: np.ndarray,
    rng: np.ndarray,
    sentence_indices: np.ndarray,
    word_starts: np.ndarray,
    pool: Pool | None = None,
    encoder: Corruption | None = None,
    decoder: Corruption | None = None,
) -> Masks:
    """Draws the masks of a step: for each sentence a pool of position-specific masks, and the corrupted inputs of encoder and decoder.

    `ids` is int32 [T]; `rng` uint32 [4] is of `rng_state`; `sentence_indices` uint32 [B] are the sentences' numbers in the corpus, and
    `word_starts` uint32 [ceil(T / 32)] has a bit for each token, lowest first, 1 where a word starts. What is drawn for a sentence
    follows from `rng` and its number alone. The first and the last token of a sentence are never chosen.

    Returns the pools' `bits` uint32 [words] and `rows` uint16 [T] for `Mask.pool`, and what became of the ids.
    """
    longest = _longest(cu_seqlens, ids, 1)
    _require_offsets(cu_seqlens, pool, encoder, decoder)
    masks = _operations.draw_masks(
        _Arrays(),
        ids,
        cu_seqlens,
        max(longest, 1),
        rng,
        sentence_indices,
        word_starts,
        pool,
        encoder,
        decoder,
    )
    if masks.bits is None or masks.rows is None:
        return masks
    return masks._replace(bits=masks.bits.view(np.uint32), rows=masks.rows.view(np.uint16))


def _require_offsets(cu_seqlens, pool, encoder, decoder):
    """Refuses offsets that are not those of the lengths, with which a part of the outputs would never be written. What is none of
    these is refused later."""
    if not _is_sums(cu_seqlens):
        return
    lengths, asked = np.diff(cu_seqlens), []
    if isinstance(pool, Pool):
        asked.append(("pool", "words", pool, pool_offsets(lengths, pool.rows_max)))
    for name, corruption in (("encoder", encoder), ("decoder", decoder)):
        if isinstance(corruption, Corruption):
            asked.append((name, "labeled", corruption, labeled_offsets(lengths, corruption.limit)))
    for name, field, given, expected in asked:
        offsets, count = given.offsets, integer(f"{name}.{field}", getattr(given, field), 0, 2**32 - 1)
        fits = _is_array(offsets) and offsets.shape == expected.shape
        if fits and offsets.dtype.kind in "iu" and not np.array_equal(offsets, expected):
            wrong(f"{name}.offsets", _shown(offsets), _shown(expected))
        if count != expected[-1]:
            wrong(f"{name}.{field}", count, f"{expected[-1]}, the last of the offsets")


def prefix_sums(lengths: Sequence[int]) -> np.ndarray:
    """Prefix sums int32 [B + 1] of the lengths of sequences: `cu_seqlens`."""
    return np.frombuffer(_host.prefix_sums(lengths), np.int32)


def pool_offsets(lengths: Sequence[int], rows_max: int = 128) -> np.ndarray:
    """First word uint32 [B + 1] of each sequence's pool of at most `rows_max` masks; the last is the number of words."""
    return np.frombuffer(_host.pool_offsets(lengths, rows_max), np.uint32)


def labeled_offsets(lengths: Sequence[int], limit: CountLimit) -> np.ndarray:
    """First labeled row int32 [B + 1] of each sequence under a limit of chosen tokens; the last is their number."""
    return np.frombuffer(_host.labeled_offsets(lengths, limit), np.int32)


def rng_state(seed: int, step: int = 0) -> np.ndarray:
    """The four words uint32 [4] that a step's dropout and masks are drawn from."""
    return np.frombuffer(_host.rng_state(seed, step), np.uint32)


def mask_bits(visible: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Packs a boolean mask [L, L] for each sequence, true where a query (row) sees a key, for `Mask.visible`: bits uint32 [words]
    and offsets uint32 [B + 1]."""
    if not isinstance(visible, Sequence | np.ndarray):
        wrong("visible", f"a {type(visible).__name__}", "a sequence of arrays")
    for place, array in enumerate(visible):
        name = f"visible[{place}]"
        if not isinstance(array, np.ndarray) or array.dtype != np.bool_:
            dtype = getattr(array, "dtype", None)
            wrong(name, f"a {type(array).__name__} of {dtype}", "a NumPy array of bool")
        if array.ndim != 2 or array.shape[0] != array.shape[1]:
            wrong(name, f"of shape {text(array.shape)}", "[L, L]")
    packed = np.concatenate([np.ravel(array) for array in visible] or [np.empty(0, np.bool_)])
    lengths = [array.shape[0] for array in visible]
    bits, offsets = _host.mask_bits(lengths, packed.ctypes.data)
    return np.frombuffer(bits, np.uint32), np.frombuffer(offsets, np.uint32)
