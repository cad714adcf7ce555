"""Packed batches of sentences for pre-training, made on the host."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._operations import CountLimit
from ..errors import wrong
from ._tensors import labeled_offsets, pool_offsets, prefix_sums


class PackedBatch(NamedTuple):
    """Sentences one after the other without padding, and what their masks are drawn with. T is tokens, B sentences. Arrays are
    int32; what sizes an array on the device is a Python integer, so that nothing waits for it."""

    # [T], with [CLS] and [SEP]
    input_ids: Tensor
    # [B + 1]: prefix sums of the lengths
    cu_seqlens: Tensor
    max_seqlen: int
    # [ceil(T / 32)]: a bit a token, lowest first, 1 where a word starts
    word_starts: Tensor
    # [B]: a number of each sentence's own, which its masks depend on beside the random state
    sentence_indices: Tensor
    # Tokens that are chosen in the encoder's input: their share, and the first labeled row [B + 1] of each sentence
    encoder_mlm_probability: float
    encoder_offsets: Tensor
    encoder_labeled: int
    # The same of the decoder, or of each mask of its pool
    decoder_mlm_probability: float
    decoder_offsets: Tensor
    decoder_labeled: int
    # The most masks of a sentence, and the first word [B + 1] of each sentence's
    pool_rows: int
    pool_offsets: Tensor
    pool_words: int
    mask_token_id: int
    # Unique tokens of each sentence without [CLS] and [SEP], their prefix sums [B + 1], and f32 weights
    bag_offsets: Tensor | None = None
    bag_ids: Tensor | None = None
    bag_weights: Tensor | None = None


@dataclass
class RetroMAECollator:
    """Makes the batches of `RetroMAEForPretraining`: `model(**collator(examples))`.

    An example is a text, a mapping with "text", "token_ids" or "input_ids", or token ids, with or without [CLS] and [SEP]. The
    batch holds the ids of `PackedBatch`; the masks themselves are drawn on the model's device. `max_seq_length` counts [CLS] and
    [SEP]. `pool_rows` is the most masks that are drawn for the rows of a sentence in the decoder. `bag_of_words` adds what that
    loss needs. Works in the workers of a DataLoader.
    """

    tokenizer: Any
    max_seq_length: int = 512
    encoder_mlm_probability: float = 0.30
    decoder_mlm_probability: float = 0.50
    pool_rows: int = 128
    bag_of_words: bool = False
    _continues: Tensor = field(init=False, repr=False, compare=False)

    def __post_init__(self):
        for name in ("cls_token_id", "sep_token_id", "mask_token_id"):
            if getattr(self.tokenizer, name, None) is None:
                wrong("tokenizer", f"without {name}", "one of a BERT, with [CLS], [SEP] and [MASK]")
        if not 3 <= self.max_seq_length <= 8192:
            wrong("max_seq_length", self.max_seq_length, "from 3 to 8192")
        if not 1 <= self.pool_rows <= 65536:
            wrong("pool_rows", self.pool_rows, "from 1 to 65536")
        for name in ("encoder_mlm_probability", "decoder_mlm_probability"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                wrong(name, getattr(self, name), "from 0 to 1")
        self._continues = _continuations(self.tokenizer)

    def __call__(self, examples: Sequence[Any]) -> dict[str, dict[str, Any]]:
        if len(examples) == 0:
            wrong("examples", "empty", "at least one")
        sentences = self._sentences(examples)
        lengths = [len(ids) for ids in sentences]
        input_ids = torch.cat(sentences)
        starts = ~self._continues[input_ids]
        encoder_offsets = labeled_offsets(lengths, CountLimit(self.encoder_mlm_probability))
        decoder_offsets = labeled_offsets(lengths, CountLimit(self.decoder_mlm_probability))
        pools = pool_offsets(lengths, self.pool_rows)
        batch = PackedBatch(
            input_ids=input_ids,
            cu_seqlens=prefix_sums(lengths),
            max_seqlen=max(lengths),
            word_starts=_pack(starts),
            sentence_indices=torch.tensor([_index(ids) for ids in sentences]).to(torch.int32),
            encoder_mlm_probability=self.encoder_mlm_probability,
            encoder_offsets=encoder_offsets,
            encoder_labeled=int(encoder_offsets[-1]),
            decoder_mlm_probability=self.decoder_mlm_probability,
            decoder_offsets=decoder_offsets,
            decoder_labeled=int(decoder_offsets[-1]),
            pool_rows=self.pool_rows,
            pool_offsets=pools,
            pool_words=int(pools[-1]),
            mask_token_id=self.tokenizer.mask_token_id,
        )
        if self.bag_of_words:
            batch = batch._replace(**_bags(sentences))
        return {"packed": {name: value for name, value in batch._asdict().items() if value is not None}}

    def _sentences(self, examples):
        """Token ids of each example, between [CLS] and [SEP]."""
        contents = [
            _content(example, f"examples[{place}]", self.tokenizer) for place, example in enumerate(examples)
        ]
        texts = [content for content in contents if isinstance(content, str)]
        tokenized = iter(self._tokenize(texts) if texts else ())
        first, last = [self.tokenizer.cls_token_id], [self.tokenizer.sep_token_id]
        size = self.max_seq_length - 2
        sentences = []
        for place, content in enumerate(contents):
            ids = next(tokenized) if isinstance(content, str) else content
            sentence = first + list(ids[:size]) + last
            if min(sentence) < 0 or max(sentence) >= len(self._continues):
                actual = f"with token ids from {min(sentence)} to {max(sentence)}"
                wrong(f"examples[{place}]", actual, f"of ids from 0 to {len(self._continues) - 1}")
            sentences.append(torch.tensor(sentence, dtype=torch.int32))
        return sentences

    def _tokenize(self, texts):
        encoded = self.tokenizer(
            texts,
            add_special_tokens=False,
            truncation=True,
            max_length=self.max_seq_length - 2,
            return_attention_mask=False,
            return_token_type_ids=False,
        )
        return encoded["input_ids"]


def _content(example, name, tokenizer):
    """Returns the text of an example, or its token ids without [CLS] and [SEP]."""
    if isinstance(example, Mapping):
        for key in ("token_ids", "input_ids", "text"):
            if key in example:
                return _content(example[key], f"{name}[{key!r}]", tokenizer)
        wrong(
            name,
            f"a mapping of {', '.join(map(repr, example))}",
            "one with 'text', 'token_ids' or 'input_ids'",
        )
    if isinstance(example, str):
        return example
    if hasattr(example, "tolist"):
        example = example.tolist()
    if not isinstance(example, (list, tuple)) or not all(type(token) is int for token in example):
        wrong(name, f"a {type(example).__name__}", "a text, token ids, or a mapping with one of them")
    begin = example[:1] == [tokenizer.cls_token_id]
    end = example[-1:] == [tokenizer.sep_token_id]
    return list(example[begin : len(example) - end])


def _continuations(tokenizer):
    """[V]: true for a token that continues the word before it."""
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    special = set(tokenizer.all_special_ids)
    # WordPiece marks what continues a word; the others what begins one, after a space.
    for mark in ("##", "\u2581", "\u0120"):
        marked = [token is not None and token.startswith(mark) for token in tokens]
        if any(marked):
            break
    else:
        return torch.zeros(len(tokens), dtype=torch.bool)
    continues = [has == (mark == "##") and id not in special for id, has in enumerate(marked)]
    return torch.tensor(continues)


def _pack(bits):
    """Packs booleans [T] into words [ceil(T / 32)], lowest bit first."""
    words = torch.zeros((len(bits) + 31) // 32 * 32, dtype=torch.int64)
    words[: len(bits)] = bits
    weights = torch.ones(32, dtype=torch.int64) << torch.arange(32)
    return (words.view(-1, 32) * weights).sum(1).to(torch.int32)


def _index(ids):
    """A number that follows from a sentence's own ids: its masks are the same in any batch and on any rank."""
    return zlib.crc32(ids.numpy().tobytes())


def _bags(sentences):
    """The unique tokens of each sentence, each of weight 1 / its tokens."""
    bags = [ids[1:-1].unique() for ids in sentences]
    sizes = [len(bag) for bag in bags]
    weights = [1.0 / max(1, len(ids) - 2) for ids in sentences]
    return {
        "bag_offsets": prefix_sums(sizes),
        "bag_ids": torch.cat(bags),
        "bag_weights": torch.repeat_interleave(torch.tensor(weights), torch.tensor(sizes)),
    }
