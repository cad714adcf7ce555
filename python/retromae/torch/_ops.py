"""The operations as PyTorch's dispatcher knows them: schemas, kernels, fake kernels, gradients.

An operation's arguments are tensors, numbers and flags alone: `Mask`, `Queries` and the like are spread over them. The functions
that take those are in `_functions.py`.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .. import _operations
from .._operations import (
    AttentionOptions,
    BagOfWordsOptions,
    Bags,
    Corruption,
    CountLimit,
    CrossEntropyOptions,
    Dropout,
    Gradients,
    Mask,
    Pool,
    Queries,
    Replacement,
)
from ._arrays import FakeArrays, Planned

_LIBRARY = torch.library.Library("retromae", "DEF")
# A compiler hands over tensors of the strides that they would have without it.
_TAGS = (
    torch.Tag.pt2_compliant_tag,
    getattr(torch.Tag, "needs_exact_strides", torch.Tag.needs_fixed_stride_order),
)


def _register(schema, finish=tuple):
    """Registers a function as the operation of this schema. It gets arrays and the operation's inputs and returns a sequence of
    tensors that the arrays made, or None; `finish` makes the operation's outputs of them."""

    def register(function):
        name = schema.partition("(")[0]
        planned = Planned(function)
        # The parser of schemas knows no line breaks.
        _LIBRARY.define(" ".join(schema.split()), tags=_TAGS)
        # For every device, so that one that nothing is built for comes to the check of the arguments, too.
        _LIBRARY.impl(name, lambda *inputs: finish(planned(*inputs)), "CompositeExplicitAutograd")
        torch.library.register_fake(
            f"retromae::{name}", lambda *inputs: finish(function(FakeArrays(), *inputs)), lib=_LIBRARY
        )
        return function

    return register


def _filled(made):
    """Outputs of an operation that may have none in some places: empty ones there."""
    return tuple(made[0].new_empty(0) if output is None else output for output in made)


def _gradient(name, saved_outputs=(), forgotten=()):
    """Registers a function as the gradient of operation `name`. It gets the context, the operation's inputs, those of its outputs
    whose places are given, and the gradient of the first output, the others having none; it returns the gradients of the first
    inputs. Tensors at places in `forgotten` are not kept until then: in their place is their dtype."""
    # torch.library.register_autograd would do, but looks through the schema in each call: 130 us for attention.
    operation = getattr(torch.ops.retromae, name).default
    below_autograd = torch._C._AutoDispatchBelowAutograd
    defaults = tuple(argument.default_value for argument in operation._schema.arguments)

    def register(function):
        class Gradient(torch.autograd.Function):
            @staticmethod
            def forward(ctx, *inputs):
                with below_autograd():
                    output = operation(*inputs)
                outputs = output if isinstance(output, tuple) else (output,)
                ctx.set_materialize_grads(False)
                ctx.mark_non_differentiable(*outputs[1:])
                # The dispatcher leaves out defaults.
                inputs += defaults[len(inputs) :]
                saved = [outputs[place] for place in saved_outputs]
                ctx.rest = rest = []
                for place, value in enumerate(inputs):
                    is_tensor = isinstance(value, Tensor)
                    kept = is_tensor and place not in forgotten
                    saved.append(value if kept else None)
                    rest.append(value.dtype if is_tensor else value)
                ctx.save_for_backward(*saved)
                return output

            @staticmethod
            @once_differentiable
            def backward(ctx, gradient, *_):
                if gradient is None:
                    return (None,) * len(ctx.rest)
                saved = ctx.saved_tensors
                outputs, tensors = saved[: len(saved_outputs)], saved[len(saved_outputs) :]
                inputs = [
                    rest if tensor is None else tensor for tensor, rest in zip(tensors, ctx.rest, strict=True)
                ]
                found = function(ctx, inputs, outputs, gradient)
                return found + (None,) * (len(inputs) - len(found))

        def run(*inputs):
            if torch.is_grad_enabled() and any(
                isinstance(value, Tensor) and value.requires_grad for value in inputs
            ):
                return Gradient.apply(*inputs)
            with below_autograd():
                return operation(*inputs)

        _LIBRARY.impl(name, run, "Autograd")
        return function

    return register


