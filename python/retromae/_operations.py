"""The operations, once for every framework: what each argument must be, and which field of a descriptor it fills.

Shapes are in the order of the memory. T is tokens (rows of all sequences, one after the other without padding), B sequences, A
heads, d head size, H hidden size, V token ids.
"""

from typing import Any, NamedTuple

from . import _abi
from ._call import (
    DTYPES,
    F32,
    FLOATS,
    HALF_WORDS,
    I32,
    WORDS,
    Call,
    dimensions,
    flag,
    instance,
    integer,
    real,
    text,
)
from .errors import wrong

I32_MAX = 2**31 - 1
I64_MAX = 2**63 - 1


class Mask(NamedTuple):
    """Keys of its sequence that each query sees: `Mask.FULL`, `Mask.CAUSAL`, or what one of the functions here makes.

    Bits lie in rows of ceil(L / 32) words of 32, lowest bit first; a set bit is a visible key. `mask_bits` packs booleans.
    """

    kind: int = _abi.RMAE_MASK_FULL
    flags: int = 0
    bits: Any | None = None
    offsets: Any | None = None
    rows: Any | None = None
    order: Any | None = None
    left: int = -1
    right: int = -1
    rng: Any | None = None
    sentence_indices: Any | None = None
    word_starts: Any | None = None
    pool_rows_max: int = 0
    ratio: float = 0.0
    cap: int = 0

    @staticmethod
    def window(left: int = -1, right: int = -1, first: bool = False) -> "Mask":
        """Keys from `left` positions before the query to `right` after it (-1: all); with `first` position 0, too."""
        flags = _abi.RMAE_MASK_FIRST if first else 0
        return Mask(_abi.RMAE_MASK_WINDOW, flags, left=left, right=right)

    @staticmethod
    def visible(bits: Any, offsets: Any) -> "Mask":
        """The set bits of `bits` [words], a row for each token. The rows of sequence b begin at word `offsets[b]`; `offsets`
        is [B + 1]."""
        return Mask(_abi.RMAE_MASK_BITS, bits=bits, offsets=offsets)

    @staticmethod
    def pool(bits: Any, offsets: Any, rows: Any) -> "Mask":
        """RetroMAE's: position 0, and the set bits of row `rows[t]` of the sequence's pool, but never the query itself. `bits`
        is [words], `offsets` [B + 1], `rows` [T] of 16 bits."""
        return Mask(_abi.RMAE_MASK_POOL, bits=bits, offsets=offsets, rows=rows)

    @staticmethod
    def independent(bits: Any, offsets: Any) -> "Mask":
        """As `pool`, with a row of its own for each token."""
        return Mask(_abi.RMAE_MASK_INDEPENDENT, bits=bits, offsets=offsets)

    @staticmethod
    def generated(
        rng: Any,
        sentence_indices: Any,
        word_starts: Any,
        ratio: float,
        cap: int = 0,
        pool_rows_max: int = 128,
    ) -> "Mask":
        """The pool that `draw_masks` would draw from the same `rng` [4], `sentence_indices` [B] and `word_starts`
        [ceil(T / 32)], drawn anew where it is needed and never stored."""
        return Mask(
            _abi.RMAE_MASK_GENERATED,
            rng=rng,
            sentence_indices=sentence_indices,
            word_starts=word_starts,
            pool_rows_max=pool_rows_max,
            ratio=ratio,
            cap=cap,
        )

    @staticmethod
    def permutation(order: Any, include_self: bool = False) -> "Mask":
        """Keys that come earlier in `order` [T] of 16 bits, the place of each token in the order of its sequence; with
        `include_self` the query's own position, too."""
        flags = _abi.RMAE_MASK_INCLUDE_SELF if include_self else 0
        return Mask(_abi.RMAE_MASK_PERMUTATION, flags, order=order)


Mask.FULL = Mask()
Mask.CAUSAL = Mask.window(right=0)


class Queries(NamedTuple):
    """Queries that are packed apart from the keys: prefix sums [B + 1] of their numbers, the largest number, and the
    position [Tq] of each in its sequence (0, 1, ... where there are none)."""

    cu_seqlens: Any
    max_seqlen: int
    positions: Any | None = None


class Dropout(NamedTuple):
    """Dropout of a rate in [0, 1), in steps of 1/256. The draws follow from the four words `rng` [4] in memory of the device
    (`rng_state`) and from `site`, the number of the place in a model."""

    rate: float
    rng: Any
    site: int = 0


