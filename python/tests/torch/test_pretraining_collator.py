"""RetroMAECollator: what it takes, what it packs, and its life in the workers of a DataLoader."""

import pytest
import torch

pytest.importorskip("transformers")

from pretraining_models import LETTERS, SPECIAL, VOCABULARY, examples, tokenizer, words  # noqa: E402
from tokenizers import Tokenizer, models  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402
from transformers import PreTrainedTokenizerFast  # noqa: E402

import retromae  # noqa: E402
from retromae.torch import RetroMAECollator  # noqa: E402

TEXT = "the cat sat on abc mat"
CLS, SEP = SPECIAL.index("[CLS]"), SPECIAL.index("[SEP]")


def packed(collator, given):
    return collator(given)["packed"]


def tokens(batch):
    return [VOCABULARY[token] for token in batch["input_ids"].tolist()]


def test_every_kind_of_example_gives_the_same_batch():
    collator = RetroMAECollator(tokenizer())
    content = tokenizer()(TEXT, add_special_tokens=False)["input_ids"]
    whole = [CLS, *content, SEP]
    expected = packed(collator, [TEXT])
    assert tokens(expected) == ["[CLS]", "the", "cat", "sat", "on", "a", "##b", "##c", "mat", "[SEP]"]
    for example in [
        {"text": TEXT},
        content,
        whole,
        tuple(content),
        torch.tensor(whole),
        {"token_ids": content},
        {"input_ids": whole, "attention_mask": [1] * len(whole)},
        {"input_ids": torch.tensor(whole)},
    ]:
        batch = packed(collator, [example])
        assert batch.keys() == expected.keys()
        for name, value in batch.items():
            same = torch.equal(value, expected[name]) if torch.is_tensor(value) else value == expected[name]
            assert same, name


def test_what_is_packed():
    collator = RetroMAECollator(
        tokenizer(), encoder_mlm_probability=0.3, decoder_mlm_probability=0.6, pool_rows=4
    )
    batch = packed(collator, [TEXT, *examples((2, 33, 66))])
    assert batch["cu_seqlens"].tolist() == [0, 10, 12, 45, 111]
    assert batch["max_seqlen"] == 66 and type(batch["max_seqlen"]) is int
    assert all(value.dtype is torch.int32 for value in batch.values() if torch.is_tensor(value))
    starts = words(batch["word_starts"], 111).tolist()
    assert starts == [not token.startswith("##") for token in tokens(batch)]
    # round(0.3 L) and round(0.6 L), but [CLS] and [SEP] are never chosen.
    assert batch["encoder_offsets"].tolist() == [0, 3, 3, 13, 33]
    assert batch["encoder_labeled"] == 33
    assert batch["decoder_offsets"].tolist() == [0, 6, 6, 26, 66]
    assert batch["decoder_labeled"] == 66
    # Rows of ceil(L / 32) words, min(L, 4) a sentence.
    assert batch["pool_offsets"].tolist() == [0, 4, 6, 14, 26]
    assert batch["pool_words"] == 26
    assert len(set(batch["sentence_indices"].tolist())) == 4


def test_bags_are_of_unique_tokens():
    batch = packed(RetroMAECollator(tokenizer(), bag_of_words=True), ["the cat the cat the", "", "dog"])
    assert batch["bag_offsets"].tolist() == [0, 2, 2, 3]
    assert {VOCABULARY[token] for token in batch["bag_ids"].tolist()} == {"the", "cat", "dog"}
    assert torch.equal(batch["bag_weights"], torch.tensor([0.2, 0.2, 1.0]))


@pytest.mark.parametrize("kind", ["text", "ids"])
def test_long_examples_are_cut(kind):
    text = "the cat sat " * 40
    given = text if kind == "text" else tokenizer()(text, add_special_tokens=False)["input_ids"]
    batch = packed(RetroMAECollator(tokenizer(), max_seq_length=16), [given])
    assert batch["cu_seqlens"].tolist() == [0, 16]
    assert tokens(batch)[:2] == ["[CLS]", "the"] and tokens(batch)[-2:] == ["cat", "[SEP]"]


@pytest.mark.parametrize(
    ("mark", "expected"), [("\u2581", [1, 0, 1]), ("\u0120", [1, 0, 1]), ("", [1, 1, 1])]
)
def test_words_of_other_tokenizers(mark, expected):
    vocabulary = [*SPECIAL, f"{mark}be", "gin", f"{mark}end", *LETTERS]
    made = Tokenizer(models.WordLevel({token: id for id, token in enumerate(vocabulary)}, unk_token="[UNK]"))
    names = {"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]", "pad_token": "[PAD]"}
    collator = RetroMAECollator(PreTrainedTokenizerFast(tokenizer_object=made, **names))
    batch = packed(collator, [[5, 6, 7]])
    assert words(batch["word_starts"], 5).int().tolist() == [1, *expected, 1]


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_of_a_data_loader(context):
    given = [{"text": TEXT}, {"text": "dog and cat"}] * 3
    collator = RetroMAECollator(tokenizer())
    loader = DataLoader(given, 2, collate_fn=collator, num_workers=2, multiprocessing_context=context)
    batches = list(loader)
    assert len(batches) == 3
    expected = packed(collator, given[:2])
    for batch in batches:
        for name, value in batch["packed"].items():
            same = torch.equal(value, expected[name]) if torch.is_tensor(value) else value == expected[name]
            assert same, name


@pytest.mark.parametrize(
    ("example", "match"),
    [
        (3, r"examples\[1\] is a int"),
        ({"label": 1}, r"examples\[1\] is a mapping of 'label'"),
        ({"text": 5}, r"examples\[1\]\['text'\]"),
        ([1.0, 2.0], r"examples\[1\]"),
        ([5, 10**6], r"examples\[1\] is with token ids"),
        ([-1], r"examples\[1\] is with token ids"),
        ([2**70], r"examples\[1\] is with token ids"),
        (torch.zeros(2, 2, dtype=torch.int64), r"examples\[1\]"),
        (None, r"examples\[1\] is a NoneType"),
    ],
)
def test_bad_examples(example, match):
    with pytest.raises(retromae.InvalidArgument, match=match):
        RetroMAECollator(tokenizer())([TEXT, example])


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"max_seq_length": 2}, "max_seq_length"),
        ({"max_seq_length": 8193}, "max_seq_length"),
        ({"pool_rows": 0}, "pool_rows"),
        ({"encoder_mlm_probability": 1.5}, "encoder_mlm_probability"),
        ({"decoder_mlm_probability": -0.1}, "decoder_mlm_probability"),
    ],
)
def test_bad_options(options, match):
    with pytest.raises(retromae.InvalidArgument, match=match):
        RetroMAECollator(tokenizer(), **options)


def test_a_tokenizer_without_a_mask():
    without = tokenizer()
    without.mask_token = None
    with pytest.raises(retromae.InvalidArgument, match="tokenizer is without mask_token_id"):
        RetroMAECollator(without)


def test_no_examples():
    with pytest.raises(retromae.InvalidArgument, match="examples is empty"):
        RetroMAECollator(tokenizer())([])
