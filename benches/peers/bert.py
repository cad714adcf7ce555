"""RetroMAE as a PyTorch user would write it: BERT, an enhanced decoder of one layer, a shared head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

IGNORE_INDEX = -100
INITIAL_DEVIATION = 0.02


@dataclass(frozen=True)
class Config:
    layers: int
    hidden_size: int
    heads: int
    vocab_size: int
    positions: int = 512
    types: int = 2
    dropout: float = 0.1
    eps: float = 1e-12

    @property
    def intermediate_size(self) -> int:
        return 4 * self.hidden_size


class Batch(NamedTuple):
    """`B` sentences of `L` tokens; a named tuple, which `torch.compile` takes apart."""

    input_ids: Tensor
    """`[B, L]`, what the encoder reads: masked."""
    encoder_labels: Tensor
    """`[B, L]`, the id where the encoder is to predict one, else -100."""
    original_ids: Tensor
    """`[B, L]`, what the decoder's content stream reads."""
    decoder_labels: Tensor
    """`[B, L]`, -100 at [CLS] and [SEP]."""
    visible: Tensor
    """`[B, 1, L, L]`, position-specific."""
    encoder_rows: Tensor
    """Which of the `B·L` rows have an encoder label."""
    decoder_rows: Tensor
    """Which have a decoder label."""


class Layer(nn.Module):
    """A transformer layer after BERT, whose queries may come from another stream than keys and values."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        hidden = config.hidden_size
        self.heads = config.heads
        self.dropout = config.dropout
        self.query = nn.Linear(hidden, hidden)
        self.key = nn.Linear(hidden, hidden)
        self.value = nn.Linear(hidden, hidden)
        self.attention_output = nn.Linear(hidden, hidden)
        self.attention_norm = nn.LayerNorm(hidden, config.eps)
        self.intermediate = nn.Linear(hidden, config.intermediate_size)
        self.output = nn.Linear(config.intermediate_size, hidden)
        self.norm = nn.LayerNorm(hidden, config.eps)

    def forward(self, queries: Tensor, content: Tensor, visible: Tensor | None = None) -> Tensor:
        """`queries` and `content` are `[B, L, H]`, `visible`, if any, broadcasts to `[B, A, L, L]`."""
        query, key, value = (
            values.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for values in (self.query(queries), self.key(content), self.value(content))
        )
        dropout = self.dropout if self.training else 0.0
        context = F.scaled_dot_product_attention(query, key, value, attn_mask=visible, dropout_p=dropout)
        attended = self.attention_output(context.transpose(1, 2).flatten(2))
        attended = self.attention_norm(queries + F.dropout(attended, self.dropout, self.training))
        fed = self.output(F.gelu(self.intermediate(attended)))
        return self.norm(attended + F.dropout(fed, self.dropout, self.training))


class Embeddings(nn.Module):
    """Words (or vectors in their place), positions and the one type of segment."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.words = nn.Embedding(config.vocab_size, config.hidden_size)
        self.positions = nn.Embedding(config.positions, config.hidden_size)
        self.types = nn.Embedding(config.types, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, config.eps)

    def forward(self, words: Tensor) -> Tensor:
        """`words` is `[B, L, H]`."""
        summed = words + self.positions.weight[: words.shape[1]] + self.types.weight[0]
        return F.dropout(self.norm(summed), self.dropout, self.training)


class Head(nn.Module):
    """The masked-language-model head; its output matrix is the word embedding."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.transform = nn.Linear(config.hidden_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, config.eps)

    def forward(self, hidden: Tensor, words: Tensor) -> Tensor:
        return F.linear(self.norm(F.gelu(self.transform(hidden))), words, self.bias)


class PlainBert(nn.Module):
    """BERT with its head from torch.nn, its parameters in the order of [`HuggingFaceBert`]'s."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.predictions = Head(config)
        self.apply(initialize)

    @property
    def word_embeddings(self) -> nn.Embedding:
        return self.embeddings.words

    @property
    def first_intermediate(self) -> nn.Linear:
        return cast(Layer, self.layers[0]).intermediate

    def embed(self, vectors: Tensor) -> Tensor:
        """Returns the input of a layer for word vectors `[B, L, H]`."""
        return self.embeddings(vectors)

    def encode(self, ids: Tensor) -> Tensor:
        hidden = self.embed(self.embeddings.words(ids))
        for layer in self.layers:
            hidden = layer(hidden, hidden)
        return hidden

    def head(self, hidden: Tensor) -> Tensor:
        return self.predictions(hidden, self.embeddings.words.weight)