class CountLimit(NamedTuple):
    """Tokens of a sentence that a mask hides: min(cap, max(1, round(ratio * length))); no cap if it is 0."""

    ratio: float
    cap: int = 0


def _packed(call, packed, cu_seqlens, max_seqlen, tokens, names=("cu_seqlens", "max_seqlen")):
    """Fills in the sequences of `tokens` rows; returns their number."""
    (length,), _ = dimensions(call.arrays, names[0], cu_seqlens, ("B + 1",), I32)
    if length == 0:
        wrong(names[0], "of shape [0]", "[B + 1]")
    call.input(packed, "cu_seqlens", names[0], cu_seqlens, (length,), I32)
    packed.sequences = length - 1
    packed.tokens = tokens
    packed.max_seqlen = integer(names[1], max_seqlen, 0, I32_MAX)
    return length - 1


def _dropout(call, dropout: Dropout | None):
    if dropout is None:
        return
    instance("dropout", dropout, Dropout)
    field = call.desc.dropout
    call.input(field, "rng", "dropout.rng", dropout.rng, (4,), WORDS)
    field.rate = real("dropout.rate", dropout.rate)
    field.site = integer("dropout.site", dropout.site, 0, 2**32 - 1)


def _count_limit(name, field, limit):
    """Fills in a limit: of a mask or a CountLimit."""
    field.ratio = real(f"{name}.ratio", limit.ratio, 0, 1)
    field.cap = integer(f"{name}.cap", limit.cap, 0, I64_MAX)


def _mask(call, mask: Mask, sequences, tokens):
    arrays, desc = call.arrays, call.desc.mask
    instance("mask", mask, Mask)
    desc.kind = integer("mask.kind", mask.kind, 0, _abi.RMAE_MASK_PERMUTATION)
    desc.flags = integer("mask.flags", mask.flags, 0, 2**32 - 1)
    if mask.kind in (_abi.RMAE_MASK_POOL, _abi.RMAE_MASK_INDEPENDENT, _abi.RMAE_MASK_BITS):
        (words,), _ = dimensions(arrays, "mask.bits", mask.bits, ("words",), WORDS)
        call.input(desc, "bits", "mask.bits", mask.bits, (words,), WORDS)
        desc.words = words
        call.input(desc, "offsets", "mask.offsets", mask.offsets, (sequences + 1,), WORDS)
        if mask.kind == _abi.RMAE_MASK_POOL:
            call.input(desc, "rows", "mask.rows", mask.rows, (tokens,), HALF_WORDS)
    elif mask.kind == _abi.RMAE_MASK_GENERATED:
        call.input(desc, "rng", "mask.rng", mask.rng, (4,), WORDS)
        indices = mask.sentence_indices
        call.input(desc, "sentence_indices", "mask.sentence_indices", indices, (sequences,), WORDS)
        word_starts = mask.word_starts
        call.input(desc, "word_starts", "mask.word_starts", word_starts, (bit_words(tokens),), WORDS)
        desc.pool_rows_max = integer("mask.pool_rows_max", mask.pool_rows_max, 1, 2**16)
        _count_limit("mask", desc.count_limit, mask)
    elif mask.kind == _abi.RMAE_MASK_WINDOW:
        desc.left = integer("mask.left", mask.left, -1, I32_MAX)
        desc.right = integer("mask.right", mask.right, -1, I32_MAX)
    elif mask.kind == _abi.RMAE_MASK_PERMUTATION:
        call.input(desc, "order", "mask.order", mask.order, (tokens,), HALF_WORDS)


def bit_words(count):
    """Words of 32 bits that `count` bits take."""
    return (count + 31) // 32


# ---- Attention ----


class AttentionOptions(NamedTuple):
    """What attention takes beside queries, keys and values."""

    cu_seqlens: Any
    max_seqlen: int
    mask: Mask = Mask.FULL
    queries: Queries | None = None
    dropout: Dropout | None = None
    scale: float = 0.0
    atomic: bool = False


