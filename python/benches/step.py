"""Times a step of RetroMAE, forward and backward pass: with the operations of this library on packed sentences, and as transformers
computes it on padded ones with dense masks. Prints JSON.

    python python/benches/step.py --device cuda --size base --batch 32 --length 512
    python python/benches/step.py --device cpu

Both sides run in turn on the same sentences and masks, of lengths between a quarter of --length and all of it. Masks are drawn within
the step of this library; the padded side finds them made.
"""

import argparse
import copy
import json
import statistics
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from transformers import BertConfig, BertForMaskedLM

from retromae.torch import RetroMAECollator, RetroMAEForPretraining

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "torch"))
import pretraining_models  # noqa: E402

SIZES = {
    "tiny": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 256},
    "small": {
        "hidden_size": 384,
        "num_hidden_layers": 6,
        "num_attention_heads": 12,
        "intermediate_size": 1536,
    },
    "base": {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
    },
}


# Steps begin with it, so that both sides have the same masks and, without dropout, losses.
SEED = 1


class PaddedRetroMAE(nn.Module):
    """RetroMAE out of the modules of transformers, on padded sentences."""

    def __init__(self, bert: BertForMaskedLM, decoder: nn.Module):
        super().__init__()
        self.lm = bert
        self.c_head = decoder

    def forward(
        self,
        encoder_input_ids,
        encoder_attention_mask,
        encoder_labels,
        decoder_input_ids,
        decoder_attention_mask,
        decoder_labels,
    ):
        encoded = self.lm(
            encoder_input_ids, encoder_attention_mask, labels=encoder_labels, output_hidden_states=True
        )
        sentence = encoded.hidden_states[-1][:, :1]
        embeddings = self.lm.bert.embeddings
        content = torch.cat([sentence, embeddings(decoder_input_ids)[:, 1:]], 1)
        query = embeddings(inputs_embeds=sentence.expand_as(content))
        hidden = self.decode(query, content, decoder_attention_mask[:, None] != 0)
        scores = self.lm.cls(hidden)
        return encoded.loss + F.cross_entropy(scores.flatten(0, 1), decoder_labels.flatten())

    def decode(self, query, content, visible):
        layer, attend = self.c_head, self.c_head.attention.self

        def heads(x):
            return x.unflatten(-1, (attend.num_attention_heads, -1)).transpose(1, 2)

        # As a large negative number, which leaves a row that sees nothing finite.
        bias = torch.where(visible, 0.0, torch.finfo(query.dtype).min).to(query.dtype)
        query_heads = heads(attend.query(query))
        context = F.scaled_dot_product_attention(
            query_heads,
            heads(attend.key(content)),
            heads(attend.value(content)),
            attn_mask=bias.to(query_heads.dtype),
            dropout_p=attend.dropout.p if self.training else 0.0,
        )
        hidden = layer.attention.output(context.transpose(1, 2).flatten(2), query)
        return layer.output(layer.intermediate(hidden), hidden)


def prepare(options):
    """Both models with the same parameters, and their batches with the same masks."""
    torch.manual_seed(0)
    length = options.length
    config = BertConfig(
        vocab_size=options.vocab_size,
        max_position_embeddings=max(512, length),
        hidden_dropout_prob=options.dropout,
        attention_probs_dropout_prob=options.dropout,
        **SIZES[options.size],
    )
    bert = BertForMaskedLM(config)
    plain = copy.deepcopy(bert)
    model = RetroMAEForPretraining(bert)
    padded_model = PaddedRetroMAE(plain, copy.deepcopy(model.c_head))
    lengths = torch.randint(max(3, length // 4), length + 1, (options.batch,)).tolist()
    # The ids are those of a small vocabulary, the logits of the whole one.
    collator = RetroMAECollator(pretraining_models.tokenizer(), max_seq_length=length)
    batch = collator(pretraining_models.examples(lengths))
    model.to(options.device)
    padded_model.to(options.device)
    moved = pretraining_models.to(batch, options.device)
    torch.manual_seed(SEED)
    rng = torch.randint(-(2**31), 2**31, (4,), dtype=torch.int32, device=options.device)
    padded = pretraining_models.padded(model._draw(moved["packed"], rng), batch, config, options.device)
    padded.pop("bag_word_weight")
    return (model, moved), (padded_model, padded), sum(lengths)


def time_step(model, batch, options):
    """Milliseconds of a step, and its loss."""
    cuda = options.device == "cuda"
    torch.manual_seed(SEED)
    if cuda:
        events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
        events[0].record()
    start = time.perf_counter()
    with torch.autocast(options.device, torch.bfloat16, enabled=options.dtype == "bfloat16"):
        output = model(**batch)
    loss = output if torch.is_tensor(output) else output.loss
    loss.backward()
    if cuda:
        events[1].record()
        torch.cuda.synchronize()
        elapsed = events[0].elapsed_time(events[1])
    else:
        elapsed = 1e3 * (time.perf_counter() - start)
    for parameter in model.parameters():
        parameter.grad = None
    return elapsed, loss.item()


def measure(sides, tokens, options):
    """Steps of all sides in turn; what each took."""
    times = {name: [] for name in sides}
    losses, peaks = {}, {}
    for step in range(options.warmup + options.steps):
        for name, (model, batch) in sides.items():
            if options.device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            elapsed, losses[name] = time_step(model, batch, options)
            if step >= options.warmup:
                times[name].append(elapsed)
            if options.device == "cuda":
                peaks[name] = torch.cuda.max_memory_allocated()
    return {
        name: {
            "median_ms": statistics.median(taken),
            "least_ms": min(taken),
            "tokens_per_s": 1e3 * tokens / statistics.median(taken),
            "loss": losses[name],
            "peak_bytes": peaks.get(name),
        }
        for name, taken in times.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--vocab-size", type=int, default=None, help="default: 30522, on a CPU 1000")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument(
        "--dtype", choices=["float32", "bfloat16"], default=None, help="bfloat16: by autocast"
    )
    parser.add_argument("--no-compile", action="store_true", help="leaves the compiled sides out")
    parser.add_argument("--warmup", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    cpu = options.device == "cpu"
    options.vocab_size = options.vocab_size or (1000 if cpu else 30522)
    options.dtype = options.dtype or ("float32" if cpu else "bfloat16")
    packed, padded, tokens = prepare(options)
    sides = {"retromae": packed, "transformers": padded}
    if not options.no_compile:
        for name, (model, batch) in list(sides.items()):
            sides[f"{name}, compiled"] = (torch.compile(model), batch)
    result = {
        **vars(options),
        "torch": torch.__version__,
        "gpu": None if cpu else torch.cuda.get_device_name(),
        "tokens": tokens,
        "padded_tokens": padded[1]["encoder_input_ids"].numel(),
        "sides": measure(sides, tokens, options),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
