"""Mixed tables of word embeddings: rows in four tiers, the more useful a piece the more bytes.

Rows of tier 0 are 4-bit blocks (`polyrank.checkpoint.formats.int4`). A row of tiers 1 to 3 is a
sum: one of 256 coarse rows, and codewords laid end to end, each one of 256 of its part of the row.
The native encoder reads all of it in place; `docs/reference/checkpoint-format.md` describes the
tensors for others.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyrank.checkpoint.formats.int4 import BLOCK_VALUES, unpack_int4
from polyrank.checkpoint.header import TensorInfo
from polyrank.checkpoint.weights import UINT8_DTYPES, Weights
from polyrank.errors import CheckpointError, CorruptWeightsError
from polyrank.types import Float16Array, Float32Array, UInt8Array

NUM_CODEWORDS = 256
CODED_TIERS = (1, 2, 3)
PLANES = 2  # bits of a tier's number
_WORD_BITS = 64  # planes are filled up to whole words
_ROWS_AT_ONCE = 8192

_SCALE, _TIERS, _COARSE = "_scale", "_tiers", "_coarse"
_CODES, _CODEBOOK = "_codes_{}", "_codebook_{}"


@dataclass(frozen=True, slots=True)
class CodedTier:
    """Rows of product codes.

    Attributes:
        codes: Number of the coarse row, then one code a part, shape (num_rows, 1 + num_parts).
        codebook: Codewords, shape (num_parts, 256, hidden_size / num_parts).
    """

    codes: UInt8Array
    codebook: Float16Array


@dataclass(frozen=True, slots=True)
class MixedTable:
    """A mixed table as it is stored.

    Attributes:
        num_rows: Rows of the table.
        blocks: 4-bit steps of the rows of tier 0, shape (rows of it, hidden_size / 2).
        scales: Scales of those blocks, shape (rows of it, hidden_size / 32).
        planes: Bit planes of the rows' tiers, the low bit first, bit ``i % 8`` of byte ``i // 8``
            for row i, shape (2, 8 * ceil(num_rows / 64)).
        coarse: Coarse rows, shape (256, hidden_size).
        coded: Tiers 1 to 3.
    """

    num_rows: int
    blocks: UInt8Array
    scales: Float16Array
    planes: UInt8Array
    coarse: Float16Array
    coded: tuple[CodedTier, CodedTier, CodedTier]

    @property
    def tiers(self) -> UInt8Array:
        """Tier of each row, shape (num_rows,), values 0 to 3."""
        bits = np.unpackbits(self.planes, axis=1, count=self.num_rows, bitorder="little")
        return bits[0] | bits[1] << np.uint8(1)

    def tensors(self, name: str) -> dict[str, NDArray[Any]]:
        """Return the arrays by the names that a file has for them, `name` being the weight's."""
        found: dict[str, NDArray[Any]] = {
            name: self.blocks,
            name + _SCALE: self.scales,
            name + _TIERS: self.planes,
            name + _COARSE: self.coarse,
        }
        for number, tier in zip(CODED_TIERS, self.coded, strict=True):
            found[name + _CODES.format(number)] = tier.codes
            found[name + _CODEBOOK.format(number)] = tier.codebook
        return found


def pack_tiers(tiers: UInt8Array) -> UInt8Array:
    """Return the bit planes of the rows' tiers.

    Args:
        tiers: Shape (num_rows,), values 0 to 3.

    Returns:
        Shape (2, 8 * ceil(num_rows / 64)).
    """
    bits = np.zeros((PLANES, _plane_bytes(len(tiers)) * 8), np.uint8)
    for plane in range(PLANES):
        bits[plane, : len(tiers)] = tiers >> np.uint8(plane) & 1
    return np.packbits(bits, axis=1, bitorder="little")


def unpack_mixed(table: MixedTable) -> Float32Array:
    """Return the values of a mixed table, shape (num_rows, hidden_size).

    Each is a float32 sum of two float16 values, or an exact product, so that all readers agree to
    the bit.
    """
    tiers = table.tiers
    values = np.empty((table.num_rows, table.coarse.shape[1]), np.float32)
    values[tiers == 0] = unpack_int4(table.blocks, table.scales)
    coarse = table.coarse.astype(np.float32)
    for number, tier in zip(CODED_TIERS, table.coded, strict=True):
        rows = np.flatnonzero(tiers == number)
        codebook = tier.codebook.astype(np.float32)
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            part = slice(start, start + _ROWS_AT_ONCE)
            values[rows[part]] = decode(tier.codes[part], coarse, codebook)
    return values