def _attention(arrays, query, key, value, options: AttentionOptions):
    """Returns a call with what forward and backward pass share, and the shape of the queries."""
    call = Call(arrays, _abi.rmae_attention_desc)
    desc = call.desc
    names = ("T", "A", "d")
    keys, dtype = dimensions(arrays, "key", key, names, FLOATS)
    tokens, heads, dim = keys
    shape, _ = dimensions(arrays, "query", query, names, (dtype,))
    sequences = _packed(call, desc.batch, options.cu_seqlens, options.max_seqlen, tokens)
    if options.queries is None:
        expected = keys
    else:
        expected = (shape[0], heads, dim)
        queries = options.queries
        instance("queries", queries, Queries)
        desc.queries.tokens = shape[0]
        desc.queries.max_seqlen = integer("queries.max_seqlen", queries.max_seqlen, 0, I32_MAX)
        call.input(
            desc.queries, "cu_seqlens", "queries.cu_seqlens", queries.cu_seqlens, (sequences + 1,), I32
        )
        positions = queries.positions
        call.input(desc.queries, "positions", "queries.positions", positions, (shape[0],), I32, optional=True)
    call.rows("query", "query", query, expected, dtype)
    call.rows("key", "key", key, keys, dtype)
    call.rows("value", "value", value, keys, dtype)
    desc.dtype = DTYPES[dtype]
    desc.num_heads = heads
    desc.head_dim = dim
    desc.scale = real("scale", options.scale)
    desc.flags = _abi.RMAE_ATTENTION_ATOMIC if flag("atomic", options.atomic) else 0
    _mask(call, options.mask, sequences, tokens)
    _dropout(call, options.dropout)
    return call, shape, dtype


def attention_forward(arrays, query, key, value, options: AttentionOptions):
    """Returns the output [Tq, A, d] and the log-sum-exp [A, Tq]."""
    call, shape, dtype = _attention(arrays, query, key, value, options)
    output = call.output(call.desc, "output", shape, dtype)
    log_sum_exp = call.output(call.desc, "log_sum_exp", (shape[1], shape[0]), "float32")
    call.run("rmae_attention_forward")
    return output, log_sum_exp


def attention_backward(arrays, d_output, query, key, value, output, log_sum_exp, options: AttentionOptions):
    """Returns the gradients of query, key and value."""
    call, shape, dtype = _attention(arrays, query, key, value, options)
    desc = call.desc
    call.input(desc, "output", "output", output, shape, (dtype,))
    call.input(desc, "log_sum_exp", "log_sum_exp", log_sum_exp, (shape[1], shape[0]), F32)
    call.input(desc, "d_output", "d_output", d_output, shape, (dtype,))
    keys, _ = arrays.look("key", key)
    d_query = call.output(desc, "d_query", shape, dtype)
    d_key = call.output(desc, "d_key", keys, dtype)
    d_value = call.output(desc, "d_value", keys, dtype)
    call.workspace("rmae_attention_workspace")
    call.run("rmae_attention_backward")
    return d_query, d_key, d_value


# ---- Linear + cross-entropy ----


class CrossEntropyOptions(NamedTuple):
    """What linear + cross-entropy takes beside its arrays. `chunk_rows` bounds the memory: rows whose logits are in memory
    at a time."""

    ignore_index: int = -100
    label_smoothing: float = 0.0
    z_loss: float = 0.0
    soft_cap: float = 0.0
    fused: bool = False
    chunk_rows: int = 4096


class Gradients(NamedTuple):
    """Which gradients are asked for."""

    hidden: bool = False
    weight: bool = False
    bias: bool = False


class CrossEntropy(NamedTuple):
    """Results, each [M]: weighted loss, log-sum-exp of the logits, log-probability of the target, and 1 where no logit exceeds
    the target's; then the gradients that were asked for, of the dtype of `hidden`, f32 and f32."""

    losses: Any
    log_sum_exp: Any | None = None
    log_likelihoods: Any | None = None
    correct: Any | None = None
    d_hidden: Any | None = None
    d_weight: Any | None = None
    d_bias: Any | None = None


def _algorithm(fused):
    return _abi.RMAE_ALGORITHM_FUSED if flag("fused", fused) else _abi.RMAE_ALGORITHM_LIBRARY


def _head(call, hidden, weight, bias, gradients: Gradients, rows_name):
    """Binds the head of a language model; returns rows, hidden size, token ids and dtype."""
    arrays, desc = call.arrays, call.desc
    (rows, hidden_size), dtype = dimensions(arrays, "hidden", hidden, (rows_name, "H"), FLOATS)
    (vocab_size, columns), _ = dimensions(arrays, "weight", weight, ("V", "H"), (dtype,))
    if columns != hidden_size:
        wrong("weight", f"of shape {text((vocab_size, columns))}", f"[V, {hidden_size}], as hidden is")
    call.input(desc, "hidden", "hidden", hidden, (rows, hidden_size), (dtype,))
    call.input(desc, "weight", "weight", weight, (vocab_size, hidden_size), (dtype,))
    call.input(desc, "bias", "bias", bias, (vocab_size,), F32, optional=True)
    desc.dtype = DTYPES[dtype]
    desc.hidden_size = hidden_size
    desc.vocab_size = vocab_size
    if gradients.bias and bias is None:
        wrong("bias", "None", "given, as its gradient is asked for")
    return rows, hidden_size, vocab_size, dtype