# ---- Attention ----

# Arguments that are rarely given come last: the dispatcher leaves defaults at the end out.
_DROPOUT = "float dropout_p=0., Tensor? dropout_rng=None, SymInt dropout_site=0"
_ATTENTION = f"""{_DROPOUT}, float scale=0., bool atomic=False, int mask_kind=0, SymInt mask_flags=0, Tensor? mask_bits=None,
    Tensor? mask_offsets=None, Tensor? mask_rows=None, Tensor? mask_order=None, SymInt mask_left=-1, SymInt mask_right=-1,
    Tensor? mask_rng=None, Tensor? mask_sentence_indices=None, Tensor? mask_word_starts=None, SymInt mask_pool_rows_max=0,
    float mask_ratio=0., SymInt mask_cap=0, Tensor? queries_cu_seqlens=None, SymInt queries_max_seqlen=0,
    Tensor? queries_positions=None"""
_MASK_FIELDS = len(Mask._fields)


def _dropout(rate=0.0, rng=None, site=0):
    return None if rng is None else Dropout(rate, rng, site)


def _attention_options(cu_seqlens, max_seqlen, rate=0.0, rng=None, site=0, scale=0.0, atomic=False, *rest):
    queries = rest[_MASK_FIELDS:]
    return AttentionOptions(
        cu_seqlens,
        max_seqlen,
        Mask(*rest[:_MASK_FIELDS]) if rest else Mask.FULL,
        Queries(*queries) if queries and queries[0] is not None else None,
        _dropout(rate, rng, site),
        scale,
        atomic,
    )


@_register(
    f"attention(Tensor query, Tensor key, Tensor value, Tensor cu_seqlens, SymInt max_seqlen, {_ATTENTION}) -> (Tensor, Tensor)"
)
def _attention(arrays, query, key, value, *options):
    options = _attention_options(*options)
    return _operations.attention_forward(arrays, query, key, value, options)


@_register(
    f"""attention_backward(Tensor d_output, Tensor query, Tensor key, Tensor value, Tensor output, Tensor log_sum_exp,
    Tensor cu_seqlens, SymInt max_seqlen, {_ATTENTION}) -> (Tensor, Tensor, Tensor)"""
)
def _attention_backward(arrays, d_output, query, key, value, output, log_sum_exp, *options):
    options = _attention_options(*options)
    return _operations.attention_backward(arrays, d_output, query, key, value, output, log_sum_exp, options)


@_gradient("attention", saved_outputs=(0, 1))
def _attention_gradient(ctx, inputs, outputs, d_output):
    query, key, value, *options = inputs
    return torch.ops.retromae.attention_backward(d_output.contiguous(), query, key, value, *outputs, *options)


# ---- Heads ----

_CROSS_ENTROPY = """Tensor hidden, Tensor weight, Tensor targets, Tensor? bias, Tensor? row_weights, SymInt ignore_index,
    float label_smoothing, float z_loss, float soft_cap, bool fused, SymInt chunk_rows"""
_BAG_OF_WORDS = """Tensor hidden, Tensor weight, Tensor cu_seqlens, Tensor? bias, Tensor? sentence_weights, SymInt max_seqlen,
    Tensor bags_offsets, Tensor bags_ids, Tensor? bags_weights, SymInt first_position, bool fused, SymInt chunk_rows"""
# The sum of the losses, and the gradients of that sum: those not asked for are empty.
_HEAD_GRADIENTS = "bool d_hidden, bool d_weight, bool d_bias) -> (Tensor, Tensor, Tensor, Tensor)"
# Places of what both heads have in common.
_HIDDEN, _WEIGHT, _BIAS, _WEIGHTS = 0, 1, 3, 4