def decode(codes: UInt8Array, coarse: Float32Array, codebook: Float32Array) -> Float32Array:
    """Return coded rows.

    Args:
        codes: Shape (num_rows, 1 + num_parts).
        coarse: Shape (256, hidden_size).
        codebook: Shape (num_parts, 256, hidden_size / num_parts).

    Returns:
        Shape (num_rows, hidden_size).
    """
    words = codebook[np.arange(len(codebook)), codes[:, 1:]]
    return coarse[codes[:, 0]] + words.reshape(len(codes), coarse.shape[1])


def locate_mixed(
    name: str, stored: str, shape: tuple[int, ...], weights: Weights
) -> dict[str, TensorInfo]:
    """Return where the tensors of a mixed table lie, checked for shape and type.

    Args:
        name: Name of the weight without prefix.
        stored: Its name in the file.
        shape: Shape of the table, (num_rows, hidden_size).
        weights: The checkpoint's tensors.

    Returns:
        Places by name without prefix.

    Raises:
        MissingWeightError: If a tensor is absent.
        CorruptWeightsError: If one has another shape or type.
        CheckpointError: If rows are no whole 4-bit blocks.
    """
    num_rows, width = shape
    if width % BLOCK_VALUES:
        raise CheckpointError(
            f"{weights.folder} stores {stored!r} of shape {list(shape)} as a mixed table, whose "
            f"blocks need rows of a multiple of {BLOCK_VALUES} values. Quantise the checkpoint "
            "again."
        )
    places: dict[str, TensorInfo] = {}

    def take(suffix: str, dtypes: tuple[str, ...], shape: tuple[int, ...] | None) -> TensorInfo:
        info = places[name + suffix] = weights.info(stored + suffix, shape, dtypes)
        return info

    blocks = _length(take("", UINT8_DTYPES, None))
    take("", UINT8_DTYPES, (blocks, width // 2))
    take(_SCALE, ("F16",), (blocks, width // BLOCK_VALUES))
    take(_TIERS, UINT8_DTYPES, (PLANES, _plane_bytes(num_rows)))
    take(_COARSE, ("F16",), (NUM_CODEWORDS, width))
    for number in CODED_TIERS:
        parts = _length(take(_CODEBOOK.format(number), ("F16",), None))
        if not parts or width % parts:
            raise CorruptWeightsError(
                f"tensor {stored + _CODEBOOK.format(number)!r} in {weights.folder} parts rows of "
                f"{width} values into {parts}, which is no divisor. Quantise the checkpoint again."
            )
        take(_CODEBOOK.format(number), ("F16",), (parts, NUM_CODEWORDS, width // parts))
        rows = _length(take(_CODES.format(number), UINT8_DTYPES, None))
        take(_CODES.format(number), UINT8_DTYPES, (rows, 1 + parts))
    return places


def read_mixed(stored: str, num_rows: int, weights: Weights) -> MixedTable:
    """Return a mixed table as views of the mapped file.

    Args:
        stored: Name of the weight in the file; `locate_mixed` has checked its tensors.
        num_rows: Rows of the table.
        weights: The checkpoint's tensors.

    Returns:
        The table.

    Raises:
        CorruptWeightsError: If tiers have other numbers of rows than their planes say.
    """
    first, second, third = (
        CodedTier(
            weights.get_uint8(stored + _CODES.format(number)),
            weights.get(stored + _CODEBOOK.format(number)),
        )
        for number in CODED_TIERS
    )
    table = MixedTable(
        num_rows=num_rows,
        blocks=weights.get_uint8(stored),
        scales=weights.get(stored + _SCALE),
        planes=weights.get_uint8(stored + _TIERS),
        coarse=weights.get(stored + _COARSE),
        coded=(first, second, third),
    )
    said = np.bincount(table.tiers, minlength=1 + len(CODED_TIERS)).tolist()
    found = [len(table.blocks), *(len(tier.codes) for tier in table.coded)]
    if said != found:
        raise CorruptWeightsError(
            f"tensor {stored + _TIERS!r} in {weights.folder} puts {said} rows into the four tiers, "
            f"but they store {found}. Quantise the checkpoint again."
        )
    return table


def is_mixed(name: str, places: Mapping[str, TensorInfo]) -> bool:
    """Return whether a weight, named without prefix, is a mixed table."""
    return name + _TIERS in places


def _plane_bytes(num_rows: int) -> int:
    return -(-num_rows // _WORD_BITS) * _WORD_BITS // 8


def _length(info: TensorInfo) -> int:
    return info.shape[0] if info.shape else 0
