"""The operations as functions of tensors."""

import re

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from .._call import instance
from .._operations import Bags, Corrupted, Corruption, CountLimit, Mask, Masks, Pool, Queries, Replacement
from ..errors import wrong
from ._ops import spread_corruption, spread_pool

_OPS = torch.ops.retromae
_DEVICES = ("cpu", "cuda")
# The dispatcher's text about a number that is none.
_NO_NUMBER = re.compile(r"a value of type '(.+?)' for argument '(.+?)'.*?Value: (.*?)\n", re.DOTALL)
_PLAIN = (Tensor, torch.nn.Parameter)


def _check(**tensors):
    """Refuses what the dispatcher would take and no kernel should see. A compiler gets what passed here without it."""
    if torch.compiler.is_compiling():
        return
    for name, tensor in tensors.items():
        kind = type(tensor)
        if kind not in _PLAIN:
            if not isinstance(tensor, Tensor):
                wrong(name, f"a {kind.__name__}", "a tensor")
            if is_traceable_wrapper_subclass(tensor):
                wrong(name, f"a {kind.__name__}", "a plain tensor, the part of this process")
        if tensor.layout is not torch.strided:
            wrong(name, f"of layout {tensor.layout}", "a dense tensor")
        if tensor.is_neg():
            wrong(name, "a view that is negated", "a tensor of values (resolve_neg)")


def _check_constant(**tensors):
    """Refuses a gradient where there is none."""
    for name, tensor in tensors.items():
        if tensor is not None:
            _check(**{name: tensor})
            if tensor.requires_grad and torch.is_grad_enabled():
                wrong(name, "a tensor that requires a gradient", "one without (detach): there is none")


def _call(operation, *arguments):
    """Calls an operation. A number that the dispatcher refuses is as wrong as one that we do."""
    if torch.compiler.is_compiling():
        return operation(*arguments)
    try:
        return operation(*arguments)
    except RuntimeError as error:
        found = _NO_NUMBER.search(str(error))
        if found is None:
            raise
        kind, name, value = found.groups()
    wrong(name, value, {"int": "an integer of 64 bits", "float": "a number"}.get(kind, kind))


def _autocast(*tensors):
    """Tensors in the dtype that autocast asks for, as those of PyTorch's own matmuls."""
    kind = tensors[0].device.type
    if kind not in _DEVICES or not torch.is_autocast_enabled(kind):
        return tensors
    dtype = torch.get_autocast_dtype(kind)
    return tuple(tensor if tensor is None else _cast(tensor, dtype) for tensor in tensors)


def _cast(tensor, dtype):
    """A float tensor in another float dtype; f64 stays, as under autocast, and is refused later."""
    if not tensor.is_floating_point() or tensor.dtype is torch.float64:
        return tensor
    return tensor.to(dtype)


def _vector(name, tensor):
    """A vector of a value for each column, in f32."""
    if tensor is None:
        return None
    _check(**{name: tensor})
    return _cast(tensor, torch.float32)


def _weights(name, tensor):
    """Factors of losses, in f32."""
    if tensor is None:
        return None
    _check_constant(**{name: tensor})
    return _cast(tensor, torch.float32)


def _dropout_rng(dropout_p, rng, device):
    """The four words that dropout is drawn from: the caller's, or drawn from PyTorch's generator of the device."""
    if isinstance(dropout_p, bool) or not isinstance(dropout_p, (int, float)) or not 0 <= dropout_p < 1:
        wrong("dropout_p", repr(dropout_p), "a number in [0, 1)")
    if not dropout_p:
        return None
    if rng is None:
        return torch.randint(-(2**31), 2**31, (4,), dtype=torch.int32, device=device)
    _check_constant(dropout_rng=rng)
    return rng


