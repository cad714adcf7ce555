"""One of two processes that train a model together, each on half of a batch. Run with a way to do so, a rank, and a file to meet at;
the first rank writes what came out, for the file's directory."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch_model import Model, batch_of

RANKS = 2
LENGTHS = (5, 17, 33, 1, 9, 20)


def model_of():
    torch.manual_seed(0)
    return Model()


def train(model, batch, optimizer):
    """Two steps. The loss is a sum, and engines average over the ranks."""
    for _ in range(2):
        optimizer.zero_grad()
        (model(batch) * RANKS / 100).backward()
        optimizer.step()


def sharded(model):
    from torch.distributed.fsdp import fully_shard

    # A rank gathers the parameters that it holds a part of before a layer's turn.
    mesh = dist.init_device_mesh("cpu", (RANKS,))
    fully_shard(model.encoder, mesh=mesh)
    fully_shard(model.decoder, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def main(way, rank, meeting):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=RANKS)
    model = model_of()
    parameters = dict(model.named_parameters())
    if way == "ddp":
        engine = DistributedDataParallel(model)
    elif way == "compiled-ddp":
        engine = torch.compile(DistributedDataParallel(model), backend="aot_eager")
    else:
        engine = sharded(model)
        parameters = dict(model.named_parameters())
    share = len(LENGTHS) // RANKS
    first = rank * share
    batch = batch_of(LENGTHS[first : first + share], "cpu", first)
    train(engine, batch, torch.optim.SGD(engine.parameters(), lr=0.1))
    found = {}
    for name, parameter in parameters.items():
        value = parameter.detach()
        found[name] = value.full_tensor() if hasattr(value, "full_tensor") else value
    if rank == 0:
        torch.save(found, Path(meeting).with_suffix(".parameters"))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