class HuggingFaceBert(nn.Module):
    """The same from the package transformers, attention as that chooses; raises ImportError without it."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        from transformers import BertConfig, BertForMaskedLM

        names = BertConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            intermediate_size=config.intermediate_size,
            hidden_dropout_prob=config.dropout,
            attention_probs_dropout_prob=config.dropout,
            max_position_embeddings=config.positions,
            type_vocab_size=config.types,
            layer_norm_eps=config.eps,
        )
        self.model = BertForMaskedLM(names)

    @property
    def word_embeddings(self) -> nn.Embedding:
        return self.model.bert.embeddings.word_embeddings

    @property
    def first_intermediate(self) -> nn.Linear:
        return cast(nn.Linear, self.model.get_submodule("bert.encoder.layer.0.intermediate.dense"))

    @property
    def attention(self) -> str:
        return getattr(self.model.config, "_attn_implementation", None) or "eager"

    def embed(self, vectors: Tensor) -> Tensor:
        return self.model.bert.embeddings(inputs_embeds=vectors)

    def encode(self, ids: Tensor) -> Tensor:
        return self.model.bert(input_ids=ids)[0]

    def head(self, hidden: Tensor) -> Tensor:
        return self.model.cls(hidden)


class RetroMae(nn.Module):
    """Encoder and decoder; the forward is their two mean losses."""

    def __init__(self, bert: PlainBert | HuggingFaceBert, config: Config) -> None:
        super().__init__()
        self.bert = bert
        self.decoder = Layer(config).apply(initialize)

    def forward(self, batch: Batch, gathered: bool) -> Tensor:
        """`[2]`. `gathered` runs the head on rows with a label alone; else on all, and ignores the others."""
        hidden = self.bert.encode(batch.input_ids)
        decoded = self.decode(hidden[:, :1], batch.original_ids, batch.visible)
        return torch.stack(
            (
                self.loss(hidden, batch.encoder_labels, batch.encoder_rows if gathered else None),
                self.loss(decoded, batch.decoder_labels, batch.decoder_rows if gathered else None),
            )
        )

    def decode(self, sentence: Tensor, ids: Tensor, visible: Tensor) -> Tensor:
        """Enhanced decoding: queries are the sentence embedding `[B, 1, H]` at every position."""
        length = ids.shape[1]
        queries = self.bert.embed(sentence.expand(-1, length, -1))
        words = self.bert.embed(self.bert.word_embeddings(ids))
        content = torch.cat((sentence.to(words.dtype), words[:, 1:]), dim=1)
        return self.decoder(queries, content, visible)

    def loss(self, hidden: Tensor, labels: Tensor, rows: Tensor | None) -> Tensor:
        hidden, labels = hidden.flatten(0, 1), labels.flatten()
        if rows is not None:
            hidden, labels = hidden[rows], labels[rows]
        return F.cross_entropy(self.bert.head(hidden), labels, ignore_index=IGNORE_INDEX)


def initialize(module: nn.Module) -> None:
    """As BERT does: N(0, 0.02) for matrices, zeros for biases."""
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=INITIAL_DEVIATION)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)


def explicit_layer(layer: Layer, queries: Tensor, content: Tensor, visible: Tensor) -> Tensor:
    """[`Layer`] without dropout by the formulas alone: what the self-test holds it against."""

    def normalized(values: Tensor, norm: nn.LayerNorm) -> Tensor:
        centered = values - values.mean(dim=-1, keepdim=True)
        variance = centered.square().mean(dim=-1, keepdim=True)
        return centered / (variance + norm.eps).sqrt() * norm.weight + norm.bias

    def linear(values: Tensor, weights: nn.Linear) -> Tensor:
        return values @ weights.weight.T + weights.bias

    parts = (linear(queries, layer.query), linear(content, layer.key), linear(content, layer.value))
    heads = []
    for query, key, value in zip(*(part.chunk(layer.heads, dim=-1) for part in parts)):
        scores = query @ key.transpose(1, 2) / query.shape[-1] ** 0.5
        heads.append(scores.masked_fill(~visible[:, 0], float("-inf")).softmax(dim=-1) @ value)
    attended = normalized(
        queries + linear(torch.cat(heads, dim=-1), layer.attention_output), layer.attention_norm
    )
    inner = linear(attended, layer.intermediate)
    activated = inner * 0.5 * (1 + torch.erf(inner / 2**0.5))
    return normalized(attended + linear(activated, layer.output), layer.norm)
