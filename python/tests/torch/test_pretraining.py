"""RetroMAEForPretraining against the dense formulas, and its life: seeds, checkpointing, files, bad arguments."""

import copy
import pickle

import dense_pretraining
import pytest
import torch

pytest.importorskip("transformers")

from pretraining_models import (  # noqa: E402
    UGLY,
    bert,
    dense,
    examples,
    padded,
    randomize,
    to,
    tokenizer,
    words,
)
from transformers import BertForMaskedLM  # noqa: E402

import retromae  # noqa: E402
import retromae.torch.pretraining as pretraining_module  # noqa: E402
from retromae.torch import RetroMAECollator, RetroMAEForPretraining  # noqa: E402

MODES = [("enhanced", "embedding"), ("enhanced", "position"), ("basic", "embedding")]


def collate(lengths=UGLY, seed=0, **options):
    return RetroMAECollator(tokenizer(), max_seq_length=160, **options)(examples(lengths, seed))


def pretraining(device="cpu", dropout=0.0, model=None, **options):
    model = RetroMAEForPretraining(bert(dropout=dropout) if model is None else model, **options)
    randomize(model.c_head)
    return model.to(device)


def drawn(model, batch, seed):
    """The inputs that a forward pass after this seed draws."""
    torch.manual_seed(seed)
    words = torch.randint(-(2**31), 2**31, (4,), dtype=torch.int32, device=model.device)
    return model._draw(batch["packed"], words)


def loss(model, batch, seed=3):
    torch.manual_seed(seed)
    return model(**batch).loss


def gradients(model, value):
    """Gradients of all parameters, zeros where there are none."""
    model.zero_grad()
    value.backward()
    return {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
        for name, parameter in model.named_parameters()
    }


def statement(model, inputs, batch, dtype, autocast=None):
    """The dense statement's loss and gradients, on the CPU."""
    leaves, parameters = {}, {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) not in leaves:
            leaves[id(parameter)] = parameter.detach().to("cpu", dtype).requires_grad_()
        parameters[name] = leaves[id(parameter)]
    options = {name: getattr(model, name) for name in ("decoding", "query", "bag_of_words_weight")}
    with torch.autocast("cpu", autocast, enabled=autocast is not None):
        value = dense_pretraining.loss(
            dense(inputs, batch, model.config.vocab_size), parameters, model.config, **options
        )
    value.backward()
    found = {name: leaves[id(parameter)] for name, parameter in model.named_parameters()}
    return value.detach(), {
        name: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for name, leaf in found.items()
    }


def compare(model, inputs, batch, value, found, autocast=None):
    """Holds loss and gradients against f64. They may be off by twice the error of the same statement in the same precision, and
    by a floor: a few roundings of the largest element, and of the largest of all gradients, as those that are zero by
    mathematics (of the keys' biases) are what rounding leaves of larger ones."""
    expected, exact = statement(model, inputs, batch, torch.float64)
    naive, rounded = statement(model, inputs, batch, torch.float32, autocast)
    unit = {None: 2.0**-22, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}[autocast]
    assert abs(value.item() - expected) <= 2 * abs(naive - expected) + unit * abs(expected)
    largest = max(gradient.abs().max() for gradient in exact.values())
    for name, gradient in found.items():
        error = (gradient.cpu().double() - exact[name]).abs().max()
        floor = unit * (4 * exact[name].abs().max() + largest)
        assert error <= 2 * (rounded[name].double() - exact[name]).abs().max() + floor, name


@pytest.mark.parametrize("weight", [0.0, 0.1])
@pytest.mark.parametrize(("decoding", "query"), MODES)
def test_loss_and_every_gradient_are_those_of_the_formulas(device, decoding, query, weight):
    model = pretraining(device, decoding=decoding, query=query, bag_of_words_weight=weight)
    batch = collate(bag_of_words=weight > 0)
    moved = to(batch, device)
    value = loss(model, moved)
    found = gradients(model, value)
    compare(model, drawn(model, moved, 3), batch, value, found)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("decoding", "query"), MODES)
def test_autocast_rounds_like_a_dense_model_under_autocast(device, decoding, query, dtype):
    model = pretraining(device, decoding=decoding, query=query, bag_of_words_weight=0.1)
    batch = collate(bag_of_words=True)
    moved = to(batch, device)
    with torch.autocast(device, dtype):
        value = loss(model, moved)
    assert value.dtype is torch.float32
    found = gradients(model, value)
    compare(model, drawn(model, moved, 3), batch, value, found, autocast=dtype)


def test_a_model_of_bfloat16_trains(device):
    model = pretraining(device, bag_of_words_weight=0.1)
    batch = to(collate(bag_of_words=True), device)
    expected = loss(model, batch).item()
    value = loss(model.bfloat16(), batch)
    assert value.item() == pytest.approx(expected, rel=0.02)
    assert all(torch.isfinite(gradient).all() for gradient in gradients(model, value).values())


