"""The collator of RetroMAE's public code, re-created from its definition with Python's lists and NumPy.

For each sentence: a whole-word mask for the encoder, a set of them for the decoder, and for each token a copy
of one of the set that hides the token itself; then 80 % of the encoder's chosen tokens become [MASK], 10 % a
random id. Masks leave as a dense `[B, L, L]` of 64-bit integers, 1 where a row sees a token.

Run as a program it samples one batch for every line of its input and answers with a line, the tokens that a row
of each sentence sees on average: `collator.py SENTENCES LENGTH SET_SIZE`.
"""

from __future__ import annotations

import random
import sys
from copy import deepcopy

import numpy as np

from cases import constant

RATIO: float = constant("masks", "ratio")
ENCODER_RATIO: float = constant("masks", "encoder_ratio")
MASK_ID: int = constant("masks", "mask_id")
VOCABULARY: int = constant("masks", "vocab_size")
IGNORED = -100
# Tokens of a word, in turn: most words of a text are one token.
WORD_LENGTHS: list[int] = constant("masks", "word_lengths")


def tokens_of(length: int) -> list[str]:
    """`[CLS]`, words, `[SEP]`."""
    pieces = [piece for size in WORD_LENGTHS for piece in ["word"] + ["##s"] * (size - 1)]
    inner = [pieces[i % len(pieces)] for i in range(length - 2)]
    return ["[CLS]", *inner, "[SEP]"]


def whole_word_mask(tokens: list[str], ratio: float, rng: random.Random) -> list[int]:
    """1 where a token is chosen: shuffled words, each passed over where it would exceed the number to predict."""
    words: list[list[int]] = []
    for position, token in enumerate(tokens):
        if token in ("[CLS]", "[SEP]"):
            continue
        if words and token.startswith("##"):
            words[-1].append(position)
        else:
            words.append([position])
    rng.shuffle(words)
    to_predict = max(1, round(len(tokens) * ratio))
    chosen: list[int] = []
    covered: set[int] = set()
    for word in words:
        if len(chosen) >= to_predict:
            break
        if len(chosen) + len(word) > to_predict or any(position in covered for position in word):
            continue
        covered.update(word)
        chosen.extend(word)
    return [1 if position in covered else 0 for position in range(len(tokens))]


def corrupted(
    ids: np.ndarray, chosen: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The encoder's input and labels, `[B, L]` each."""
    labels = np.where(chosen, ids, IGNORED)
    what = rng.random(ids.shape)
    inputs = np.where(chosen & (what < 0.8), MASK_ID, ids)
    random_ids = rng.integers(VOCABULARY, size=ids.shape)
    return np.where(chosen & (what >= 0.8) & (what < 0.9), random_ids, inputs), labels


class Collator:
    """Samples batches of sentences of one length."""

    def __init__(self, sentences: int, length: int, set_size: int, seed: int = 1) -> None:
        self.sentences, self.length, self.set_size = sentences, length, set_size
        self.tokens = tokens_of(length)
        self.random = random.Random(seed)
        self.numpy = np.random.default_rng(seed)

    def sentence(self) -> tuple[list[int], np.ndarray]:
        """The encoder's mask, and what each row sees."""
        encoder = whole_word_mask(self.tokens, ENCODER_RATIO, self.random)
        size = min(self.length, self.set_size)
        masks = [whole_word_mask(self.tokens, RATIO, self.random) for _ in range(size)]
        rows = []
        for position in range(self.length):
            row = deepcopy(masks[self.random.randint(0, size - 1)])
            row[position] = 1
            rows.append(row)
        return encoder, 1 - np.array(rows)

    def batch(self) -> dict[str, np.ndarray]:
        """Returns the arrays that a training step is given."""
        ids = self.numpy.integers(1000, VOCABULARY, size=(self.sentences, self.length))
        sampled = [self.sentence() for _ in range(self.sentences)]
        chosen = np.array([encoder for encoder, _ in sampled]).astype(bool)
        inputs, labels = corrupted(ids, chosen, self.numpy)
        return {
            "encoder_input_ids": inputs,
            "encoder_labels": labels,
            "decoder_input_ids": ids,
            "visible": np.stack([visible for _, visible in sampled]),
        }


def main() -> None:
    collator = Collator(*(int(argument) for argument in sys.argv[1:4]))
    for _ in sys.stdin:
        visible = collator.batch()["visible"]
        print(*visible.sum(axis=2).mean(axis=1), flush=True)


if __name__ == "__main__":
    main()
