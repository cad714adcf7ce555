"""Trains a small RetroMAE on real text, and leaves a model that transformers opens.

    OMP_WAIT_POLICY=PASSIVE python examples/python/pretrain.py [output] [folder of .txt files]

Without a folder the text is the reference of the Python language that comes with Python. Needs torch, transformers and tqdm. Without
a GPU it takes about a minute, if PyTorch's idle threads leave the cores to others: hence the variable.
"""

import sys
from pathlib import Path
from pydoc_data.topics import topics

import torch
from retromae.torch import RetroMAECollator, RetroMAEForPretraining
from tokenizers import BertWordPieceTokenizer
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

MAX_LENGTH, BATCH_SIZE, EPOCHS, LEARNING_RATE = 64, 32, 3, 1e-3


def read_texts(folder: str | None) -> list[str]:
    """Paragraphs of at least eight words."""
    files = sorted(Path(folder).rglob("*.txt")) if folder else []
    texts = [file.read_text(errors="replace") for file in files] if folder else topics.values()
    paragraphs = (" ".join(part.split()) for text in texts for part in text.split("\n\n"))
    return sorted({paragraph for paragraph in paragraphs if paragraph.count(" ") >= 7})


def make_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """A WordPiece vocabulary of these texts."""
    trained = BertWordPieceTokenizer()
    trained.train_from_iterator(texts, vocab_size=3000, show_progress=False)
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    return PreTrainedTokenizerFast(tokenizer_object=trained._tokenizer, **names)


def make_model(vocab_size: int) -> RetroMAEForPretraining:
    sizes = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512}
    config = BertConfig(vocab_size=vocab_size, max_position_embeddings=MAX_LENGTH, **sizes)
    return RetroMAEForPretraining(BertForMaskedLM(config))


def train(model: torch.nn.Module, batches: DataLoader, device: str, show: bool = True) -> None:
    steps = EPOCHS * len(batches)
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, steps, pct_start=0.1)
    with tqdm(total=steps, unit="step", disable=not show) as progress:
        for epoch in range(EPOCHS):
            if hasattr(batches.sampler, "set_epoch"):
                batches.sampler.set_epoch(epoch)
            for batch in batches:
                packed = {k: v.to(device) if torch.is_tensor(v) else v for k, v in batch["packed"].items()}
                output = model(packed=packed)
                output.loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
                progress.set_postfix(encoder=float(output.encoder_loss), decoder=float(output.decoder_loss))
                progress.update()


def main(output: str = "retromae-model", folder: str | None = None) -> None:
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    texts = read_texts(folder)
    tokenizer = make_tokenizer(texts)
    model = make_model(len(tokenizer)).to(device)
    train(
        model, DataLoader(texts, BATCH_SIZE, True, collate_fn=RetroMAECollator(tokenizer, MAX_LENGTH)), device
    )
    model.save_pretrained(output)
    tokenizer.save_pretrained(f"{output}/encoder_model")
    print(f"BertForMaskedLM.from_pretrained('{output}/encoder_model') opens it")


if __name__ == "__main__":
    main(*sys.argv[1:])