def _head_gradients(call, gradients: Gradients, rows, hidden_size, vocab_size, dtype):
    """Makes the arrays of the gradients."""
    desc = call.desc
    return (
        call.output(desc, "d_hidden", (rows, hidden_size), dtype) if gradients.hidden else None,
        call.sum(desc, "d_weight", (vocab_size, hidden_size), "float32") if gradients.weight else None,
        call.sum(desc, "d_bias", (vocab_size,), "float32") if gradients.bias else None,
    )


def cross_entropy(
    arrays,
    hidden,
    weight,
    bias,
    targets,
    row_weights,
    options: CrossEntropyOptions,
    gradients: Gradients,
    statistics: bool,
) -> CrossEntropy:
    call = Call(arrays, _abi.rmae_cross_entropy_desc)
    desc = call.desc
    rows, hidden_size, vocab_size, dtype = _head(call, hidden, weight, bias, gradients, "M")
    call.input(desc, "targets", "targets", targets, (rows,), I32)
    call.input(desc, "row_weights", "row_weights", row_weights, (rows,), F32, optional=True)
    desc.flags = _abi.RMAE_CROSS_ENTROPY_IGNORE_INDEX
    desc.ignore_index = integer("ignore_index", options.ignore_index, -(2**31), I32_MAX)
    desc.algorithm = _algorithm(options.fused)
    desc.label_smoothing = real("label_smoothing", options.label_smoothing)
    desc.z_loss = real("z_loss", options.z_loss)
    desc.soft_cap = real("soft_cap", options.soft_cap)
    desc.rows = rows
    desc.chunk_rows = integer("chunk_rows", options.chunk_rows, 0, I64_MAX)
    losses = call.output(desc, "losses", (rows,), "float32")
    fields = ("log_sum_exp", "log_likelihoods") if statistics else ()
    values = [call.output(desc, field, (rows,), "float32") for field in fields] or [None, None]
    values.append(call.output(desc, "correct", (rows,), "uint8") if statistics else None)
    values += _head_gradients(call, gradients, rows, hidden_size, vocab_size, dtype)
    call.workspace("rmae_cross_entropy_workspace")
    call.run(f"rmae_cross_entropy_{'forward_backward' if any(gradients) else 'forward'}")
    return CrossEntropy(losses, *values)


# ---- Bag of words ----


class Bags(NamedTuple):
    """Token ids that each sentence predicts: prefix sums [B + 1] of their numbers, the ids [N], and their weights [N] (1 where
    there are none)."""

    offsets: Any
    ids: Any
    weights: Any | None = None


class BagOfWordsOptions(NamedTuple):
    """What the bag of words takes beside its arrays. `first_position` tokens at the start of each sentence have no logits."""

    first_position: int = 1
    fused: bool = False
    chunk_rows: int = 4096


class BagOfWords(NamedTuple):
    """Weighted losses [B], and the gradients that were asked for."""

    losses: Any
    d_hidden: Any | None = None
    d_weight: Any | None = None
    d_bias: Any | None = None


def bag_of_words(
    arrays,
    hidden,
    weight,
    bias,
    cu_seqlens,
    max_seqlen,
    bags: Bags,
    sentence_weights,
    options: BagOfWordsOptions,
    gradients: Gradients,
) -> BagOfWords:
    call = Call(arrays, _abi.rmae_bag_of_words_desc)
    desc = call.desc
    rows, hidden_size, vocab_size, dtype = _head(call, hidden, weight, bias, gradients, "T")
    sequences = _packed(call, desc.batch, cu_seqlens, max_seqlen, rows)
    instance("bags", bags, Bags)
    (length,), _ = dimensions(arrays, "bags.ids", bags.ids, ("N",), I32)
    call.input(desc.bags, "ids", "bags.ids", bags.ids, (length,), I32)
    call.input(desc.bags, "offsets", "bags.offsets", bags.offsets, (sequences + 1,), I32)
    call.input(desc.bags, "weights", "bags.weights", bags.weights, (length,), F32, optional=True)
    desc.bags.length = length
    call.input(
        desc, "sentence_weights", "sentence_weights", sentence_weights, (sequences,), F32, optional=True
    )
    desc.algorithm = _algorithm(options.fused)
    desc.first_position = integer("first_position", options.first_position, 0, 2**16 - 1)
    desc.chunk_rows = integer("chunk_rows", options.chunk_rows, 0, I64_MAX)
    losses = call.output(desc, "losses", (sequences,), "float32")
    values = _head_gradients(call, gradients, rows, hidden_size, vocab_size, dtype)
    call.workspace("rmae_bag_of_words_workspace")
    call.run(f"rmae_bag_of_words_{'forward_backward' if any(gradients) else 'forward'}")
    return BagOfWords(losses, *values)


