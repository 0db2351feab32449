"""Weights with fewer rows in the tables that have a row for each piece, all else bit for bit.

Tensors are copied from the mapped file block by block, never widened or gathered whole: the
memory taken does not grow with the checkpoint.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from polyrank.checkpoint.header import TensorInfo, read_header
from polyrank.checkpoint.saving import CopiedTensor, copy_tensors
from polyrank.checkpoint.weights import Weights
from polyrank.compress.vocabulary.pieces import Int64Array

# the embeddings, and the heads of masked language models, which some folders still hold
VOCABULARY_TENSORS = (
    "embeddings.word_embeddings.weight",
    "lm_head.decoder.weight",
    "lm_head.decoder.bias",
    "lm_head.bias",
    "cls.predictions.decoder.weight",
    "cls.predictions.decoder.bias",
    "cls.predictions.bias",
)
_BLOCK_BYTES = 1 << 22


def write_trimmed(weights: Weights, rows: Int64Array, vocab_size: int, path: Path) -> None:
    """Write the tensors of a checkpoint into one safetensors file.

    Args:
        weights: Tensors of the checkpoint, of one file or several.
        rows: Rows of the vocabulary's tables to keep, in their new order, shape (num_kept,).
        vocab_size: Rows that those tables have.
        path: The file.
    """
    infos = [info for file in weights.paths for info in read_header(file).values()]
    copy_tensors([_trimmed(info, rows, vocab_size) for info in infos], path)


def _trimmed(info: TensorInfo, rows: Int64Array, vocab_size: int) -> CopiedTensor:
    if not _has_row_a_piece(info, vocab_size):
        return CopiedTensor.of(info)
    return CopiedTensor(
        info.name,
        info.dtype,
        (len(rows), *info.shape[1:]),
        info.size_bytes // vocab_size * len(rows),
        partial(_row_blocks, info, rows, vocab_size),
    )


def _has_row_a_piece(info: TensorInfo, vocab_size: int) -> bool:
    is_named = any(
        info.name == name or info.name.endswith(f".{name}") for name in VOCABULARY_TENSORS
    )
    return is_named and info.shape[:1] == (vocab_size,)


def _row_blocks(info: TensorInfo, rows: Int64Array, vocab_size: int) -> Iterator[bytes]:
    """Yield the bytes of some rows."""
    width = info.size_bytes // vocab_size
    shape = (vocab_size, width)
    table = np.memmap(info.path, np.uint8, "r", info.offset_bytes, shape)
    step = max(1, _BLOCK_BYTES // max(1, width))
    for start in range(0, len(rows), step):
        yield table[rows[start : start + step]].tobytes()