@pytest.mark.parametrize("lengths", [(2, 5), (160,), (31, 32, 33), (3,) * 20])
def test_other_lengths(device, lengths):
    model = pretraining(device)
    batch = collate(lengths, seed=5)
    moved = to(batch, device)
    value = loss(model, moved)
    found = gradients(model, value)
    compare(model, drawn(model, moved, 3), batch, value, found)


def test_a_batch_of_empty_texts_has_no_loss(device):
    model = pretraining(device)
    value = loss(model, to(RetroMAECollator(tokenizer())(["", ""]), device))
    assert value.item() == 0.0
    assert not any(gradient.any() for gradient in gradients(model, value).values())


def test_a_step_does_not_wait_for_the_gpu(gpu):
    model = pretraining(gpu, dropout=0.1, bag_of_words_weight=0.1)
    batch = to(collate(bag_of_words=True), gpu)
    loss(model, batch).backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        model(**batch).loss.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_an_output_matrix_of_its_own(device):
    untied = bert(tie_word_embeddings=False)
    assert untied.cls.predictions.decoder.weight is not untied.bert.embeddings.word_embeddings.weight
    model = pretraining(device, model=untied)
    batch = collate()
    moved = to(batch, device)
    value = loss(model, moved)
    found = gradients(model, value)
    compare(model, drawn(model, moved, 3), batch, value, found)


def test_what_is_masked(device):
    model = pretraining(device)
    batch = collate((129, 64, 17, 2))
    ids = batch["packed"]["input_ids"]
    inputs = drawn(model, to(batch, device), 0)
    # The encoder predicts 30 % of each sentence, but for whole words that would not fit, and sees the rest as it was.
    targets = inputs.encoder.targets.cpu()
    rows = inputs.encoder.rows.cpu()[targets != -100].long()
    targets = targets[targets != -100]
    assert torch.equal(ids[rows], targets)
    per_sentence = torch.bincount(inputs.sentences.cpu()[rows], minlength=4).tolist()
    assert 0.8 * 39 <= per_sentence[0] <= 39 and 0.8 * 19 <= per_sentence[1] <= 19 and per_sentence[3] == 0
    seen = inputs.encoder.ids.cpu()
    changed = (seen != ids).nonzero().squeeze(1)
    assert set(changed.tolist()) <= set(rows.tolist())
    assert 0.5 * len(rows) <= (seen[rows] == tokenizer().mask_token_id).sum() <= len(rows)
    # The decoder predicts all but the ends, each from half of the other tokens.
    ends = inputs.cu_seqlens.cpu()
    inner = sorted(set(range(len(ids))) - set(ends[:-1].tolist()) - set((ends[1:] - 1).tolist()))
    assert inputs.decoder.rows.tolist() == inner
    assert torch.equal(inputs.decoder.targets.cpu(), ids[inner])
    visible = dense(inputs, batch, model.config.vocab_size)["visible"][0, :129, :129]
    assert visible[1:, 0].all() and not visible.diagonal().any()
    assert 0.4 < visible.float().mean() < 0.65
    assert len({tuple(row) for row in visible.tolist()}) > 60


def test_the_basic_decoder_sees_masks_for_what_it_predicts(device):
    model = pretraining(device, decoding="basic")
    batch = collate((129, 64, 17, 2), decoder_mlm_probability=0.6)
    inputs = drawn(model, to(batch, device), 0)
    ids = batch["packed"]["input_ids"].clone()
    targets = inputs.decoder.targets.cpu()
    rows = inputs.decoder.rows.cpu()[targets != -100].long()
    assert torch.equal(targets[targets != -100], ids[rows])
    assert 0.55 * len(ids) < len(set(rows.tolist())) == len(rows) < 0.65 * len(ids)
    ids[rows] = tokenizer().mask_token_id
    assert torch.equal(inputs.decoder.ids.cpu(), ids)


def test_words_are_chosen_whole(device):
    collator = RetroMAECollator(tokenizer(), encoder_mlm_probability=0.4)
    batch = collator(["the cat sat on xyz mat and abcd dog . " * 6])
    packed = batch["packed"]
    starts = words(packed["word_starts"], len(packed["input_ids"]))
    tokens = tokenizer().convert_ids_to_tokens(packed["input_ids"].tolist())
    assert starts.tolist() == [not token.startswith("##") for token in tokens]
    inputs = drawn(pretraining(device), to(batch, device), 1)
    rows = set(inputs.encoder.rows.tolist())
    begin = starts.nonzero().squeeze(1).tolist()
    for first, end in zip(begin, [*begin[1:], len(tokens)], strict=True):
        assert len({row in rows for row in range(first, end)}) == 1


