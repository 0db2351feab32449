"""Weights with fewer rows in the tables that have a row for each piece, all else bit for bit.

Tensors are copied from the mapped file block by block, never widened or gathered whole: the
memory taken does not grow with the checkpoint.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from polyrank._files import replacing
from polyrank.checkpoint.header import TensorInfo, read_header
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
_ALIGNMENT = 8  # of the header, as the format asks


def write_trimmed(weights: Weights, rows: Int64Array, vocab_size: int, path: Path) -> None:
    """Write the tensors of a checkpoint into one safetensors file.

    Args:
        weights: Tensors of the checkpoint, of one file or several.
        rows: Rows of the vocabulary's tables to keep, in their new order, shape (num_kept,).
        vocab_size: Rows that those tables have.
        path: The file.
    """
    infos = [info for file in weights.paths for info in read_header(file).values()]
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for info in infos:
        is_cut = _has_row_a_piece(info, vocab_size)
        size = info.size_bytes // vocab_size * len(rows) if is_cut else info.size_bytes
        shape = (len(rows), *info.shape[1:]) if is_cut else info.shape
        offsets = [end, end + size]
        header[info.name] = {"dtype": info.dtype, "shape": shape, "data_offsets": offsets}
        end += size
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % _ALIGNMENT)
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        for info in infos:
            file.writelines(
                _row_blocks(info, rows, vocab_size)
                if _has_row_a_piece(info, vocab_size)
                else _blocks(info)
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


def _blocks(info: TensorInfo) -> Iterator[bytes]:
    """Yield the bytes of a tensor."""
    with info.path.open("rb") as file:
        file.seek(info.offset_bytes)
        yield from _read(file, info.size_bytes)


def _read(file: IO[bytes], size: int) -> Iterator[bytes]:
    while size > 0 and (block := file.read(min(size, _BLOCK_BYTES))):
        size -= len(block)
        yield block