# ---- Dropout + residual + LayerNorm ----


def _layer_norm(arrays, rows_name, rows_array, gamma, eps, dropout):
    call = Call(arrays, _abi.rmae_layer_norm_desc)
    desc = call.desc
    shape, dtype = dimensions(arrays, rows_name, rows_array, ("rows", "columns"), FLOATS)
    desc.dtype = DTYPES[dtype]
    desc.rows, desc.columns = shape
    desc.eps = real("eps", eps)
    call.input(desc, "gamma", "gamma", gamma, shape[1:], F32)
    _dropout(call, dropout)
    return call, shape, dtype


class LayerNorm(NamedTuple):
    """Output [rows, columns], the sum that was normalized, and mean and 1 / standard deviation of its rows."""

    output: Any
    sum: Any
    mean: Any
    rstd: Any


def layer_norm_forward(arrays, input, gamma, beta, residual, bias, dropout: Dropout | None, eps) -> LayerNorm:
    """LayerNorm(residual + dropout(input + bias))."""
    call, shape, dtype = _layer_norm(arrays, "input", input, gamma, eps, dropout)
    desc = call.desc
    call.input(desc, "input", "input", input, shape, (dtype,))
    call.input(desc, "beta", "beta", beta, shape[1:], F32)
    call.input(desc, "residual", "residual", residual, shape, (dtype,), optional=True)
    call.input(desc, "bias", "bias", bias, shape[1:], F32, optional=True)
    total = call.output(desc, "sum", shape, dtype)
    output = call.output(desc, "output", shape, dtype)
    mean = call.output(desc, "mean", shape[:1], "float32")
    rstd = call.output(desc, "rstd", shape[:1], "float32")
    call.run("rmae_layer_norm_forward")
    return LayerNorm(output, total, mean, rstd)


class LayerNormGradients(NamedTuple):
    """Gradients of input, residual, gamma, beta and bias."""

    d_input: Any
    d_residual: Any | None
    d_gamma: Any
    d_beta: Any
    d_bias: Any | None


def layer_norm_backward(
    arrays, d_output, sum, mean, rstd, gamma, dropout: Dropout | None, eps, residual: bool, bias: bool
) -> LayerNormGradients:
    call, shape, dtype = _layer_norm(arrays, "sum", sum, gamma, eps, dropout)
    desc = call.desc
    call.input(desc, "sum", "sum", sum, shape, (dtype,))
    call.input(desc, "d_output", "d_output", d_output, shape, (dtype,))
    call.input(desc, "mean", "mean", mean, shape[:1], F32)
    call.input(desc, "rstd", "rstd", rstd, shape[:1], F32)
    d_input = call.output(desc, "d_input", shape, dtype)
    d_residual = call.output(desc, "d_residual", shape, dtype) if flag("residual", residual) else None
    d_gamma = call.sum(desc, "d_gamma", shape[1:], "float32")
    d_beta = call.sum(desc, "d_beta", shape[1:], "float32")
    d_bias = call.sum(desc, "d_bias", shape[1:], "float32") if flag("bias", bias) else None
    call.workspace("rmae_layer_norm_workspace")
    call.run("rmae_layer_norm_backward")
    return LayerNormGradients(d_input, d_residual, d_gamma, d_beta, d_bias)


# ---- Masks ----


class Replacement(NamedTuple):
    """What becomes of chosen tokens: `mask_id` for `mask_share` of them, a random id below `vocab_size` for `random_share`;
    the rest stays."""

    mask_id: int
    vocab_size: int
    mask_share: float = 0.8
    random_share: float = 0.1


class Corruption(NamedTuple):
    """A corrupted input that is drawn: how many tokens of each sentence are chosen and what becomes of them. `offsets` [B + 1] are
    of `labeled_offsets`, `labeled` is the last of them."""

    limit: CountLimit
    replacement: Replacement
    offsets: Any
    labeled: int


