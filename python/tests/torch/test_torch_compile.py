"""The operations under torch.compile: one graph, equal to the model without it."""

import pytest
import torch
from torch_model import Model, assert_same, batch_of, step

from retromae.torch import attention, linear_cross_entropy, prefix_sums

# None of four sentences: a size that is equal to that of the random state would be taken for it.
BATCHES = ((5, 17, 33, 1, 6), (64, 9, 2), (12, 7, 40, 1, 2, 3))


@pytest.mark.parametrize("dynamic", (False, True), ids=("static", "dynamic"))
@pytest.mark.parametrize("backend", ("aot_eager", "inductor"))
def test_one_graph(device, backend, dynamic):
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = Model().to(device)
    compiled = torch.compile(model, backend=backend, fullgraph=True, dynamic=dynamic)
    for lengths in BATCHES if dynamic else BATCHES[:1]:
        batch = batch_of(lengths, device)
        expected = step(model, batch)
        loss, gradients = step(compiled, batch)
        gradients = {name.removeprefix("_orig_mod."): gradient for name, gradient in gradients.items()}
        # A compiler sums in another order.
        assert_same((loss, gradients), expected, tolerance=0 if backend == "aot_eager" else 1e-5)


def test_sizes_are_symbols(device):
    """Batches of other lengths need no other graph."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = Model(dropout=0.25).to(device)
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    compiled = torch.compile(model, backend=backend, fullgraph=True, dynamic=True)
    counts = set()
    for lengths in BATCHES:
        loss, _ = step(compiled, batch_of(lengths, device))
        assert loss.isfinite()
        counts.add(len(graphs))
    assert len(counts) == 1 and counts != {0}


@pytest.mark.parametrize("backend", ("aot_eager", "inductor"))
def test_dropout_and_autocast(device, backend):
    """With the same draws (inductor's generator is its own: those of a seed are held against themselves)."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = Model(dropout=0.25).to(device)
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    batch = batch_of(BATCHES[0], device)
    with torch.autocast(device, dtype=torch.bfloat16):
        loss, gradients = step(compiled, batch)
        # Gradients of rows of an embedding are added in any order.
        assert_same((loss, gradients), step(compiled, batch), tolerance=1e-5)
        assert not torch.equal(loss, step(compiled, batch, seed=1)[0])
        if backend == "aot_eager":
            gradients = {name.removeprefix("_orig_mod."): gradient for name, gradient in gradients.items()}
            assert_same((loss, gradients), step(model, batch))


def test_sizes_without_a_value(device):
    """Rows that a condition chooses, and a longest sequence that the device knows."""
    torch._dynamo.reset()
    weight = torch.randn(50, 64, device=device).requires_grad_()
    hidden = torch.randn(20, 64, device=device).requires_grad_()
    targets = torch.randint(0, 50, (20,), device=device)
    targets[::3] = -100
    cu = prefix_sums((5, 15), device)

    def run(hidden, targets):
        chosen = targets != -100
        rows = hidden.view(20, 2, 32)
        found = attention(rows, rows, rows, cu, cu.diff().max().item()).flatten(1)
        return linear_cross_entropy(found[chosen], weight, targets[chosen])

    settings = {"capture_dynamic_output_shape_ops": True, "capture_scalar_outputs": True}
    with torch._dynamo.config.patch(settings):
        loss = torch.compile(run, fullgraph=True, backend="aot_eager")(hidden, targets)
    expected = run(hidden, targets)
    assert torch.equal(loss, expected)
    gradients = [torch.autograd.grad(value, (hidden, weight)) for value in (loss, expected)]
    for gradient, other in zip(*gradients, strict=True):
        torch.testing.assert_close(gradient, other)
