"""RetroMAEForPretraining inside the engines that train it: transformers' Trainer, DDP, FSDP2, torch.compile."""

import tempfile

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

transformers = pytest.importorskip("transformers")

from pretraining_models import bert, examples, randomize, to, tokenizer  # noqa: E402

from retromae.torch import RetroMAECollator, RetroMAEForPretraining  # noqa: E402

SEED = 11
BATCHES = [(17, 33, 5), (40, 2, 9), (60, 70, 80), (90, 3, 20)]


def model(dropout=0.1, **options):
    made = RetroMAEForPretraining(bert(dropout=dropout), **options)
    randomize(made.c_head)
    return made


def batch(rank, **options):
    return RetroMAECollator(tokenizer(), max_seq_length=160, **options)(examples(BATCHES[rank], rank))


def loss(trained, given):
    torch.manual_seed(SEED)
    return trained(**given).loss


def full(gradient):
    return gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient


def train_rank(rank, file, engine, results):
    """The gradients of one of two ranks."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    across = engine == "ddp, across ranks"
    trained = model(dropout=0.0 if across else 0.1, bag_of_words_weight=0.1, across_ranks=across)
    if engine.startswith("ddp"):
        wrapped = DistributedDataParallel(trained)
    else:
        wrapped = shard(trained, checkpointing=engine == "fsdp2, checkpointing")
    loss(wrapped, batch(rank, bag_of_words=True)).backward()
    found = {name: full(parameter.grad) for name, parameter in trained.named_parameters()}
    if rank == 0:
        torch.save(found, results)
    dist.destroy_process_group()


def shard(trained, checkpointing):
    try:
        from torch.distributed.fsdp import fully_shard
    except ImportError:
        from torch.distributed._composable.fsdp import fully_shard
    from torch.distributed.device_mesh import init_device_mesh

    mesh = init_device_mesh("cpu", (2,))
    if checkpointing:
        trained.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    for layer in [*trained.lm.bert.encoder.layer, trained.c_head]:
        fully_shard(layer, mesh=mesh)
    return fully_shard(trained, mesh=mesh)


def gradients_of_two_ranks(engine):
    with tempfile.TemporaryDirectory() as directory:
        results = f"{directory}/gradients"
        arguments = (f"{directory}/ranks", engine, results)
        torch.multiprocessing.spawn(train_rank, arguments, nprocs=2)
        return torch.load(results, weights_only=True)


def test_two_ranks_compute_the_loss_of_all_labels():
    found = gradients_of_two_ranks("ddp, across ranks")
    trained = model(dropout=0.0, bag_of_words_weight=0.1)
    collator = RetroMAECollator(tokenizer(), max_seq_length=160, bag_of_words=True)
    loss(trained, collator(examples(BATCHES[0], 0) + examples(BATCHES[1], 1))).backward()
    for name, parameter in trained.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("engine", ["ddp", "fsdp2", "fsdp2, checkpointing"])
def test_two_ranks_give_the_gradients_of_one_process(engine):
    if engine != "ddp" and torch.__version__ < "2.6":
        pytest.skip("fully_shard needs a GPU before torch 2.6")
    found = gradients_of_two_ranks(engine)
    trained = model(bag_of_words_weight=0.1)
    for rank in range(2):
        (loss(trained, batch(rank, bag_of_words=True)) / 2).backward()
    for name, parameter in trained.named_parameters():
        # Sums of two in another order.
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("decoding", ["enhanced", "basic"])
def test_it_compiles_as_one_graph(device, decoding):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    trained = model(dropout=0.0, decoding=decoding, bag_of_words_weight=0.1).to(device)
    compiled = torch.compile(trained, backend="aot_eager", fullgraph=True)
    for rank in range(len(BATCHES)):
        given = to(batch(rank, bag_of_words=True), device)
        expected = loss(trained, given)
        trained.zero_grad()
        expected.backward()
        wanted = {name: parameter.grad.clone() for name, parameter in trained.named_parameters()}
        trained.zero_grad()
        found = loss(compiled, given)
        found.backward()
        assert found.item() == pytest.approx(expected.item(), rel=1e-5)
        for name, parameter in trained.named_parameters():
            torch.testing.assert_close(parameter.grad, wanted[name], rtol=1e-4, atol=1e-5, msg=name)
    # A size becomes a symbol when it is another than before.
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 3


def test_it_compiles_with_dropout_and_autocast(device):
    torch._dynamo.reset()
    trained = model(dropout=0.1).to(device)
    compiled = torch.compile(trained, backend="aot_eager", fullgraph=True)
    with torch.autocast(device, torch.bfloat16):
        first, second = (loss(compiled, to(batch(0), device)) for _ in range(2))
    first.backward()
    assert first.item() == second.item()
    assert all(torch.isfinite(parameter.grad).all() for parameter in trained.parameters())


def trainer(directory, steps, **options):
    pytest.importorskip("accelerate")
    arguments = transformers.TrainingArguments(
        directory,
        max_steps=steps,
        per_device_train_batch_size=4,
        learning_rate=2e-3,
        lr_scheduler_type="constant",
        logging_steps=1,
        report_to=[],
        remove_unused_columns=False,
        use_cpu=True,
        disable_tqdm=True,
        **options,
    )
    torch.manual_seed(0)
    trained = RetroMAEForPretraining(bert(hidden_dropout_prob=0.1, initializer_range=0.02))
    trained.apply(trained._init_weights)
    texts = [{"text": text} for text in ("the cat sat on the mat", "dog and cat", "a dog sat", "on the mat")]
    return transformers.Trainer(
        trained,
        arguments,
        train_dataset=texts,
        eval_dataset=texts,
        data_collator=RetroMAECollator(tokenizer()),
    )


def test_a_trainer_overfits(tmp_path):
    engine = trainer(tmp_path, 30, save_strategy="no")
    engine.train()
    losses = [entry["loss"] for entry in engine.state.log_history if "loss" in entry]
    assert len(losses) == 30 and all(0 < value < 100 for value in losses)
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_a_trainer_goes_on_from_a_checkpoint(tmp_path):
    options = {"gradient_checkpointing": True, "gradient_accumulation_steps": 2}
    whole = trainer(tmp_path / "whole", 4, save_strategy="no", **options)
    whole.train()
    first = trainer(tmp_path / "parts", 2, save_strategy="steps", save_steps=2, **options)
    first.train()
    checkpoint = tmp_path / "parts" / "checkpoint-2"
    assert (checkpoint / "encoder_model" / "config.json").exists()
    second = trainer(tmp_path / "parts", 4, save_strategy="no", **options)
    second.train(resume_from_checkpoint=str(checkpoint))
    for name, parameter in whole.model.named_parameters():
        torch.testing.assert_close(dict(second.model.named_parameters())[name], parameter, msg=name)


def test_a_trainer_evaluates(tmp_path):
    options = {"label_names": ["packed"], "prediction_loss_only": True, "eval_strategy": "no"}
    engine = trainer(tmp_path, 1, save_strategy="no", **options)
    assert 0 < engine.evaluate()["eval_loss"] < 100