def _call_cross_entropy(arrays, gradients, hidden, weight, targets, bias, row_weights, *options):
    return _operations.cross_entropy(
        arrays,
        hidden,
        weight,
        bias,
        targets,
        row_weights,
        CrossEntropyOptions(*options),
        gradients,
        statistics=False,
    )


def _call_bag_of_words(arrays, gradients, hidden, weight, cu_seqlens, bias, sentence_weights, *rest):
    max_seqlen, *bags = rest[:4]
    return _operations.bag_of_words(
        arrays,
        hidden,
        weight,
        bias,
        cu_seqlens,
        max_seqlen,
        Bags(*bags),
        sentence_weights,
        BagOfWordsOptions(*rest[4:]),
        gradients,
    )


def _register_head(name, schema, call):
    """Registers a head: `name` for the losses, and `name`_gradients for their sum and its gradients at once."""

    @_register(f"{name}({schema}) -> Tensor", finish=lambda made: made[0])
    def losses(arrays, *inputs):
        return (call(arrays, Gradients(), *inputs).losses,)

    @_register(
        f"{name}_gradients({schema}, {_HEAD_GRADIENTS}",
        finish=lambda made: _filled((made[0].sum(), *made[1:])),
    )
    def losses_and_gradients(arrays, *inputs):
        *inputs, d_hidden, d_weight, d_bias = inputs
        found = call(arrays, Gradients(d_hidden, d_weight, d_bias), *inputs)
        return found.losses, found.d_hidden, found.d_weight, found.d_bias

    @_gradient(name)
    def losses_gradient(ctx, inputs, outputs, d_losses):
        """The weights of rows take the gradients of their losses."""
        wanted = [ctx.needs_input_grad[place] for place in (_HIDDEN, _WEIGHT, _BIAS)]
        weights = inputs[_WEIGHTS]
        weighted = list(inputs)
        weighted[_WEIGHTS] = d_losses.contiguous() if weights is None else weights * d_losses
        _, *found = getattr(torch.ops.retromae, f"{name}_gradients")(*weighted, *wanted)
        return _place(wanted, (found[0], found[1].to(inputs[_WEIGHT].dtype), found[2]))

    @_gradient(f"{name}_gradients", saved_outputs=(1, 2, 3), forgotten=range(len(schema.split(","))))
    def sum_gradient(ctx, inputs, outputs, d_loss):
        """Gradients were computed with the loss; here they are scaled, in f32: a loss scale has no place in f16."""
        wanted = [ctx.needs_input_grad[place] for place in (_HIDDEN, _WEIGHT, _BIAS)]
        scale = d_loss.reshape(1)
        dtypes = (inputs[_HIDDEN], inputs[_WEIGHT], torch.float32)
        scaled = zip(outputs, dtypes, wanted, strict=True)
        return _place(
            wanted, [(gradient * scale).to(dtype) if asked else None for gradient, dtype, asked in scaled]
        )


def _place(wanted, gradients):
    """Gradients in the order of the inputs."""
    d_hidden, d_weight, d_bias = (
        gradient if asked else None for gradient, asked in zip(gradients, wanted, strict=True)
    )
    return d_hidden, d_weight, None, d_bias


_register_head("linear_cross_entropy", _CROSS_ENTROPY, _call_cross_entropy)
_register_head("bag_of_words", _BAG_OF_WORDS, _call_bag_of_words)


# ---- Dropout + residual + LayerNorm ----


@_register(
    f"""dropout_add_layer_norm(Tensor input, Tensor gamma, Tensor beta, Tensor? residual, Tensor? bias, float eps, {_DROPOUT})
    -> (Tensor, Tensor, Tensor, Tensor)"""
)
def _layer_norm(arrays, input, gamma, beta, residual, bias, eps, *dropout):
    return _operations.layer_norm_forward(arrays, input, gamma, beta, residual, bias, _dropout(*dropout), eps)