def _spread_mask(mask):
    """The arguments of a mask."""
    instance("mask", mask, Mask)
    if mask.kind == Mask.FULL.kind:
        return ()
    for field in ("bits", "offsets", "rows", "order", "rng", "sentence_indices", "word_starts"):
        tensor = getattr(mask, field)
        if tensor is not None:
            _check_constant(**{f"mask.{field}": tensor})
    return tuple(mask)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    *,
    mask: Mask = Mask.FULL,
    queries: Queries | None = None,
    dropout_p: float = 0.0,
    dropout_rng: Tensor | None = None,
    dropout_site: int = 0,
    scale: float = 0.0,
    atomic: bool = False,
) -> Tensor:
    """dropout(softmax(scale * Q K^T + mask)) V, a head and a sequence at a time, over packed sequences.

    Args:
        query: [Tq, A, d] of float32, bfloat16 or float16; d is 32, 64, 96 or 128. Tq is T unless there are `queries`.
        key: [T, A, d]. As those of `query` and `value`, its rows may be strided: views of a packed projection [T, 3, A, d].
        value: [T, A, d].
        cu_seqlens: int32 [B + 1], prefix sums of the lengths of the sequences (`prefix_sums`).
        max_seqlen: length of the longest sequence, or more.
        mask: keys that a query sees.
        queries: queries that are packed apart from the keys.
        dropout_p: rate of dropout of the probabilities, rounded to 1/256.
        dropout_rng: int32 [4], what dropout is drawn from (`rng_state`); without it, words of PyTorch's generator.
        dropout_site: number of the place in a model, if several use the same `dropout_rng`.
        scale: of the scores; 0 stands for 1 / sqrt(d).
        atomic: lets the backward pass of 16-bit dtypes add up query gradients by atomics: faster for long sequences, but
            rounded differently in each run.

    Returns:
        The output [Tq, A, d]; zero for a query that sees nothing.
    """
    _check(query=query, key=key, value=value, cu_seqlens=cu_seqlens)
    query, key, value = _autocast(query, key, value)
    rng = _dropout_rng(dropout_p, dropout_rng, query.device)
    options = (dropout_p, rng, dropout_site, scale, atomic, *_spread_mask(mask))
    if queries is None:
        return _call(_OPS.attention, query, key, value, cu_seqlens, max_seqlen, *options)[0]
    instance("queries", queries, Queries)
    _check(**{"queries.cu_seqlens": queries.cu_seqlens})
    _check_constant(**{"queries.positions": queries.positions})
    if mask.kind == Mask.FULL.kind:
        options += tuple(Mask.FULL)
    return _call(_OPS.attention, query, key, value, cu_seqlens, max_seqlen, *options, *queries)[0]


def two_stream_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    bits: Tensor,
    offsets: Tensor,
    rows: Tensor | None = None,
    *,
    dropout_p: float = 0.0,
    dropout_rng: Tensor | None = None,
    dropout_site: int = 0,
    scale: float = 0.0,
    atomic: bool = False,
) -> Tensor:
    """The attention of RetroMAE's enhanced decoder: queries of one stream, keys and values of another, and a mask for each token.

    A query sees position 0 of its sequence and the set bits of its mask, but never itself. `bits`, int32 [words], and `offsets`,
    int32 [B + 1], are those of `draw_masks` or `mask_bits`; `rows`, int16 [T], says which of its sequence's masks a token has, and
    without it each has its own. The rest is as in `attention`.
    """
    mask = Mask.independent(bits, offsets) if rows is None else Mask.pool(bits, offsets, rows)
    return attention(
        query,
        key,
        value,
        cu_seqlens,
        max_seqlen,
        mask=mask,
        dropout_p=dropout_p,
        dropout_rng=dropout_rng,
        dropout_site=dropout_site,
        scale=scale,
        atomic=atomic,
    )


def _reduced(operation, inputs, trained, reduction, count):
    """The losses of a head, or their sum or mean. `trained` are the tensors that may have a gradient, `count` gives what the sum
    is divided by."""
    if reduction == "none":
        return _call(operation, *inputs)
    if reduction not in ("mean", "sum"):
        wrong("reduction", repr(reduction), "'mean', 'sum' or 'none'")
    wanted = [tensor is not None and tensor.requires_grad and torch.is_grad_enabled() for tensor in trained]
    if any(wanted):
        # The logits are computed once for loss and gradients.
        gradients = getattr(_OPS, f"{operation.__name__}_gradients")
        loss = _call(gradients, *inputs, *wanted)[0]
    else:
        loss = _call(operation, *inputs).sum()
    return loss if reduction == "sum" else _mean(loss, count())


