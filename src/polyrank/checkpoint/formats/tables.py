"""Rows of a quantised table of word embeddings, dequantised when they are looked up.

A table of 250,000 rows takes twenty times the memory in float32 that it takes in a mixed folder,
and a batch needs a few hundred of its rows. Encoders that cannot read such tables in place look
rows up here; the values are those of `Checkpoint.body_float32` to the bit.
"""

from collections.abc import Callable

import numpy as np

from polyrank.checkpoint.formats.int4 import unpack_int4
from polyrank.checkpoint.formats.mixed import CODED_TIERS, MixedTable, decode
from polyrank.checkpoint.formats.panels import Int8Array
from polyrank.types import Float16Array, Float32Array, Int32Array, UInt8Array

RowLookup = Callable[[Int32Array], Float32Array]
"""From row numbers, shape (num_rows,), to float32 rows, shape (num_rows, hidden_size)."""


def int8_rows(steps: Int8Array, scales: Float32Array) -> RowLookup:
    """Return the lookup in a table of int8 rows.

    Args:
        steps: Shape (num_rows, hidden_size).
        scales: Value of a step of each row, shape (num_rows,).

    Returns:
        The lookup.
    """
    return lambda ids: steps[ids] * scales[ids, None]


def int4_rows(packed: UInt8Array, scales: Float16Array) -> RowLookup:
    """Return the lookup in a table of 4-bit blocks.

    Args:
        packed: Shape (num_rows, hidden_size / 2).
        scales: Shape (num_rows, hidden_size / 32).

    Returns:
        The lookup.
    """
    return lambda ids: unpack_int4(packed[ids], scales[ids])


def mixed_rows(table: MixedTable) -> RowLookup:
    """Return the lookup in a mixed table.

    Args:
        table: The table; its arrays stay where they are.

    Returns:
        The lookup, which holds five bytes for each row and the codebooks in float32.
    """
    tiers = table.tiers
    places = np.empty(table.num_rows, np.int32)  # of each row within its tier
    for number in (0, *CODED_TIERS):
        rows = np.flatnonzero(tiers == number)
        places[rows] = np.arange(len(rows), dtype=np.int32)
    coarse = table.coarse.astype(np.float32)
    codebooks = [tier.codebook.astype(np.float32) for tier in table.coded]

    def look_up(ids: Int32Array) -> Float32Array:
        rows, back = np.unique(ids, return_inverse=True)
        values = np.empty((len(rows), coarse.shape[1]), np.float32)
        found = tiers[rows]
        first = found == 0
        here = places[rows[first]]
        values[first] = unpack_int4(table.blocks[here], table.scales[here])
        for number, tier, codebook in zip(CODED_TIERS, table.coded, codebooks, strict=True):
            coded = found == number
            values[coded] = decode(tier.codes[places[rows[coded]]], coarse, codebook)
        return values[back]

    return look_up
