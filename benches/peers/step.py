"""A whole RetroMAE training step: forward, backward, clipping and AdamW, under autocast on a GPU.

Timed is what the device does for a batch that lies prepared in its memory: tokens corrupted, masks and labels sampled, and the rows
with labels known. Nothing is read back and nothing waits for the device within a step; losses stay there.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from attention import position_specific_masks
from bert import IGNORE_INDEX, Batch, Config, HuggingFaceBert, PlainBert, RetroMae, explicit_layer
from cases import Case, constant
from optimizer import clip, optimizer_for
from peer import CheckFailed, Peer, Rank, Setting, Unavailable, Work, assert_close, gradient

MASKED_SHARE: float = constant("step", "masked_share")
DROPOUT: float = constant("step", "dropout")
MASK_ID = 4
FIRST_WORD_ID = 5
# `gathered`: the head runs on rows with a label alone. `cudnn`: SDPA prefers cuDNN, else it chooses itself.
VARIANTS = {
    "hf_eager_gathered_cudnn": (Rank.FIRST, 5.0),
    "hf_eager_gathered": (Rank.SECOND, 5.0),
    "hf_compile_gathered_cudnn": (Rank.LONG, 30.0),
    "hf_compile_gathered": (Rank.OTHER, 30.0),
    "hf_eager": (Rank.OTHER, 5.0),
    "hf_compile": (Rank.LAST, 30.0),
}
PER_SENTENCE = ("input_ids", "encoder_labels", "original_ids", "decoder_labels", "visible")
# Sentences that the float32 check runs at a time.
CHECKED_TOKENS = 4096
# With dropout a loss and its gradient are estimates of those without.
LOSS_TOLERANCE = 0.03
COSINE_MIN = 0.5


SELF_TEST = {
    "self_test_B4_L16_V100": {
        "layers": 2,
        "hidden_size": 32,
        "heads": 2,
        "vocab_size": 100,
        "sentences": 4,
        "length": 16,
    }
}
# On a processor: the benches' case there has sentences of many lengths.
SMALL = {
    "tiny_B8_L32_V1024": {
        "layers": 2,
        "hidden_size": 128,
        "heads": 4,
        "vocab_size": 1024,
        "sentences": 8,
        "length": 32,
    }
}


def cases(setting: Setting) -> list[Case]:
    small = [Case(name, True, sizes) for name, sizes in SMALL.items()]
    return setting.cases("step", SELF_TEST) or small


def config_of(case: Case) -> Config:
    names = ("layers", "hidden_size", "heads", "vocab_size")
    return Config(**{name: case.sizes[name] for name in names}, dropout=DROPOUT)


def random_batch(setting: Setting, config: Config, sentences: int, length: int) -> Batch:
    """Sentences without padding, the same number of them masked in each; position 0 and the last are special."""
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
    with setting.device:
        try:
            bert: HuggingFaceBert | PlainBert = HuggingFaceBert(config)
        except ImportError:
            bert = PlainBert(config)
        return RetroMae(bert, config).train()


def note(model: RetroMae, variant: str) -> str:
    cudnn = f", cuDNN {torch.backends.cudnn.version()} preferred" if "cudnn" in variant else ""
    if not isinstance(model.bert, HuggingFaceBert):
        return f"without transformers: the same shapes in torch.nn{cudnn}"
    import transformers

    return f"transformers {transformers.__version__}, attention {model.bert.attention}{cudnn}"


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
    torch.autograd.backward(loss)
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
    whole = batch._asdict()
    chunks = {what: whole[what].chunk(parts) for what in PER_SENTENCE}
    for part in range(parts):
        sentences_of_part = batch._replace(**{what: chunk[part] for what, chunk in chunks.items()})
        losses += backward(exact, model, sentences_of_part, False) / parts
    gradients = {what: gradient(values).clone() / parts for what, values in watched(model).items()}
    model.train().zero_grad()
    return losses, gradients


def assert_trains(model: RetroMae) -> None:
    """Raises unless every parameter of encoder and decoder has a finite gradient that is not zero."""
    for name, values in model.named_parameters():
        norm = 0.0 if values.grad is None else values.grad.norm().item()
        # A key bias shifts all scores of a row alike: its gradient is rounding errors.
        if not 0.0 < norm < float("inf") and "key.bias" not in name:
            raise CheckFailed(f"the gradient of {name} has norm {norm}")


def assert_same_losses(losses: Tensor, expected: Tensor, tolerance: float) -> None:
    for what, one, other in zip(("the encoder's loss", "the decoder's loss"), losses, expected):
        assert_close(what, one, other, tolerance)


def check(
    setting: Setting,
    model: RetroMae,
    batch: Batch,
    once: Callable[..., Tensor],
    called: Callable[..., Tensor],
) -> None:
    """`once(called)` is the measured forward and backward; `called` is the model, or compiled from it.

    The model without dropout must agree with plain float32. With dropout, and compiled, it can but estimate
    the same; compiling it once more without would take minutes.
    """
    expected_losses, expected = reference(setting, model, batch)
    assert_same_losses(once(model.eval()), expected_losses, setting.tolerance)
    for what, values in watched(model).items():
        assert_close(f"the gradient of the {what}", gradient(values), expected[what], setting.tolerance)
    model.train().zero_grad()
    assert_same_losses(once(called), expected_losses, LOSS_TOLERANCE)
    assert_trains(model)
    for what, values in watched(model).items():
        cosine = torch.cosine_similarity(gradient(values).flatten(), expected[what].flatten(), dim=0).item()
        if not cosine >= COSINE_MIN:
            raise CheckFailed(
                f"the gradient of the {what} has a cosine of {cosine:.3f} with plain float32's; "
                f"it should be {COSINE_MIN} or more"
            )
    model.zero_grad(set_to_none=True)


def work(setting: Setting, case: Case, variant: str) -> Work:
    config = config_of(case)
    model = build(setting, config)
    batch = random_batch(setting, config, case.sizes["sentences"], case.sizes["length"])
    gathered, compiled = "gathered" in variant, "compile" in variant
    called = setting.compile(model, repeats_backward=False, whole=False) if compiled else model
    parameters = list(model.parameters())
    optimizer = optimizer_for(parameters, **fastest(setting))

    def once(module: Callable[..., Tensor]) -> Tensor:
        return backward(setting, module, batch, gathered)

    def run() -> Tensor:
        losses = once(called)
        clip(parameters)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return losses

    checked = partial(check, setting, model, batch, once, called)
    context = prefer_cudnn(setting) if "cudnn" in variant else nullcontext
    return Work(run, checked, note(model, variant), context)


def prefer_cudnn(setting: Setting) -> Callable[[], AbstractContextManager[Any]]:
    """Returns a context in which SDPA asks cuDNN first."""
    if setting.device.type != "cuda":
        raise Unavailable("cuDNN is for GPUs")
    try:
        from torch.nn.attention import SDPBackend, sdpa_kernel

        order = [
            SDPBackend.CUDNN_ATTENTION,
            SDPBackend.FLASH_ATTENTION,
            SDPBackend.EFFICIENT_ATTENTION,
            SDPBackend.MATH,
        ]
    except (ImportError, AttributeError):
        raise Unavailable(f"PyTorch {torch.__version__} cannot be made to prefer cuDNN") from None
    return partial(sdpa_kernel, order, set_priority=True)


def fastest(setting: Setting) -> dict[str, bool]:
    return {"fused": True} if setting.device.type == "cuda" else {"foreach": True}


def peers(setting: Setting) -> list[Peer]:
    return [
        Peer(
            op="step",
            case=case.name,
            variant=variant,
            dtype=setting.dtype_name,
            prepare=partial(work, setting, case, variant),
            rank=rank,
            seconds=seconds,
        )
        for case in cases(setting)
        for variant, (rank, seconds) in VARIANTS.items()
    ]


def self_checks(setting: Setting) -> list[tuple[str, Callable[[], None]]]:
    """Returns checks of what the measured step relies on, at a tiny size without dropout."""
    (case,) = cases(setting)
    config = replace(config_of(case), dropout=0.0)
    batch = random_batch(setting, config, 4, 16)
    return [
        ("gathered and ungathered losses agree", partial(check_gathered, setting, config, batch)),
        ("the decoder's loss reaches the encoder", partial(check_reach, setting, config, batch)),
        ("the decoder follows the formulas", partial(check_decoder, setting, config, batch)),
        ("torch.nn's BERT is transformers' BERT", partial(check_plain_bert, setting, config, batch)),
    ]


def check_gathered(setting: Setting, config: Config, batch: Batch) -> None:
    results = []
    for gathered in (False, True):
        model = build(setting, config)
        losses = backward(setting, model, batch, gathered)
        results.append(
            {"losses": losses, **{what: gradient(values) for what, values in watched(model).items()}}
        )
    for what, expected in results[0].items():
        assert_close(what, results[1][what], expected, setting.tolerance)


def check_reach(setting: Setting, config: Config, batch: Batch) -> None:
    """Through the sentence embedding, the only thing that the decoder has of the masked sentence."""
    model = build(setting, config)
    model(batch, False)[1].backward()
    if not gradient(model.bert.first_intermediate.weight).norm().item() > 0:
        raise CheckFailed("the decoder's loss leaves the encoder's first layer without a gradient")


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
    # [CLS]'s own id is nowhere in the content; the id at position i is everywhere but in row i's attention.
    other_ids = batch.original_ids.clone()
    other_ids[:, 2] += 1
    changed = model.decode(sentence, other_ids, batch.visible) - decoded
    moved = changed.abs().amax(dim=(0, 2)) > 0
    if moved[2] or not moved[3:].any():
        raise CheckFailed("another token at position 2 should change other rows and not row 2")
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
            one.add_(setting.normal(seed, *one.shape, scale=0.1))
            other.copy_(one)
        hidden = [bert.encode(batch.input_ids) for bert in (theirs, ours)]
        assert_close("hidden states", hidden[1], hidden[0], setting.tolerance)
        assert_close("logits", ours.head(hidden[0]), theirs.head(hidden[0]), setting.tolerance)
