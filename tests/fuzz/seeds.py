"""Small seeded folders of every kind that polyrank reads, to be mutated.

python -m tests.fuzz.seeds FOLDER
"""

import shutil
import sys
from pathlib import Path
from unittest.mock import patch

import numpy as np
from transformers import AutoModelForSequenceClassification

from polyrank.checkpoint.reader import Checkpoint, read_checkpoint
from polyrank.compress.quantize.writing import write_int8
from polyrank.compress.vocabulary.table import compress_rows
from polyrank.config import EngineConfig
from polyrank.encoder.native import NativeEncoder
from polyrank.encoder.smoothing import random_pieces
from tests import checkpoints

NAMES = {
    "xlm-roberta-reranker": "bge-reranker-base",
    "bert-reranker": "bert-reranker",
    "classifier": "three-way-classifier",
    "embedder": "multilingual-e5-small",
    "dense-embedder": "dense-embedder",
}
WORDS = "embeddings.word_embeddings.weight"


def make_seeds(parent: Path) -> None:
    """Write a folder of each kind that `tests.fuzz.attack.TASKS` names, named by it."""
    parent.mkdir(parents=True)
    with patch.dict(checkpoints.SIZES, num_hidden_layers=1):  # thousands of them will be loaded
        for kind, name in NAMES.items():
            checkpoints.make(name, parent / "made").rename(parent / kind)
    shutil.copytree(parent / "embedder", parent / "late-interaction")
    checkpoints.late_interaction(parent / "late-interaction")
    shutil.copytree(parent / "xlm-roberta-reranker", parent / "sharded")
    whole = AutoModelForSequenceClassification.from_pretrained(parent / "sharded")
    (parent / "sharded" / "model.safetensors").unlink()
    whole.save_pretrained(parent / "sharded", max_shard_size="200KB")
    quantise(parent / "xlm-roberta-reranker", parent / "int8", is_tokenizer_compressed=True)
    quantise(parent / "embedder", parent / "int4", linears="int4", embeddings="int4")
    quantise(parent / "embedder", parent / "mixed", embeddings="mixed")
    quantise(parent / "late-interaction", parent / "mixed-late-interaction", embeddings="mixed")
    shutil.rmtree(parent / "made")


def quantise(source: Path, folder: Path, embeddings: str = "int8", **kinds: object) -> None:
    opened = read_checkpoint(source)
    encoder = NativeEncoder(opened, EngineConfig("native", compute_dtype="float32"))
    widths = encoder.measure_inputs(random_pieces(opened.spec.body))
    mixed = mixed_table(opened) if embeddings == "mixed" else None
    folder.mkdir()
    write_int8(opened, widths, folder, embeddings=embeddings, mixed=mixed, **kinds)  # type: ignore[arg-type]


def mixed_table(opened: Checkpoint):
    exact = opened.body_float32(WORDS)
    tiers = np.random.default_rng(1).integers(0, 4, len(exact)).astype(np.uint8)
    return compress_rows(exact, tiers)


if __name__ == "__main__":
    make_seeds(Path(sys.argv[1]))