class Corrupted(NamedTuple):
    """A corrupted input: ids [T]; the rows [labeled] with a label (negative where there is none) and their original ids (-100);
    labels of each sentence [B]."""

    input_ids: Any
    labeled_rows: Any
    targets: Any
    counts: Any


class Pool(NamedTuple):
    """A pool of masks for each sentence that is drawn: how many tokens each mask hides, and how many masks there are. `offsets`
    [B + 1] are of `pool_offsets`, `words` is the last of them."""

    limit: CountLimit
    offsets: Any
    words: int
    rows_max: int = 128


class Masks(NamedTuple):
    """What was drawn: the pools' bits [words] and the row [T] of each token in its sentence's pool, and the corrupted inputs."""

    bits: Any | None = None
    rows: Any | None = None
    encoder: Corrupted | None = None
    decoder: Corrupted | None = None


def draw_masks(
    arrays,
    ids,
    cu_seqlens,
    max_seqlen,
    rng,
    sentence_indices,
    word_starts,
    pool: Pool | None,
    encoder: Corruption | None,
    decoder: Corruption | None,
) -> Masks:
    call = Call(arrays, _abi.rmae_masks_desc)
    desc = call.desc
    (tokens,), _ = dimensions(arrays, "ids", ids, ("T",), I32)
    (sentences,), _ = dimensions(arrays, "sentence_indices", sentence_indices, ("B",), WORDS)
    call.input(desc, "rng", "rng", rng, (4,), WORDS)
    call.input(desc, "cu_seqlens", "cu_seqlens", cu_seqlens, (sentences + 1,), I32)
    call.input(desc, "indices", "sentence_indices", sentence_indices, (sentences,), WORDS)
    call.input(desc, "word_starts", "word_starts", word_starts, (bit_words(tokens),), WORDS)
    desc.sentences = sentences
    desc.tokens = tokens
    desc.length_max = integer("max_seqlen", max_seqlen, 1, 8192)
    bits = rows = None
    if pool is not None:
        instance("pool", pool, Pool)
        instance("pool.limit", pool.limit, CountLimit)
        _count_limit("pool.limit", desc.pool.count_limit, pool.limit)
        desc.pool.rows_max = integer("pool.rows_max", pool.rows_max, 1, 2**16)
        call.input(desc.pool, "offsets", "pool.offsets", pool.offsets, (sentences + 1,), WORDS)
        desc.pool.words = words = integer("pool.words", pool.words, 0, 2**32 - 1)
        bits = call.output(desc.pool, "bits", (words,), "int32")
        rows = call.output(desc.pool, "rows", (tokens,), "int16")
    corrupted = [
        None if asked is None else _corrupt(call, field, ids, tokens, sentences, asked)
        for field, asked in (("encoder", encoder), ("decoder", decoder))
    ]
    call.workspace("rmae_masks_workspace")
    call.run("rmae_masks_sample")
    return Masks(bits, rows, *corrupted)


def _corrupt(call, field, ids, tokens, sentences, asked: Corruption):
    desc = getattr(call.desc, field)
    instance(field, asked, Corruption)
    instance(f"{field}.limit", asked.limit, CountLimit)
    instance(f"{field}.replacement", asked.replacement, Replacement)
    call.input(desc, "ids", "ids", ids, (tokens,), I32)
    _count_limit(f"{field}.limit", desc.count_limit, asked.limit)
    replacement = asked.replacement
    name = f"{field}.replacement"
    desc.replacement.mask_id = integer(f"{name}.mask_id", replacement.mask_id, 0, I32_MAX)
    desc.replacement.vocab_size = integer(f"{name}.vocab_size", replacement.vocab_size, 1, 2**31)
    desc.replacement.mask_share = real(f"{name}.mask_share", replacement.mask_share, 0, 1)
    desc.replacement.random_share = real(f"{name}.random_share", replacement.random_share, 0, 1)
    call.input(desc, "offsets", f"{field}.offsets", asked.offsets, (sentences + 1,), I32)
    desc.labeled = labeled = integer(f"{field}.labeled", asked.labeled, 0, I32_MAX)
    return Corrupted(
        call.output(desc, "input_ids", (tokens,), "int32"),
        call.output(desc, "labeled_rows", (labeled,), "int32"),
        call.output(desc, "targets", (labeled,), "int32"),
        call.output(desc, "counts", (sentences,), "int32"),
    )
