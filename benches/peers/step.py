"""A whole RetroMAE training step: forward, backward, clipping and AdamW, under autocast on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from attention import position_specific_masks
from bert import IGNORE_INDEX, Batch, Config, HuggingFaceBert, PlainBert, RetroMae, explicit_layer
from optimizer import clip, optimizer_for
from peer import CheckFailed, Peer, Setting, Work, assert_close

MASKED_SHARE = 0.30
MASK_ID = 4
FIRST_WORD_ID = 5
VARIANTS = ("hf_eager_gathered", "hf_compile_gathered", "hf_eager", "hf_compile")
# Sentences that the float32 check runs at a time.
CHECKED_TOKENS = 4096
# With dropout a loss and its gradient are estimates of those without.
LOSS_TOLERANCE = 0.03
COSINE_MIN = 0.5


@dataclass(frozen=True)
class Sizes:
    name: str
    config: Config
    batches: tuple[tuple[int, int], ...]
    """Sentences, and tokens of each."""

    def case(self, sentences: int, length: int) -> str:
        full = f"{self.name}_B{sentences}_L{length}_V{self.config.vocab_size}"
        return f"base_L{length}" if self.name == "base" else full


SIZES = {
    "gpu": Sizes("base", Config(12, 768, 12, 30522), ((256, 128), (64, 512))),
    "cpu": Sizes("tiny", Config(2, 128, 4, 1024), ((8, 32),)),
    "self_test": Sizes("self_test", Config(2, 32, 2, 100), ((4, 16),)),
}


def random_batch(setting: Setting, config: Config, sentences: int, length: int) -> Batch:
    """Sentences without padding, the same number of them masked in each; slot 0 and the last are special."""
    shape = (sentences, length)
    original_ids = FIRST_WORD_ID + setting.integers(1, config.vocab_size - FIRST_WORD_ID, *shape)
    order = torch.rand(sentences, length - 2, generator=setting.generator(2), device=setting.device).argsort(
        1
    )
    chosen = torch.zeros(shape, dtype=torch.bool, device=setting.device)
    chosen[:, 1:-1] = order < round(MASKED_SHARE * length)
    ordinary = torch.zeros_like(chosen)
    ordinary[:, 1:-1] = True
    return Batch(
        input_ids=original_ids.masked_fill(chosen, MASK_ID),
        attention_mask=torch.ones(shape, dtype=torch.long, device=setting.device),
        encoder_labels=original_ids.masked_fill(~chosen, IGNORE_INDEX),
        original_ids=original_ids,
        decoder_labels=original_ids.masked_fill(~ordinary, IGNORE_INDEX),
        visible=position_specific_masks(setting, sentences, length)[:, None],
        encoder_rows=chosen.flatten().nonzero()[:, 0],
        decoder_rows=ordinary.flatten().nonzero()[:, 0],
    )


def build(setting: Setting, config: Config) -> RetroMae:
    """With transformers' BERT; without that package, or where it refuses this PyTorch, with torch.nn's."""
    torch.manual_seed(1)
    try:
        bert = HuggingFaceBert(config)
    except ImportError:
        bert = PlainBert(config)
    return RetroMae(bert, config).to(setting.device).train()


def note(model: RetroMae) -> str:
    if not isinstance(model.bert, HuggingFaceBert):
        return "without transformers: the same shapes in torch.nn"
    import transformers

    return f"transformers {transformers.__version__}, attention {model.bert.attention}"


def autocast(setting: Setting) -> torch.autocast:
    return torch.autocast(setting.device.type, dtype=torch.bfloat16, enabled=setting.dtype == torch.bfloat16)


def watched(model: RetroMae) -> dict[str, Tensor]:
    """Parameters at both ends of encoder and decoder, whose gradients are compared."""
    return {
        "word embeddings": model.bert.word_embeddings.weight,
        "encoder's first layer": model.bert.first_intermediate.weight,
        "decoder's values": model.decoder.value.weight,
        "decoder's output": model.decoder.output.weight,
    }


def backward(setting: Setting, model: Callable[..., Tensor], batch: Batch, gathered: bool) -> Tensor:
    """Adds to the gradients; the `[2]` losses."""
    with autocast(setting):
        losses = model(batch, gathered)
        loss = losses.sum()
    loss.backward()
    return losses.detach()


def reference(setting: Setting, model: RetroMae, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """Losses and watched gradients without dropout in plain float32, some sentences at a time.

    All sentences have as many labels, so that the mean over the batch is the mean of the parts' means. Rows
    are not gathered, whatever is measured.
    """
    exact = replace(setting, dtype=torch.float32)
    sentences, length = batch.input_ids.shape
    parts = max(1, sentences * length // CHECKED_TOKENS)
    model.eval().zero_grad()
    losses = torch.zeros(2, device=setting.device)
    for part in zip(*(values.chunk(parts) for values in batch[:6])):
        losses += backward(exact, model, Batch(*part, batch.encoder_rows, batch.decoder_rows), False) / parts
    gradients = {what: values.grad.clone() / parts for what, values in watched(model).items()}
    model.train().zero_grad()
    return losses, gradients


def assert_trains(model: RetroMae) -> None:
    """Raises unless every parameter of encoder and decoder has a finite gradient that is not zero."""
    for name, values in model.named_parameters():
        norm = 0.0 if values.grad is None else values.grad.norm().item()
        # A key bias shifts all scores of a row alike: its gradient is rounding errors.
        if not 0.0 < norm < float("inf") and "key.bias" not in name:
            raise CheckFailed(f"the gradient of {name} has norm {norm}")


def check(
    setting: Setting, model: RetroMae, batch: Batch, losses_and_gradients: Callable[[], Tensor]
) -> None:
    """Compares one forward and backward, dropout and all, with what it estimates."""
    expected_losses, expected = reference(setting, model, batch)
    losses = losses_and_gradients()
    assert_close("losses", losses, expected_losses, LOSS_TOLERANCE)
    assert_trains(model)
    for what, values in watched(model).items():
        cosine = torch.cosine_similarity(values.grad.flatten(), expected[what].flatten(), dim=0).item()
        if not cosine >= COSINE_MIN:
            raise CheckFailed(
                f"the gradient of the {what} has a cosine of {cosine:.3f} with plain float32's; "
                f"it should be {COSINE_MIN} or more"
            )


def work(setting: Setting, sentences: int, length: int, variant: str) -> Work:
    config = SIZES[setting.scale].config
    model = build(setting, config)
    batch = random_batch(setting, config, sentences, length)
    gathered = variant.endswith("_gathered")
    compiled = "compile" in variant
    called = setting.compile(model, repeats_backward=False, whole=False) if compiled else model
    parameters = list(model.parameters())
    optimizer = optimizer_for(parameters, **fastest(setting))

    def run() -> Tensor:
        losses = backward(setting, called, batch, gathered)
        clip(parameters)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return losses

    once = partial(backward, setting, called, batch, gathered)
    return Work(run, partial(check, setting, model, batch, once), note(model))


def fastest(setting: Setting) -> dict[str, bool]:
    return {"fused": True} if setting.device.type == "cuda" else {"foreach": True}


def peers(setting: Setting) -> list[Peer]:
    sizes = SIZES[setting.scale]
    return [
        Peer(
            op="step",
            case=sizes.case(sentences, length),
            variant=variant,
            dtype=setting.dtype_name,
            prepare=partial(work, setting, sentences, length, variant),
            rank=1 if length <= 128 else 2,
            seconds=120.0 if "compile" in variant else 20.0,
        )
        for sentences, length in sizes.batches
        for variant in VARIANTS
    ]


def self_checks(setting: Setting) -> list[tuple[str, Callable[[], None]]]:
    """What the measured step relies on, at a tiny size without dropout."""
    config = replace(SIZES["self_test"].config, dropout=0.0)
    batch = random_batch(setting, config, 4, 16)
    return [
        ("gathered and ungathered losses agree", partial(check_gathered, setting, config, batch)),
        ("the decoder follows the formulas", partial(check_decoder, setting, config, batch)),
        ("torch.nn's BERT is transformers' BERT", partial(check_plain_bert, setting, config, batch)),
    ]


def check_gathered(setting: Setting, config: Config, batch: Batch) -> None:
    results = []
    for gathered in (False, True):
        model = build(setting, config)
        losses = backward(setting, model, batch, gathered)
        results.append({"losses": losses, **{what: values.grad for what, values in watched(model).items()}})
    for what, expected in results[0].items():
        assert_close(what, results[1][what], expected, setting.tolerance)


def check_decoder(setting: Setting, config: Config, batch: Batch) -> None:
    """The query is the residual, row i never sees token i, and the loss reaches the sentence embedding."""
    model = build(setting, config)
    # Biases and LayerNorm's weights start as 0 and 1, where leaving them out would not show.
    for values in model.decoder.parameters():
        values.data += setting.normal(3, *values.shape, scale=0.1)
    sentence = setting.normal(1, len(batch.input_ids), 1, config.hidden_size).requires_grad_()
    decoded = model.decode(sentence, batch.original_ids, batch.visible)
    queries = model.bert.embed(sentence.expand(-1, batch.original_ids.shape[1], -1))
    content = model.bert.embed(model.bert.word_embeddings(batch.original_ids)).clone()
    content[:, :1] = sentence
    assert_close(
        "decoded", decoded, explicit_layer(model.decoder, queries, content, batch.visible), setting.tolerance
    )
    # [CLS]'s own id is nowhere in the content; the id at slot i is everywhere but in row i's attention.
    other_ids = batch.original_ids.clone()
    other_ids[:, 2] += 1
    changed = model.decode(sentence, other_ids, batch.visible) - decoded
    moved = changed.abs().amax(dim=(0, 2)) > 0
    if moved[2] or not moved[3:].any():
        raise CheckFailed("another token in slot 2 should change other rows and not row 2")
    (d_sentence,) = torch.autograd.grad(decoded.square().sum(), sentence)
    if not d_sentence.norm().item() > 0:
        raise CheckFailed("no gradient reaches the sentence embedding")


def check_plain_bert(setting: Setting, config: Config, batch: Batch) -> None:
    """So that a machine without transformers measures the same."""
    try:
        theirs, ours = HuggingFaceBert(config), PlainBert(config)
    except ImportError as error:
        print(f"ignored: there is no transformers to compare torch.nn's BERT with: {error}")
        return
    pairs = zip(theirs.parameters(), ours.parameters())
    with torch.no_grad():
        for seed, (one, other) in enumerate(pairs):
            if one.shape != other.shape:
                raise CheckFailed(
                    f"parameter {seed} has shape {list(other.shape)}; it should be {list(one.shape)}"
                )
            one += setting.normal(seed, *one.shape, scale=0.1)
            other.copy_(one)
        hidden = [bert.encode(batch.input_ids, batch.attention_mask) for bert in (theirs, ours)]
        assert_close("hidden states", hidden[1], hidden[0], setting.tolerance)
        assert_close("logits", ours.head(hidden[0]), theirs.head(hidden[0]), setting.tolerance)
