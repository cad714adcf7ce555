"""Wrong arguments: exceptions that name them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed.tensor

import retromae
from retromae import torch as operations
from retromae.torch import Mask, attention, draw_masks, dropout_add_layer_norm, linear_cross_entropy

TOKENS, HEADS, DIM, COLUMNS = 5, 2, 32, 64


def attend(**changed):
    query = torch.randn(TOKENS, HEADS, DIM)
    arguments = {"query": query, "key": query, "value": query, "cu_seqlens": operations.prefix_sums([TOKENS])}
    return attention(**(arguments | {"max_seqlen": TOKENS} | changed))


def loss(**changed):
    matrix = torch.randn(TOKENS, COLUMNS)
    arguments = {"hidden": matrix, "weight": matrix, "targets": torch.zeros(TOKENS, dtype=torch.int64)}
    return linear_cross_entropy(**(arguments | changed))


def normalize(**changed):
    vector = torch.ones(COLUMNS)
    return dropout_add_layer_norm(
        **({"input": torch.randn(TOKENS, COLUMNS), "gamma": vector, "beta": vector} | changed)
    )


def qkv(dtype=torch.float32):
    return torch.randn(TOKENS, HEADS, DIM).to(dtype)


def words(count=4):
    return torch.zeros(count, dtype=torch.int32)


def matrix(*shape):
    return torch.randn(*shape)


# Call, argument, its value, and the text of the exception.
CASES = (
    (attend, "query", qkv().tolist(), "query is a list; it should be a tensor"),
    (attend, "query", qkv().to("meta"), "query is on device meta"),
    (attend, "value", qkv().to("meta"), "value is on device meta; it should be on cpu"),
    (attend, "key", qkv().to_sparse(), "key is of layout torch.sparse_coo"),
    (attend, "query", torch._neg_view(qkv()), "query is a view that is negated"),
    (attend, "value", qkv(torch.bfloat16), "value is of dtype bfloat16; it should be float32"),
    (attend, "key", qkv(torch.float64), "key is of dtype float64; it should be float32 or"),
    (attend, "value", qkv().mT.contiguous().mT, "value is of strides"),
    (attend, "value", qkv()[:, :, :16], r"value is of shape \[5, 2, 16\]; it should be \[5, 2, 32\]"),
    (attend, "cu_seqlens", torch.tensor([0, 5]), "cu_seqlens is of dtype int64; it should be int32"),
    (attend, "cu_seqlens", None, "cu_seqlens is a NoneType"),
    (attend, "max_seqlen", 5.5, "max_seqlen is 5.5; it should be an integer"),
    (attend, "max_seqlen", -1, "max_seqlen is -1"),
    (attend, "mask", True, "mask is a bool; it should be a retromae.Mask"),
    (attend, "mask", Mask.visible(words(), words(3)), r"mask.offsets is of shape \[3\]; it should be \[2\]"),
    (attend, "mask", Mask.pool(words(), words(2), words(TOKENS)), "mask.rows is of dtype int32"),
    (attend, "mask", Mask.permutation(words().short()), r"mask.order is of shape \[4\]; it should be \[5\]"),
    (attend, "queries", (1, 2), "queries is a tuple; it should be a retromae.Queries"),
    (attend, "scale", "1", "scale is '1'; it should be a number"),
    (attend, "dropout_p", 1.0, r"dropout_p is 1.0; it should be a number in \[0, 1\)"),
    (loss, "hidden", matrix(TOKENS, 2 * COLUMNS)[:, ::2], "hidden is not contiguous"),
    (loss, "weight", matrix(7, 32), r"weight is of shape \[7, 32\]"),
    (loss, "targets", torch.zeros(TOKENS), "targets is of dtype float32; it should be int32"),
    (loss, "targets", words(), r"targets is of shape \[4\]; it should be \[5\]"),
    (loss, "row_weights", torch.ones(TOKENS, requires_grad=True), "row_weights is a tensor that requires a"),
    (loss, "reduction", "average", "reduction is 'average'; it should be 'mean', 'sum' or 'none'"),
    (loss, "ignore_index", 2**40, "ignore_index is 1099511627776"),
    (loss, "label_smoothing", 2.0, "label_smoothing is 2"),
    (loss, "fused", True, "algorithm is Fused"),
    (
        normalize,
        "input",
        matrix(2, 3, COLUMNS),
        r"input is of shape \[2, 3, 64\]; it should be \[rows, columns\]",
    ),
    (normalize, "gamma", matrix(32), r"gamma is of shape \[32\]; it should be \[64\]"),
    (normalize, "residual", matrix(TOKENS, COLUMNS).bfloat16(), "residual is of dtype bfloat16"),
    (normalize, "beta", None, "beta is None"),
)


@pytest.mark.parametrize(
    "call, name, value, text", CASES, ids=[f"{c[0].__name__}-{c[3][:30]}" for c in CASES]
)
def test_the_exception_names_the_argument(call, name, value, text):
    call()
    with pytest.raises(retromae.Error, match=text):
        call(**{name: value})


def test_words_of_dropout():
    for rng, text in (
        (words().float(), "dropout.rng is of dtype float32"),
        (words(3), r"dropout.rng is of shape \[3\]; it should be \[4\]"),
        ([1, 2, 3, 4], "dropout_rng is a list"),
    ):
        with pytest.raises(retromae.InvalidArgument, match=text):
            attend(dropout_p=0.5, dropout_rng=rng)


def test_gradients_of_gradients_are_refused():
    for call, name in ((attend, "query"), (loss, "hidden"), (normalize, "input")):
        leaf = torch.randn(TOKENS, HEADS, DIM) if call is attend else torch.randn(TOKENS, COLUMNS)
        leaf.requires_grad_()
        (gradient,) = torch.autograd.grad(call(**{name: leaf}).square().sum(), leaf, create_graph=True)
        with pytest.raises(RuntimeError, match="differentiate twice"):
            gradient.sum().backward()


def test_tensors_of_two_devices(gpu):
    for name in ("query", "key", "value", "cu_seqlens"):
        other = operations.prefix_sums([TOKENS], gpu) if name == "cu_seqlens" else qkv().to(gpu)
        with pytest.raises(
            retromae.InvalidArgument, match="is on device c.*; it should be on c.*, as the others"
        ):
            attend(**{name: other})


def test_masks_of_nothing():
    with pytest.raises(retromae.InvalidArgument, match="pool is absent"):
        draw_masks(words(), operations.prefix_sums([4]), 4, words(), words(1), words(1))


def test_a_sharded_tensor():
    """The wrapper of a tensor's parts is no tensor of this process' memory."""
    distributed = torch.distributed.tensor
    if not hasattr(distributed, "distribute_tensor"):
        pytest.skip("ignored: this PyTorch has no public DTensor")
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        mesh = torch.distributed.init_device_mesh("cpu", (1,))
        sharded = distributed.distribute_tensor(torch.randn(TOKENS, COLUMNS), mesh)
        with pytest.raises(
            retromae.InvalidArgument, match="hidden is a DTensor; it should be a plain tensor"
        ):
            loss(hidden=sharded)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("seed", (1, 2))
def test_no_call_ends_the_interpreter(seed):
    """Thousands of calls with wrong arguments, in a process of their own."""
    script = Path(__file__).with_name("torch_fuzz.py")
    paths = os.pathsep.join(path for path in sys.path if path)
    run = subprocess.run(
        [sys.executable, script, str(seed), "2000"],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert " of 2000 refused" in run.stdout