def test_masks_follow_from_seed_and_sentence_alone(device):
    model = pretraining(device)
    together, alone = collate((33, 64)), RetroMAECollator(tokenizer())(examples((33, 64))[1:])
    both, one = (drawn(model, to(batch, device), 9) for batch in (together, alone))
    assert torch.equal(both.encoder.ids[33:], one.encoder.ids)
    assert not torch.equal(drawn(model, to(alone, device), 10).encoder.ids, one.encoder.ids)


def test_dropout_follows_from_the_seed(device):
    model = pretraining(device, dropout=0.1)
    batch = to(collate(), device)
    values = [loss(model, batch, seed).item() for seed in (1, 1, 2)]
    assert values[0] == values[1] != values[2]
    without = loss(model.eval(), batch, 1).item()
    assert without != values[0] and without == pytest.approx(values[0], rel=0.2)


def test_every_place_of_dropout_draws_on_its_own(device, monkeypatch):
    model = pretraining(device, model=bert(dropout=0.1, attention_probs_dropout_prob=0.2))
    places = []
    for name in ("attention", "dropout_add_layer_norm"):
        operation = getattr(pretraining_module, name)

        def recorded(*arguments, _operation=operation, **options):
            places.append((options["dropout_p"], options["dropout_site"]))
            return _operation(*arguments, **options)

        monkeypatch.setattr(pretraining_module, name, recorded)
    batch = to(collate((5, 9)), device)
    loss(model, batch)
    assert [rate for rate, _ in places] == 3 * [0.2, 0.1, 0.1]
    assert len({site for _, site in places}) == 9
    places.clear()
    loss(model.eval(), batch)
    assert [rate for rate, _ in places] == 9 * [0.0]


@pytest.mark.parametrize("decoding", ["enhanced", "basic"])
def test_gradients_under_dropout_are_those_of_the_same_draws(device, decoding):
    model = pretraining(device, dropout=0.2, decoding=decoding)
    batch = to(collate((33, 64)), device)
    found = gradients(model, loss(model, batch))
    step, values = 3e-3, []
    for sign in (1.0, -1.0):
        shifted = copy.deepcopy(model)
        with torch.no_grad():
            for name, parameter in shifted.named_parameters():
                parameter += sign * step * found[name]
        values.append(loss(shifted, batch).item())
    slope = sum((gradient**2).sum().item() for gradient in found.values())
    # The loss bends between the two: a few percent.
    assert (values[0] - values[1]) / (2 * step) == pytest.approx(slope, rel=0.05)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_changes_nothing(device, reentrant):
    model = pretraining(device, dropout=0.1)
    batch = to(collate(), device)
    plain = loss(model, batch)
    expected = gradients(model, plain)
    calls = []
    for layer in model.lm.bert.encoder.layer:
        layer.intermediate.register_forward_hook(lambda *_: calls.append(1))
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    again = loss(model, batch)
    found = gradients(model, again)
    # Each layer ran twice.
    assert len(calls) == 4
    assert again.item() == plain.item()
    for name, gradient in found.items():
        # On a GPU the embeddings' gradients are added up in any order.
        torch.testing.assert_close(gradient, expected[name], rtol=1e-5, atol=1e-6, msg=name)
    model.gradient_checkpointing_disable()
    loss(model, batch)
    assert len(calls) == 6


def pad(tensor, length):
    """Pads ids, labels and masks."""
    if tensor is None or tensor.is_floating_point():
        return tensor
    missing = length - tensor.shape[1]
    return torch.nn.functional.pad(tensor, (0, missing) * (tensor.dim() - 1))


@pytest.mark.parametrize("decoding", ["enhanced", "basic"])
def test_a_padded_batch_gives_what_the_packed_one_gives(device, decoding):
    model = pretraining(device, decoding=decoding, bag_of_words_weight=0.1)
    batch = collate(bag_of_words=True)
    moved = to(batch, device)
    expected = loss(model, moved)
    wanted = gradients(model, expected)
    given = padded(drawn(model, moved, 3), batch, model.config, device)
    # More padding than the model has positions.
    given = {name: pad(tensor, 200) for name, tensor in given.items()}
    value = loss(model, given)
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)
    for name, gradient in gradients(model, value).items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-4, atol=1e-6, msg=name)


def test_the_encoder_stays_a_model_of_transformers(device):
    torch.manual_seed(0)
    plain = bert().to(device).eval()
    ids = torch.arange(10, 30, device=device)[None]
    mask = torch.ones_like(ids)
    mask[:, 15:] = 0
    with torch.no_grad():
        expected = plain(ids, mask).logits
        model = pretraining(device, model=plain).eval()
        assert torch.equal(model.lm(ids, mask).logits, expected)
        assert model.lm is plain


