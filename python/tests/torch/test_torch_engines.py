"""The operations under autocast, activation checkpointing and CUDA graphs."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint
from torch_model import HEADS, VOCAB, Model, assert_same, batch_of, step

from retromae.torch import attention, dropout_add_layer_norm, linear_cross_entropy, prefix_sums

LENGTHS = (5, 17, 33, 1)


def test_autocast_is_a_cast(device):
    """The same as casting the arguments by hand; gradients come back in the dtypes of the parameters."""
    torch.manual_seed(0)
    leaves = [torch.randn(22, 3, HEADS, 32), torch.randn(22, 64), torch.randn(VOCAB, 64), torch.ones(64)]
    leaves = [leaf.to(device).requires_grad_() for leaf in leaves]
    cu = prefix_sums((5, 17), device)
    targets = torch.randint(0, VOCAB, (22,), device=device)

    def run(projection, residual, weight, gamma):
        found = attention(*projection.unbind(1), cu, 17).flatten(1)
        hidden = dropout_add_layer_norm(found, gamma, gamma, residual)
        loss = linear_cross_entropy(hidden, weight, targets)
        assert found.dtype is hidden.dtype is torch.bfloat16
        assert loss.dtype is torch.float32
        return loss, *torch.autograd.grad(loss, leaves)

    with torch.autocast(device, dtype=torch.bfloat16):
        automatic = run(*leaves)
    by_hand = run(*(leaf.bfloat16() for leaf in leaves[:3]), leaves[3])
    for first, second in zip(automatic, by_hand, strict=True):
        assert first.dtype is torch.float32
        assert torch.equal(first, second)


def test_a_model_under_autocast(device):
    torch.manual_seed(0)
    model = Model().to(device)
    batch = batch_of(LENGTHS, device)
    exact = step(model, batch)
    with torch.autocast(device, dtype=torch.bfloat16):
        torch.manual_seed(0)
        model.zero_grad()
        loss = model(batch)
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    # bf16 has 8 bits; a few roundings follow one another.
    assert_same((loss.detach(), gradients), exact, tolerance=2**-4)


@pytest.mark.parametrize("use_reentrant", (False, True))
def test_checkpointing_replays_the_same_draws(device, use_reentrant):
    torch.manual_seed(0)
    model = Model(dropout=0.25).to(device)
    batch = batch_of(LENGTHS, device)
    plain = step(model, batch)
    assert not torch.equal(plain[0], step(model, batch, seed=1)[0])

    class Checkpointed(torch.nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.layer = layer

        def forward(self, *arguments):
            return checkpoint(self.layer, *arguments, use_reentrant=use_reentrant)

    names = dict(model.named_parameters()).keys()
    model.encoder, model.decoder = Checkpointed(model.encoder), Checkpointed(model.decoder)
    loss, gradients = step(model, batch)
    gradients = {name.replace(".layer.", "."): gradient for name, gradient in gradients.items()}
    assert gradients.keys() == names
    assert_same((loss, gradients), plain)


def test_no_gradient_without_grad_mode(device):
    model = Model(dropout=0.25).to(device)
    batch = batch_of(LENGTHS, device)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert not model(batch).requires_grad


def test_a_cuda_graph(gpu):
    """Each replay draws dropout anew, and computes the gradients of what its inputs then hold."""
    torch.manual_seed(0)
    model = Model(dropout=0.25).to(gpu)
    batch = batch_of(LENGTHS, gpu)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            model.zero_grad(set_to_none=True)
            model(batch).backward()
    torch.cuda.current_stream().wait_stream(side)
    model.zero_grad(set_to_none=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = model(batch)
        loss.backward()
    losses = []
    for _ in range(3):
        graph.replay()
        losses.append(loss.item())
    assert len(set(losses)) == 3
    for layer in (model.encoder, model.decoder):
        layer.dropout = 0.0
    eager = step(model, batch)
    assert eager[0].isfinite()


def test_a_cuda_graph_without_dropout(gpu):
    """A replay is equal to the step without a graph."""
    torch.manual_seed(0)
    model = Model().to(gpu)
    batch = batch_of(LENGTHS, gpu)
    eager = step(model, batch)
    model.zero_grad(set_to_none=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = model(batch)
        loss.backward()
    graph.replay()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    # Sums of f32 that atomics add up.
    assert_same((loss.detach(), gradients), eager, tolerance=1e-4)


def test_inputs_that_no_backward_pass_reads_are_not_kept(device):
    """LayerNorm keeps the sum, not what was added; a head whose gradients are computed with the loss keeps none of its inputs."""
    rows, residual = (torch.randn(9, 64, device=device).requires_grad_() for _ in range(2))
    weight = torch.randn(VOCAB, 64, device=device).requires_grad_()
    gamma = torch.ones(64, device=device)
    targets = torch.zeros(9, dtype=torch.int32, device=device)
    kept = []

    def keep(tensor):
        kept.append(tensor.data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        normalized = dropout_add_layer_norm(rows, gamma, gamma, residual)
        loss = linear_cross_entropy(normalized, weight, targets, reduction="sum")
    loss.backward()
    assert kept
    assert not {tensor.data_ptr() for tensor in (rows, residual, normalized, weight)} & set(kept)
