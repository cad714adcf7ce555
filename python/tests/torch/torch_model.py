"""A small model that uses all operations, for tests of what runs models."""

import torch
from torch import nn

from retromae.torch import (
    Bags,
    Corruption,
    CountLimit,
    Mask,
    Pool,
    Replacement,
    attention,
    bag_of_words_loss,
    draw_masks,
    dropout_add_layer_norm,
    labeled_offsets,
    linear_cross_entropy,
    pool_offsets,
    prefix_sums,
    two_stream_attention,
)

HEADS, DIM, VOCAB = 2, 32, 96
COLUMNS = HEADS * DIM
LIMIT = CountLimit(0.3)
MASK_ID = 3


class Layer(nn.Module):
    def __init__(self, dropout):
        super().__init__()
        self.dropout = dropout
        self.projection = nn.Linear(COLUMNS, 3 * COLUMNS)
        self.output = nn.Linear(COLUMNS, COLUMNS, bias=False)
        self.bias = nn.Parameter(torch.zeros(COLUMNS))
        self.norm = nn.LayerNorm(COLUMNS)

    def forward(self, hidden, cu_seqlens, max_seqlen, pool=None):
        query, key, value = self.projection(hidden).view(-1, 3, HEADS, DIM).unbind(1)
        options = {"dropout_p": self.dropout}
        if pool is None:
            found = attention(query, key, value, cu_seqlens, max_seqlen, mask=Mask.window(16), **options)
        else:
            found = two_stream_attention(query, key, value, cu_seqlens, max_seqlen, *pool, **options)
        output = self.output(found.flatten(1))
        norm = self.norm
        return dropout_add_layer_norm(
            output, norm.weight, norm.bias, hidden, self.bias, dropout_p=self.dropout, eps=norm.eps
        )


class Model(nn.Module):
    """An encoder, a decoder with masks of its own, and the losses of both."""

    def __init__(self, dropout=0.0):
        super().__init__()
        self.words = nn.Embedding(VOCAB, COLUMNS)
        self.bias = nn.Parameter(torch.zeros(VOCAB))
        self.encoder = Layer(dropout)
        self.decoder = Layer(dropout)

    def forward(self, batch):
        """The sum of losses, so that those of parts of a batch add up."""
        cu, longest, offsets = batch["cu_seqlens"], batch["max_seqlen"], batch["pool_offsets"]
        masks = draw_masks(
            batch["ids"],
            cu,
            longest,
            batch["rng"],
            batch["sentence_indices"],
            batch["word_starts"],
            Pool(LIMIT, offsets, batch["pool_words"]),
            Corruption(LIMIT, Replacement(MASK_ID, VOCAB), batch["labeled_offsets"], batch["labeled"]),
        )
        # In bf16 the residual has the dtype of what is added to it.
        words = self.words.weight.to(batch["dtype"])
        head = {"bias": self.bias, "reduction": "sum"}
        hidden = self.encoder(words[masks.encoder.input_ids], cu, longest)
        chosen = hidden[masks.encoder.labeled_rows.clamp(min=0)]
        loss = linear_cross_entropy(chosen, words, masks.encoder.targets, **head)
        hidden = self.decoder(hidden, cu, longest, (masks.bits, offsets, masks.rows))
        rows = linear_cross_entropy(hidden, words, batch["ids"], self.bias, reduction="none")
        bags = Bags(batch["bag_offsets"], batch["bag_ids"])
        return loss + rows.sum() + bag_of_words_loss(hidden, words, bags, cu, longest, **head)


def batch_of(lengths, device, first=0, dtype=torch.float32):
    """Sentences `first`, `first` + 1, ... of a corpus in which each follows from its number."""
    sentences = []
    for number, length in enumerate(lengths, first):
        generator = torch.Generator().manual_seed(number)
        sentences.append(torch.randint(4, VOCAB, (length,), generator=generator, dtype=torch.int32))
    offsets, labeled = pool_offsets(lengths, 128), labeled_offsets(lengths, LIMIT)
    tokens = sum(lengths)
    tensors = {
        "ids": torch.cat(sentences),
        "cu_seqlens": prefix_sums(lengths),
        "rng": torch.tensor([1, 2, 3, 0], dtype=torch.int32),
        "sentence_indices": torch.arange(first, first + len(lengths), dtype=torch.int32),
        "word_starts": torch.full(((tokens + 31) // 32,), -1, dtype=torch.int32),
        "pool_offsets": offsets,
        "labeled_offsets": labeled,
        "bag_ids": torch.cat([sentence[:2] for sentence in sentences]),
        "bag_offsets": prefix_sums([min(2, length) for length in lengths]),
    }
    numbers = {"max_seqlen": max(lengths), "pool_words": int(offsets[-1]), "labeled": int(labeled[-1])}
    return {name: tensor.to(device) for name, tensor in tensors.items()} | numbers | {"dtype": dtype}


def step(model, batch, seed=0):
    """Loss and gradients of a step whose dropout is drawn from a seed."""
    torch.manual_seed(seed)
    model.zero_grad()
    loss = model(batch)
    loss.backward()
    return loss.detach(), {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def assert_same(first, second, tolerance=0.0):
    """Compares results of two steps, relative to the largest gradient of each parameter."""
    (loss, gradients), (other_loss, others) = first, second
    torch.testing.assert_close(loss, other_loss, rtol=tolerance, atol=0)
    assert gradients.keys() == others.keys()
    for name, gradient in gradients.items():
        bound = tolerance * gradient.abs().max().item()
        torch.testing.assert_close(
            gradient, others[name], rtol=0, atol=bound, msg=lambda m, n=name: f"{n}: {m}"
        )