@pytest.mark.parametrize("decoding", ["enhanced", "basic"])
def test_what_is_saved_opens_again(tmp_path, decoding):
    model = pretraining(decoding=decoding)
    model.save_pretrained(tmp_path)
    names = set(torch.load(tmp_path / "pytorch_model.bin", weights_only=True))
    assert {"lm.cls.predictions.bias", "c_head.attention.self.query.weight"} <= names
    batch = collate()
    expected = loss(model, batch).item()
    again = RetroMAEForPretraining.from_pretrained(None, tmp_path, decoding=decoding)
    assert loss(again, batch).item() == expected
    encoder = BertForMaskedLM.from_pretrained(tmp_path / "encoder_model")
    for name, parameter in model.lm.state_dict().items():
        assert torch.equal(encoder.state_dict()[name], parameter), name
    fresh = RetroMAEForPretraining.from_pretrained(None, tmp_path / "encoder_model", decoding=decoding)
    assert loss(fresh, batch).item() != expected


def test_a_model_is_copied_and_pickled():
    model = pretraining()
    batch = collate()
    expected = loss(model, batch).item()
    assert loss(copy.deepcopy(model), batch).item() == expected
    assert loss(pickle.loads(pickle.dumps(model)), batch).item() == expected


def test_an_output_is_a_tuple_and_has_names():
    model = pretraining(bag_of_words_weight=0.5)
    torch.manual_seed(0)
    output = model(**collate(bag_of_words=True))
    assert output[0] is output.loss is output["loss"]
    parts = output.encoder_loss + output.decoder_loss + 0.5 * output.bag_of_words_loss
    assert output.loss.item() == pytest.approx(parts.item(), rel=1e-6)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ({"is_decoder": True}, "is_decoder"),
        ({"is_decoder": True, "add_cross_attention": True}, "is_decoder"),
        ({"chunk_size_feed_forward": 8}, "chunk_size_feed_forward"),
        ({"hidden_size": 80}, "head_dim|head size|40"),
        ({"hidden_size": 2048, "num_attention_heads": 16}, "columns|2048"),
    ],
)
def test_a_model_that_is_not_computed_is_refused(options, name):
    with pytest.raises(retromae.Unsupported, match=name):
        RetroMAEForPretraining(bert(num_hidden_layers=1, intermediate_size=8, **options))


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"decoding": "other"}, "decoding"),
        ({"query": None}, "query"),
        ({"bag_of_words_weight": -1.0}, "bag_of_words_weight"),
    ],
)
def test_options_are_checked(arguments, name):
    with pytest.raises(retromae.InvalidArgument, match=name):
        RetroMAEForPretraining(bert(), **arguments)


def test_no_model_of_transformers():
    with pytest.raises(retromae.InvalidArgument, match="bert is a Linear"):
        RetroMAEForPretraining(torch.nn.Linear(2, 2))


def test_bad_batches(device):
    model = pretraining(device)
    packed = to(collate((5, 9)), device)["packed"]
    for changes, name in [
        ({"cu_seqlens": packed["cu_seqlens"].long()}, "cu_seqlens"),
        ({"word_starts": packed["word_starts"].float()}, "word_starts"),
        ({"max_seqlen": 161}, "max_seqlen"),
        ({"wrong": 1}, "wrong"),
        ({"pool_offsets": packed["pool_offsets"][:-1]}, "pool.offsets"),
        ({"encoder_labeled": -1}, "labeled"),
    ]:
        with pytest.raises(retromae.Error, match=name):
            model(packed={**packed, **changes})
    with pytest.raises(retromae.InvalidArgument, match="pool_rows"):
        model(packed={name: value for name, value in packed.items() if name != "pool_rows"})
    with pytest.raises(retromae.InvalidArgument, match="packed is None"):
        model()
    with pytest.raises(retromae.InvalidArgument, match="bag_of_words=True"):
        pretraining(device, bag_of_words_weight=0.1)(packed=packed)


def test_bad_padded_batches(device):
    model = pretraining(device)
    batch = collate((5, 9), bag_of_words=True)
    given = padded(drawn(model, to(batch, device), 3), batch, model.config, device)
    for changes, name in [
        ({"encoder_labels": None}, "encoder_labels is None"),
        ({"decoder_labels": given["decoder_labels"][:1]}, "decoder_labels"),
        ({"encoder_input_ids": given["encoder_input_ids"][0]}, "encoder_input_ids"),
        ({"encoder_attention_mask": given["encoder_attention_mask"].flip(1)}, "encoder_attention_mask"),
        ({"decoder_attention_mask": given["encoder_attention_mask"]}, "decoder_attention_mask"),
        ({"decoder_attention_mask": None}, "decoder_attention_mask"),
    ]:
        with pytest.raises(retromae.InvalidArgument, match=name):
            model(**{**given, **changes})
