"""The operations in models that two processes train: DistributedDataParallel, with and without a compiler, and fully_shard."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed.fsdp
from torch_model import batch_of
from torch_ranks import LENGTHS, RANKS, model_of, train


@pytest.fixture(scope="module")
def alone():
    """Parameters after the same steps in one process."""
    model = model_of()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    train(lambda batch: model(batch) / RANKS, batch_of(LENGTHS, "cpu"), optimizer)
    return before, {name: parameter.detach() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("way", ("ddp", "compiled-ddp", "fully_shard"))
def test_two_ranks_are_one_process(alone, tmp_path, way):
    if way == "fully_shard" and not hasattr(torch.distributed.fsdp, "fully_shard"):
        pytest.skip("ignored: this PyTorch shards on GPUs alone")
    before, expected = alone
    script = Path(__file__).with_name("torch_ranks.py")
    meeting = tmp_path / "meeting"
    paths = os.pathsep.join(path for path in sys.path if path)
    ranks = [
        subprocess.Popen(
            [sys.executable, script, way, str(rank), meeting],
            env=os.environ | {"PYTHONPATH": paths},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(RANKS)
    ]
    for rank in ranks:
        _, text = rank.communicate(timeout=300)
        assert rank.returncode == 0, text[-3000:]
    found = torch.load(meeting.with_suffix(".parameters"), weights_only=True)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        # The steps are what is compared; sums over the batch are in another order.
        change, other = value - before[name], found[name] - before[name]
        bound = 1e-4 * change.abs().max().item()
        assert change.abs().max() > 0, name
        torch.testing.assert_close(other, change, rtol=0, atol=bound)