def _mean(loss, count):
    """loss / count. As in PyTorch's cross_entropy, the mean of nothing is NaN, and its gradient 0."""
    if not isinstance(count, Tensor):
        return loss / count if count else loss * float("nan")
    return loss / torch.where(count == 0, 1, count) + 0.0 / count


def _ids(name, ids):
    """Token ids in int32; those that are too large stay so."""
    _check(**{name: ids})
    if ids.dtype is torch.int64:
        return ids.clamp(-(2**31), 2**31 - 1).to(torch.int32)
    return ids


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None = None,
    *,
    reduction: str = "mean",
    row_weights: Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    soft_cap: float = 0.0,
    fused: bool = False,
    chunk_rows: int = 4096,
) -> Tensor:
    """cross_entropy(hidden @ weight.T + bias, targets), without all logits in memory.

    Args:
        hidden: [M, H] of float32, bfloat16 or float16, contiguous.
        weight: [V, H], contiguous: the word embeddings, of the dtype of `hidden`.
        targets: int32 or int64 [M], in [0, V) or `ignore_index`. Any other gives a loss of NaN and no gradient.
        bias: [V].
        reduction: "none" for the losses of the rows, "sum", or "mean": their sum divided by that of the weights of rows that are
            not ignored (by their number, without weights); NaN if there are none.
        row_weights: [M], factors of the losses. They have no gradient.
        ignore_index: target of rows without a loss.
        label_smoothing: in [0, 1).
        z_loss: factor of the squared log-sum-exp, which is added to the loss.
        soft_cap: bound that large logits approach, c tanh(logit / c); 0: none.
        fused: stores no logit; bfloat16 without the options.
        chunk_rows: rows whose logits are in memory at a time.

    Returns:
        float32, [M] for "none", else a scalar. For a scalar the gradients are computed together with the loss.
    """
    _check(hidden=hidden, weight=weight)
    targets = _ids("targets", targets)
    row_weights = _weights("row_weights", row_weights)
    hidden, weight = _autocast(hidden, weight)
    bias = _vector("bias", bias)
    inputs = (hidden, weight, targets, bias, row_weights, ignore_index)
    options = (label_smoothing, z_loss, soft_cap, fused, chunk_rows)

    def count():
        kept = targets != ignore_index
        return kept.sum() if row_weights is None else (row_weights * kept).sum()

    return _reduced(_OPS.linear_cross_entropy, inputs + options, (hidden, weight, bias), reduction, count)


def bag_of_words_loss(
    hidden: Tensor,
    weight: Tensor,
    bags: Bags,
    cu_seqlens: Tensor,
    max_seqlen: int,
    bias: Tensor | None = None,
    *,
    reduction: str = "mean",
    sentence_weights: Tensor | None = None,
    first_position: int = 1,
    fused: bool = False,
    chunk_rows: int = 4096,
) -> Tensor:
    """DupMAE's loss: the largest logits over the tokens of a sentence predict the words of its bag.

    Args:
        hidden: [T, H] of float32, bfloat16 or float16, contiguous.
        weight: [V, H], contiguous, of the dtype of `hidden`.
        bags: token ids that each sentence predicts, with their weights, which have no gradient.
        cu_seqlens: int32 [B + 1], prefix sums of the lengths of the sentences.
        max_seqlen: length of the longest sentence, or more.
        bias: [V].
        reduction: "none" for the losses of the sentences, "sum", or "mean": their sum divided by that of their weights (by their
            number, without weights).
        sentence_weights: [B], factors of the losses. They have no gradient.
        first_position: tokens at the start of each sentence that have no logits.
        fused: stores no logit; bfloat16 and float16.
        chunk_rows: rows whose logits are in memory at a time.

    Returns:
        float32, [B] for "none", else a scalar.
    """
    _check(hidden=hidden, weight=weight, cu_seqlens=cu_seqlens)
    instance("bags", bags, Bags)
    bag_offsets = bags.offsets
    _check_constant(**{"bags.offsets": bag_offsets})
    bag_ids = _ids("bags.ids", bags.ids)
    bag_weights = _weights("bags.weights", bags.weights)
    sentence_weights = _weights("sentence_weights", sentence_weights)
    hidden, weight = _autocast(hidden, weight)
    bias = _vector("bias", bias)
    inputs = (
        hidden,
        weight,
        cu_seqlens,
        bias,
        sentence_weights,
        max_seqlen,
        bag_offsets,
        bag_ids,
        bag_weights,
    )
    options = (first_position, fused, chunk_rows)

    def count():
        return cu_seqlens.shape[0] - 1 if sentence_weights is None else sentence_weights.sum()

    return _reduced(_OPS.bag_of_words, inputs + options, (hidden, weight, bias), reduction, count)


