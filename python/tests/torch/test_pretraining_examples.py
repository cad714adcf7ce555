"""The examples of pre-training run, and leave a model that transformers opens."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

transformers = pytest.importorskip("transformers")
pytest.importorskip("tqdm")

EXAMPLES = Path(__file__).parents[3] / "examples" / "python"
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
TEXT = "The {} sat on the mat, and the {} went to look for something to eat."


@pytest.mark.skipif(not EXAMPLES.is_dir(), reason="the examples are not here")
@pytest.mark.parametrize(
    "command", [["pretrain.py"], [*TORCHRUN, "pretrain_distributed.py"]], ids=["one process", "two processes"]
)
def test_an_example(tmp_path, command):
    animals = ["cat", "dog", "cow", "hen", "fox", "owl"]
    texts = [TEXT.format(first, second) for first in animals for second in animals]
    (tmp_path / "animals.txt").write_text("\n\n".join(texts))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, *command, str(tmp_path / "model"), str(tmp_path)]
    subprocess.run(arguments, cwd=EXAMPLES, env=environment, check=True, timeout=300)
    encoder = tmp_path / "model" / "encoder_model"
    model = transformers.BertForMaskedLM.from_pretrained(encoder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(encoder)
    assert len(tokenizer) == model.config.vocab_size > 50
