"""The smallest folders that polyrank reads, of random weights, written without torch."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from polyrank.checkpoint.body import tensor_shapes
from polyrank.checkpoint.reader import read_checkpoint
from polyrank.checkpoint.spec import BodySpec
from polyrank.compress.quantize.writing import write_int8
from polyrank.compress.vocabulary.table import compress_rows

NUM_WORDS, WIDTH = 24, 32
WORDS = "embeddings.word_embeddings.weight"
BODY = BodySpec(
    model_type="bert",
    hidden_size=WIDTH,
    num_layers=1,
    num_heads=2,
    intermediate_size=WIDTH,
    vocab_size=NUM_WORDS,
    num_positions=8,
    position_offset=0,
    type_vocab_size=2,
    pad_token_id=0,
    activation="gelu",
    layer_norm_eps=1e-12,
    prefix="",
)
CONFIG = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "hidden_size": WIDTH,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": WIDTH,
    "vocab_size": NUM_WORDS,
    "max_position_embeddings": BODY.num_positions,
    "type_vocab_size": 2,
    "pad_token_id": 0,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
}
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


def tokenizer() -> dict[str, object]:
    letters = [chr(ord("a") + i) for i in range(NUM_WORDS - len(SPECIAL))]
    vocab = {name: number for number, name in enumerate([*SPECIAL, *letters])}
    added = [
        {
            "id": number,
            "content": name,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for number, name in enumerate(SPECIAL)
    ]
    return {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "",
            "max_input_chars_per_word": 100,
            "vocab": vocab,
        },
    }


def make_float32(folder: Path) -> None:
    folder.mkdir()
    generator = np.random.default_rng(0)
    tensors = {
        name: generator.normal(0, 0.3, shape).astype(np.float32)
        for name, shape in tensor_shapes(BODY).items()
    }
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer()))


def make_compressed(folder: Path, *, linears: str, embeddings: str) -> None:
    source = folder.with_name("source")
    make_float32(source)
    folder.mkdir()
    widths = np.ones((BODY.num_layers, 4, WIDTH), np.float32)
    opened = read_checkpoint(source)
    write_int8(opened, widths, folder, linears=linears, embeddings=embeddings)  # type: ignore[arg-type]


def make_table(folder: Path) -> None:
    """Write the tensors of a mixed table alone."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    rows = generator.normal(0, 0.3, (NUM_WORDS, WIDTH)).astype(np.float32)
    tiers = (np.arange(NUM_WORDS) % 4).astype(np.uint8)
    save_file(compress_rows(rows, tiers).tensors(WORDS), folder / "model.safetensors")


MAKERS: dict[str, Callable[[Path], None]] = {
    "float32": make_float32,
    "int8": partial(make_compressed, linears="int8", embeddings="int8"),
    "int4": partial(make_compressed, linears="int4", embeddings="int4"),
    "table": make_table,
}