def dropout_add_layer_norm(
    input: Tensor,
    gamma: Tensor,
    beta: Tensor,
    residual: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    dropout_p: float = 0.0,
    dropout_rng: Tensor | None = None,
    dropout_site: int = 0,
    eps: float = 1e-12,
) -> Tensor:
    """LayerNorm(residual + dropout(input + bias)).

    `input` and `residual` are [rows, columns] of float32, bfloat16 or float16, contiguous; columns are a multiple of 8 up to 1024.
    `gamma`, `beta` and `bias` are [columns]. Returns [rows, columns]. Dropout is as in `attention`.
    """
    _check(input=input)
    if residual is not None:
        _check(residual=residual)
    input, residual = _autocast(input, residual)
    vectors = (_vector("gamma", gamma), _vector("beta", beta))
    rng = _dropout_rng(dropout_p, dropout_rng, input.device)
    bias = _vector("bias", bias)
    return _call(
        _OPS.dropout_add_layer_norm, input, *vectors, residual, bias, eps, dropout_p, rng, dropout_site
    )[0]


def draw_masks(
    ids: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    rng: Tensor,
    sentence_indices: Tensor,
    word_starts: Tensor,
    pool: Pool | None = None,
    encoder: Corruption | None = None,
    decoder: Corruption | None = None,
) -> Masks:
    """Draws the masks of a batch on its device: a pool of masks for each sentence, and corrupted inputs with their labels.

    Args:
        ids: int32 [T]; the first and the last of a sentence are never chosen.
        cu_seqlens: int32 [B + 1], prefix sums of the lengths of the sentences.
        max_seqlen: length of the longest sentence, or more; at most 8192.
        rng: int32 [4], the words that are drawn from (`rng_state`).
        sentence_indices: int32 [B], indices in the corpus: a sentence's masks depend on its own and on `rng` alone.
        word_starts: int32 [ceil(T / 32)], a bit a token, lowest first, 1 where a word starts.
        pool: masks of the enhanced decoder.
        encoder: corrupted input of the encoder.
        decoder: corrupted input of a decoder without masks of its own.

    Returns:
        What was asked for: `bits` int32 [words] and `rows` int16 [T] of the pool, and `input_ids` int32 [T], `labeled_rows` and
        `targets` int32 [labeled] and `counts` int32 [B] of a corrupted input.
    """
    _check(
        ids=ids, cu_seqlens=cu_seqlens, rng=rng, sentence_indices=sentence_indices, word_starts=word_starts
    )
    if pool is not None:
        instance("pool", pool, Pool)
        instance("pool.limit", pool.limit, CountLimit)
        _check(**{"pool.offsets": pool.offsets})
    for name, corruption in (("encoder", encoder), ("decoder", decoder)):
        if corruption is not None:
            instance(name, corruption, Corruption)
            instance(f"{name}.limit", corruption.limit, CountLimit)
            instance(f"{name}.replacement", corruption.replacement, Replacement)
            _check(**{f"{name}.offsets": corruption.offsets})
    asked = (*spread_pool(pool), *spread_corruption(encoder), *spread_corruption(decoder))
    drawn = _call(_OPS.draw_masks, ids, cu_seqlens, max_seqlen, rng, sentence_indices, word_starts, *asked)
    bits = rows = None
    if pool is not None:
        bits, rows, *drawn = drawn
    corrupted = []
    for corruption in (encoder, decoder):
        if corruption is None:
            corrupted.append(None)
        else:
            corrupted.append(Corrupted(*drawn[:4]))
            drawn = drawn[4:]
    return Masks(bits, rows, *corrupted)
