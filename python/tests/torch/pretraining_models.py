"""Tiny models, tokenizers and batches, and the dense form of a batch."""

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = ["the", "cat", "sat", "on", "mat", "and", "dog"]
VOCABULARY = SPECIAL + [*LETTERS, *(f"##{letter}" for letter in LETTERS), ".", *WORDS]
UGLY = (2, 3, 17, 33, 64, 65, 129)


def tokenizer():
    made = Tokenizer(models.WordPiece({token: id for id, token in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    return PreTrainedTokenizerFast(tokenizer_object=made, **dict(zip(names, SPECIAL, strict=True)))


def bert(seed=0, dropout=0.0, **options):
    """A model whose parameters are all random, and large enough for its attention to matter."""
    torch.manual_seed(seed)
    config = BertConfig(
        **{
            "vocab_size": len(VOCABULARY),
            "hidden_size": 64,
            "num_attention_heads": 2,
            "num_hidden_layers": 2,
            "intermediate_size": 96,
            "max_position_embeddings": 160,
            "hidden_dropout_prob": dropout,
            "attention_probs_dropout_prob": dropout,
            **options,
        }
    )
    return randomize(BertForMaskedLM(config))


def randomize(model):
    for name, parameter in model.named_parameters():
        with torch.no_grad():
            center = 1.0 if "LayerNorm.weight" in name else 0.0
            parameter.normal_(center, 0.15)
    return model


def examples(lengths=UGLY, seed=0):
    """Token ids of sentences that have these lengths with [CLS] and [SEP]."""
    generator = torch.Generator().manual_seed(seed)
    first, last = len(SPECIAL), len(VOCABULARY)
    return [torch.randint(first, last, (length - 2,), generator=generator).tolist() for length in lengths]


def to(batch, device):
    packed = batch["packed"]
    return {
        "packed": {
            name: value.to(device) if hasattr(value, "to") else value for name, value in packed.items()
        }
    }


def words(bits, count):
    """Booleans [rows, count] of rows of words."""
    places = torch.arange(count)
    return (bits[..., places // 32] >> (places % 32)) & 1 == 1


def dense(inputs, batch, vocab_size):
    """The dense form of drawn `Inputs`, on the CPU."""
    cu = inputs.cu_seqlens.tolist()
    lengths = [end - begin for begin, end in zip(cu, cu[1:], strict=False)]
    size, longest = len(lengths), max(lengths)

    def pad(values, fill):
        padded = torch.full((size, longest), fill, dtype=torch.int64)
        for place, length in enumerate(lengths):
            padded[place, :length] = values[cu[place] : cu[place + 1]]
        return padded

    def labels(predicted):
        packed = torch.full((cu[-1],), -100, dtype=torch.int64)
        targets = predicted.targets.cpu().long()
        packed[predicted.rows.cpu().long()[targets != -100]] = targets[targets != -100]
        return pad(packed, -100)

    attended = pad(torch.ones(cu[-1]), 0) == 1
    result = {
        "attended": attended,
        "encoder_ids": pad(inputs.encoder.ids.cpu(), 0),
        "encoder_labels": labels(inputs.encoder),
        "decoder_ids": pad(inputs.decoder.ids.cpu(), 0),
        "decoder_labels": labels(inputs.decoder),
    }
    mask = inputs.mask
    if mask.rows is not None:
        visible = torch.zeros(size, longest, longest, dtype=torch.bool)
        bits, offsets, rows = mask.bits.cpu(), mask.offsets.tolist(), mask.rows.cpu().long() & 0xFFFF
        for place, length in enumerate(lengths):
            pool = bits[offsets[place] : offsets[place + 1]].view(-1, (length + 31) // 32)
            seen = words(pool[rows[cu[place] : cu[place + 1]]], length)
            seen[1:, 0] = True
            seen.fill_diagonal_(False)
            visible[place, :length, :length] = seen
        result["visible"] = visible
    packed = batch["packed"]
    if "bag_ids" in packed:
        bags = torch.zeros(size, vocab_size, dtype=torch.float64)
        offsets = packed["bag_offsets"].tolist()
        for place in range(size):
            chosen = slice(offsets[place], offsets[place + 1])
            bags[place, packed["bag_ids"][chosen].long()] = packed["bag_weights"][chosen].double()
        result["bags"] = bags
    return result


def padded(inputs, batch, config, device):
    """The drawn inputs as the padded batch of the public code."""
    made = dense(inputs, batch, config.vocab_size)
    made = {name: tensor.to(device) for name, tensor in made.items()}
    return {
        "encoder_input_ids": made["encoder_ids"],
        "encoder_attention_mask": made["attended"].long(),
        "encoder_labels": made["encoder_labels"],
        "decoder_input_ids": made["decoder_ids"],
        "decoder_attention_mask": made["visible"].long() if "visible" in made else None,
        "decoder_labels": made["decoder_labels"],
        "bag_word_weight": made["bags"].float() if "bags" in made else None,
    }
