"""The training of pretrain.py on several processes, each with a part of the text: DistributedDataParallel under torchrun.

    torchrun --nproc-per-node 2 examples/python/pretrain_distributed.py [output] [folder of .txt files]

With a GPU for each process it runs on those, else on the CPU.
"""

import os
import sys

import torch
import torch.distributed as dist
from retromae.torch import RetroMAECollator
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler

from pretrain import BATCH_SIZE, MAX_LENGTH, make_model, make_tokenizer, read_texts, train


def main(output: str = "retromae-model", folder: str | None = None) -> None:
    local_rank, local_ranks = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    device = "cpu"
    if torch.cuda.device_count() >= local_ranks:
        device = f"cuda:{local_rank}"
        torch.cuda.set_device(device)
    dist.init_process_group("gloo" if device == "cpu" else "nccl")
    torch.manual_seed(0)
    texts = read_texts(folder)
    tokenizer = make_tokenizer(texts)
    model = make_model(len(tokenizer)).to(device)
    # A batch of the same size as in pretrain.py, but of all processes together.
    size = BATCH_SIZE // dist.get_world_size()
    collator = RetroMAECollator(tokenizer, MAX_LENGTH)
    batches = DataLoader(texts, size, sampler=DistributedSampler(texts), collate_fn=collator)
    first = dist.get_rank() == 0
    train(DistributedDataParallel(model), batches, device, show=first)
    if first:
        model.save_pretrained(output)
        tokenizer.save_pretrained(f"{output}/encoder_model")
        print(f"BertForMaskedLM.from_pretrained('{output}/encoder_model') opens it")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
