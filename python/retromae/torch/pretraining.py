"""RetroMAE pre-training of a BERT of transformers.

    model = RetroMAEForPretraining(BertForMaskedLM.from_pretrained(path))
    collator = RetroMAECollator(tokenizer)
    loss = model(**collator(["Some text.", "Another."])).loss

T is tokens (of all sentences, one after the other without padding), B sentences, L tokens of the longest, H hidden size, V token
ids.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from transformers import BertForMaskedLM
from transformers.modeling_outputs import ModelOutput
from transformers.models.bert import modeling_bert

from .._operations import Mask
from ..errors import Unsupported, wrong
from . import _inputs
from ._functions import attention, bag_of_words_loss, dropout_add_layer_norm, linear_cross_entropy
from ._tensors import prefix_sums
from .collator import PackedBatch, RetroMAECollator

__all__ = ["RetroMAECollator", "RetroMAEForPretraining", "RetroMAEOutput"]

# A layer draws its dropout at three places: attention, and the outputs of attention and of the feed-forward network.
SITES_PER_LAYER = 3
# Rows that the operations read begin at multiples of as many bytes.
ALIGNMENT = 16


class _Rows(NamedTuple):
    """What a layer needs to know about the rows that it is given: sentences one after the other, the keys that each query sees,
    and the words that dropout is drawn from."""

    cu_seqlens: Tensor
    max_seqlen: int
    mask: Mask
    rng: Tensor


# Libraries that wrap layers find them by the name of their class, so this one has the name of its base.
class BertLayer(modeling_bert.BertLayer):
    """A layer of BERT that also takes packed rows, for which `attention_mask` is `_Rows`. Parameters and everything else are those
    of the class of transformers."""

    def forward(self, hidden_states, attention_mask=None, *args, **kwargs):
        if isinstance(attention_mask, _Rows):
            return self._forward_packed(hidden_states, attention_mask, *args, **kwargs)
        return super().forward(hidden_states, attention_mask, *args, **kwargs)

    def _forward_packed(self, query, rows, site, content=None):
        """Returns the output [T, H] for queries [T, H]. Keys and values are of `content` [T, H], or of the queries."""
        if content is None:
            content = query
        attend, joined = self.attention.self, self.attention.output
        heads = (-1, attend.num_attention_heads, attend.attention_head_size)
        context = attention(
            attend.query(query).view(heads),
            attend.key(content).view(heads),
            attend.value(content).view(heads),
            rows.cu_seqlens,
            rows.max_seqlen,
            mask=rows.mask,
            dropout_p=_rate(attend.dropout),
            dropout_rng=rows.rng,
            dropout_site=site,
        )
        hidden = _add_norm(joined, context.flatten(1), query, rows.rng, site + 1)
        return _add_norm(self.output, self.intermediate(hidden), hidden, rows.rng, site + 2)


def _rate(dropout):
    return dropout.p if dropout.training else 0.0


def _add_norm(block, input, residual, rng, site):
    """LayerNorm(residual + dropout(dense(input))) of a block of BERT."""
    norm = block.LayerNorm
    return dropout_add_layer_norm(
        block.dense(input),
        norm.weight,
        norm.bias,
        residual,
        dropout_p=_rate(block.dropout),
        dropout_rng=rng,
        dropout_site=site,
        eps=norm.eps,
    )


@dataclass
class RetroMAEOutput(ModelOutput):
    """The loss, and its parts before they are weighted, without gradients."""

    loss: Tensor | None = None
    encoder_loss: Tensor | None = None
    decoder_loss: Tensor | None = None
    bag_of_words_loss: Tensor | None = None


class RetroMAEForPretraining(modeling_bert.BertPreTrainedModel):
    """RetroMAE (arXiv 2205.12035) around a `BertForMaskedLM`, which stays one and is trained in place as `lm`.

    The sentence vector, the last hidden state of [CLS], is trained by what a decoder of one layer, `c_head`, can predict from it.
    `decoding` is "enhanced" (each token is predicted from a random part of the others, in two streams) or "basic" (a masked
    language model). `query` is what the first stream of the enhanced decoder begins with: "embedding", the normalized sum of
    sentence vector, position and type, or "position", the plain sum of sentence vector and position. The loss is that of the
    encoder + that of the decoder + `bag_of_words_weight` * that of the bag of words (DupMAE, arXiv 2305.02564).

    Losses are means over the labels of the process, and engines of several ranks average their gradients. With `across_ranks`, for
    which every rank must call the model at each step, sums are divided by the labels of all ranks instead: a step is then that of
    one process with the whole batch.

    Rates of dropout are rounded to 1/256, but for that of the embeddings. `model_args` is kept and not used.
    """

    def __init__(
        self,
        bert: BertForMaskedLM,
        model_args: Any = None,
        *,
        decoding: str = "enhanced",
        query: str = "embedding",
        bag_of_words_weight: float = 0.0,
        across_ranks: bool = False,
    ):
        _check_model(bert)
        if decoding not in ("enhanced", "basic"):
            wrong("decoding", repr(decoding), "'enhanced' or 'basic'")
        if query not in ("embedding", "position"):
            wrong("query", repr(query), "'embedding' or 'position'")
        if not bag_of_words_weight >= 0.0:
            wrong("bag_of_words_weight", repr(bag_of_words_weight), "at least 0")
        super().__init__(bert.config)
        self.model_args = model_args
        self.decoding = decoding
        self.query = query
        self.bag_of_words_weight = bag_of_words_weight
        self.across_ranks = across_ranks
        self.lm = bert
        for layer in bert.bert.encoder.layer:
            layer.__class__ = BertLayer
        self.decoder_embeddings = bert.bert.embeddings
        self.c_head = BertLayer(bert.config)
        self.c_head.apply(bert._init_weights)
        self.c_head.to(bert.device, bert.dtype)
        # Memory that is mapped from a file may begin anywhere.
        for parameter in bert.parameters():
            if parameter.data_ptr() % ALIGNMENT:
                parameter.data = parameter.detach().clone()

    def forward(
        self,
        encoder_input_ids: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        encoder_labels: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        decoder_labels: Tensor | None = None,
        bag_word_weight: Tensor | None = None,
        *,
        packed: Mapping[str, Any] | None = None,
    ) -> RetroMAEOutput:
        """Takes a batch of `RetroMAECollator`, `packed`; or a padded batch whose masks are drawn, ids and labels [B, L] (-100: no
        label) with masks [B, L] and [B, L, L] (not 0: visible), which waits for the device."""
        # One draw for everything: masks and places of dropout are told apart by the library.
        rng = torch.randint(
            -(2**31), 2**31, (4,), dtype=torch.int32, device=self.c_head.output.dense.weight.device
        )
        if packed is not None:
            inputs = self._draw(packed, rng)
        elif encoder_input_ids is None:
            wrong("packed", "None", "a batch of RetroMAECollator, or encoder_input_ids is given")
        elif decoder_attention_mask is None and self.decoding == "enhanced":
            wrong("decoder_attention_mask", "None", "[B, L, L], as the decoding is enhanced")
        else:
            inputs = _inputs.unpad(
                encoder_input_ids,
                encoder_attention_mask,
                encoder_labels,
                decoder_input_ids,
                decoder_attention_mask,
                decoder_labels,
                bag_word_weight,
            )
        return self._losses(inputs, rng)

    def _draw(self, packed, rng):
        if not isinstance(packed, Mapping):
            wrong("packed", f"a {type(packed).__name__}", "what RetroMAECollator returns")
        unknown = set(packed) - set(PackedBatch._fields)
        missing = set(PackedBatch._fields) - set(packed) - set(PackedBatch._field_defaults)
        if unknown or missing:
            actual = f"without {sorted(missing)}" if missing else f"with {sorted(unknown)}"
            wrong("packed", actual, "what RetroMAECollator returns")
        return _inputs.draw(PackedBatch(**packed), rng, self.config.vocab_size, self.decoding == "enhanced")

    def _losses(self, inputs, rng):
        limit = self.config.max_position_embeddings
        if inputs.max_seqlen > limit:
            wrong("max_seqlen", inputs.max_seqlen, f"at most {limit}, the positions of the model")
        hidden = self._encode(inputs, rng)
        vectors = hidden.index_select(0, inputs.cu_seqlens[:-1]).index_select(0, inputs.sentences)
        decoded = self._decode(vectors, inputs, rng)
        transform = self.lm.cls.predictions.transform
        labels, decoder_labels, sentences = self._counts(inputs)
        decoder_states = transform(decoded.index_select(0, inputs.decoder.rows))
        decoder_loss = self._predict(decoder_states, inputs.decoder) / decoder_labels
        bag_loss = None
        if self.bag_of_words_weight:
            states = transform(hidden)
            bag_loss = self._predict_bags(states, inputs) / sentences
            states = states.index_select(0, inputs.encoder.rows)
        else:
            states = transform(hidden.index_select(0, inputs.encoder.rows))
        encoder_loss = self._predict(states, inputs.encoder) / labels
        loss = encoder_loss + decoder_loss
        if bag_loss is not None:
            loss = loss + self.bag_of_words_weight * bag_loss
            bag_loss = bag_loss.detach()
        return RetroMAEOutput(loss, encoder_loss.detach(), decoder_loss.detach(), bag_loss)

    def _encode(self, inputs, rng):
        """Returns the last hidden states [T, H]."""
        rows = _Rows(inputs.cu_seqlens, inputs.max_seqlen, Mask.FULL, rng)
        encoder = self.lm.bert.encoder
        hidden = self._embed(inputs.positions, input_ids=inputs.encoder.ids[None])
        # The encoder checkpoints layers that do not do it themselves, as in transformers.
        checkpoint = None
        if self.training and getattr(encoder, "gradient_checkpointing", False):
            checkpoint = encoder._gradient_checkpointing_func
        for place, layer in enumerate(encoder.layer):
            arguments = (hidden, rows, SITES_PER_LAYER * place)
            if checkpoint is None or hasattr(layer, "gradient_checkpointing"):
                hidden = layer(*arguments)
            else:
                hidden = checkpoint(layer.__call__, *arguments)
        return hidden

    def _embed(self, positions, **embedded):
        """The embeddings [T, H] of ids or of vectors."""
        places = {"position_ids": positions[None], "token_type_ids": torch.zeros_like(positions)[None]}
        return self.decoder_embeddings(**embedded, **places)[0]

    def _decode(self, vectors, inputs, rng):
        """Returns the decoder's output [T, H]; `vectors` [T, H] are of the sentence of each token."""
        positions = inputs.positions
        embedded = self._embed(positions, input_ids=inputs.decoder.ids[None])
        content = torch.where(positions[:, None] == 0, vectors.to(embedded.dtype), embedded)
        if self.decoding == "basic":
            query = content
        elif self.query == "embedding":
            query = self._embed(positions, inputs_embeds=vectors[None])
        else:
            query = vectors + self.decoder_embeddings.position_embeddings(positions)
        site = SITES_PER_LAYER * len(self.lm.bert.encoder.layer)
        rows = _Rows(inputs.cu_seqlens, inputs.max_seqlen, inputs.mask, rng)
        return self.c_head(query, rows, site, content)

    def _counts(self, inputs):
        """Labels of encoder and decoder, and sentences: what the sums of losses are divided by."""
        predicted = [(side.targets != _inputs.IGNORED).sum() for side in (inputs.encoder, inputs.decoder)]
        sentences = torch.full_like(predicted[0], inputs.cu_seqlens.shape[0] - 1)
        counts = torch.stack([*predicted, sentences])
        ranks = 1
        if self.across_ranks and dist.is_available() and dist.is_initialized():
            dist.all_reduce(counts)
            ranks = dist.get_world_size()
        # A batch of empty texts has no labels, and a loss of 0.
        return (counts.clamp(min=1) / ranks).unbind()

    def _predict(self, states, predicted):
        """Sum of the cross-entropies of rows [M, H] that the head has transformed."""
        output = self.lm.cls.predictions.decoder
        return linear_cross_entropy(states, output.weight, predicted.targets, output.bias, reduction="sum")

    def _predict_bags(self, states, inputs):
        if inputs.bags is None:
            name = "packed['bag_ids'] or bag_word_weight"
            wrong(name, "missing", "there: RetroMAECollator(..., bag_of_words=True) makes it")
        output = self.lm.cls.predictions.decoder
        sequences = inputs.cu_seqlens, inputs.max_seqlen
        return bag_of_words_loss(states, output.weight, inputs.bags, *sequences, output.bias, reduction="sum")

    def save_pretrained(
        self,
        output_dir: str | os.PathLike,
        is_main_process: bool = True,
        state_dict: dict[str, Tensor] | None = None,
        **kwargs: Any,
    ) -> None:
        """Writes `encoder_model/`, which transformers opens as a BERT, and all parameters into `pytorch_model.bin`. Of a sharded
        model, `state_dict` must be the gathered one."""
        state = self.state_dict() if state_dict is None else state_dict
        encoder = {name.removeprefix("lm."): value for name, value in state.items() if name.startswith("lm.")}
        directory = os.path.join(output_dir, "encoder_model")
        self.lm.save_pretrained(directory, is_main_process=is_main_process, state_dict=encoder, **kwargs)
        if is_main_process:
            torch.save(state, os.path.join(output_dir, "pytorch_model.bin"))

    @classmethod
    def from_pretrained(
        cls,
        model_args: Any,
        path: str | os.PathLike,
        *args: Any,
        decoding: str = "enhanced",
        query: str = "embedding",
        bag_of_words_weight: float = 0.0,
        across_ranks: bool = False,
        **kwargs: Any,
    ) -> "RetroMAEForPretraining":
        """Opens what `save_pretrained` wrote, decoder included, or any BERT that `BertForMaskedLM.from_pretrained` takes."""
        encoder = os.path.join(path, "encoder_model")
        saved = os.path.isdir(encoder)
        bert = BertForMaskedLM.from_pretrained(encoder if saved else path, *args, **kwargs)
        model = cls(
            bert,
            model_args,
            decoding=decoding,
            query=query,
            bag_of_words_weight=bag_of_words_weight,
            across_ranks=across_ranks,
        )
        if saved:
            file = os.path.join(path, "pytorch_model.bin")
            state = torch.load(file, map_location="cpu", weights_only=True)
            missing = model.load_state_dict(state, strict=False).missing_keys
            if missing:
                wrong(file, f"without {', '.join(missing)}", "of all parameters of the model")
        return model


def _check_model(bert):
    """Refuses a model that computes anything that is not computed here."""
    if not isinstance(bert, BertForMaskedLM):
        wrong("bert", f"a {type(bert).__name__}", "a transformers.BertForMaskedLM")
    config = bert.config
    for name, expected in (
        ("position_embedding_type", "absolute"),
        ("is_decoder", False),
        ("add_cross_attention", False),
        ("chunk_size_feed_forward", 0),
    ):
        actual = getattr(config, name, expected)
        if actual != expected:
            wrong(f"bert.config.{name}", repr(actual), repr(expected), Unsupported)
    for place, layer in enumerate(bert.bert.encoder.layer):
        if type(layer) not in (modeling_bert.BertLayer, BertLayer):
            kind = f"a {type(layer).__qualname__}"
            wrong(f"bert.bert.encoder.layer[{place}]", kind, "a BertLayer of transformers", Unsupported)
    # The library knows the sizes that it was built for, and names another.
    row = torch.zeros(1, config.hidden_size)
    head = row.view(1, config.num_attention_heads, -1)
    attention(head, head, head, prefix_sums([1]), 1)
    dropout_add_layer_norm(row, row[0], row[0])