@_register(
    f"""dropout_add_layer_norm_backward(Tensor d_output, Tensor sum, Tensor mean, Tensor rstd, Tensor gamma, bool residual,
    bool bias, float eps, {_DROPOUT}) -> (Tensor, Tensor, Tensor, Tensor, Tensor)""",
    finish=_filled,
)
def _layer_norm_backward(arrays, d_output, sum, mean, rstd, gamma, residual, bias, eps, *dropout):
    found = _operations.layer_norm_backward(
        arrays, d_output, sum, mean, rstd, gamma, _dropout(*dropout), eps, residual, bias
    )
    return found.d_input, found.d_residual, found.d_gamma, found.d_beta, found.d_bias


@_gradient("dropout_add_layer_norm", saved_outputs=(1, 2, 3), forgotten=(0, 2, 3, 4))
def _layer_norm_gradient(ctx, inputs, outputs, d_output):
    _, gamma, _, residual, bias, *rest = inputs
    has_residual, has_bias = residual is not None, bias is not None
    d_input, d_residual, d_gamma, d_beta, d_bias = torch.ops.retromae.dropout_add_layer_norm_backward(
        d_output.contiguous(), *outputs, gamma, has_residual, has_bias, *rest
    )
    return (d_input, d_gamma, d_beta, d_residual if has_residual else None, d_bias if has_bias else None)


# ---- Masks ----

_CORRUPTION = """float {0}_ratio, SymInt {0}_cap, SymInt {0}_mask_id, SymInt {0}_vocab_size, float {0}_mask_share,
    float {0}_random_share, Tensor? {0}_offsets, SymInt {0}_labeled"""
_CORRUPTION_FIELDS = 8


def spread_pool(pool):
    """Arguments of `draw_masks` for a pool."""
    if pool is None:
        return (0.0, 0, None, 0, 0)
    return (*pool.limit, pool.offsets, pool.words, pool.rows_max)


def spread_corruption(corruption):
    """Arguments of `draw_masks` for a corrupted input."""
    if corruption is None:
        return (0.0, 0, 0, 0, 0.0, 0.0, None, 0)
    return (*corruption.limit, *corruption.replacement, corruption.offsets, corruption.labeled)


def _pool(ratio, cap, offsets, words, rows_max):
    return None if offsets is None else Pool(CountLimit(ratio, cap), offsets, words, rows_max)


def _corruption(ratio, cap, mask_id, vocab_size, mask_share, random_share, offsets, labeled):
    if offsets is None:
        return None
    replacement = Replacement(mask_id, vocab_size, mask_share, random_share)
    return Corruption(CountLimit(ratio, cap), replacement, offsets, labeled)


# Results in the order of `Masks`: bits and rows of the pool, then the four of each corrupted input; those alone that are drawn.
@_register(
    f"""draw_masks(Tensor ids, Tensor cu_seqlens, SymInt max_seqlen, Tensor rng, Tensor sentence_indices, Tensor word_starts,
    float pool_ratio, SymInt pool_cap, Tensor? pool_offsets, SymInt pool_words, SymInt pool_rows_max,
    {_CORRUPTION.format("encoder")}, {_CORRUPTION.format("decoder")}) -> Tensor[]""",
    finish=list,
)
def _draw_masks(arrays, ids, cu_seqlens, max_seqlen, rng, sentence_indices, word_starts, *rest):
    pool, rest = rest[:5], rest[5:]
    masks = _operations.draw_masks(
        arrays,
        ids,
        cu_seqlens,
        max_seqlen,
        rng,
        sentence_indices,
        word_starts,
        _pool(*pool),
        _corruption(*rest[:_CORRUPTION_FIELDS]),
        _corruption(*rest[_CORRUPTION_FIELDS:]),
    )
    drawn = [] if masks.bits is None else [masks.bits, masks.rows]
    for corrupted in (masks.encoder, masks.decoder):
        drawn += corrupted or ()
    return drawn
