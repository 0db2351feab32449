"""4-bit blocks of a table: 32 values of a row share a float16 scale, two values take a byte.

Byte j of a block's 16 holds value j in its low half and value j + 16 in its high half, as step
+ 8; a value is ``step * scale``, with steps from -8 to 7 and scales of either sign. Both kinds of
array are read in place by the native encoder; `docs/reference/checkpoint-format.md` describes
them for others.
"""

import numpy as np
from numpy.typing import NDArray

from polyrank.types import Float16Array, Float32Array, UInt8Array

BLOCK_VALUES = 32
LOWEST_STEP, HIGHEST_STEP = -8, 7
_HALF = BLOCK_VALUES // 2


def int4_shapes(shape: tuple[int, ...]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the shapes of the packed steps and of the scales of a table.

    Args:
        shape: Shape of the table; its rows hold whole blocks.

    Returns:
        (num_rows, num_columns / 2) and (num_rows, num_columns / 32).
    """
    num_rows, num_columns = shape
    return (num_rows, num_columns // 2), (num_rows, num_columns // BLOCK_VALUES)


def pack_int4(steps: NDArray[np.int8]) -> UInt8Array:
    """Return steps two to a byte.

    Args:
        steps: From -8 to 7, shape (num_rows, num_columns), num_columns a multiple of 32.

    Returns:
        Shape (num_rows, num_columns / 2).
    """
    halves = (steps - LOWEST_STEP).astype(np.uint8).reshape(-1, 2, _HALF)
    return (halves[:, 0] | halves[:, 1] << np.uint8(4)).reshape(int4_shapes(steps.shape)[0])


def unpack_int4(packed: UInt8Array, scales: Float16Array) -> Float32Array:
    """Return the table that packed steps and scales stand for.

    Args:
        packed: Shape (num_rows, num_columns / 2).
        scales: Shape (num_rows, num_columns / 32).

    Returns:
        Shape (num_rows, num_columns). Exact: float32 holds such products unrounded.
    """
    halves = packed.reshape(-1, 1, _HALF)
    values = np.empty((len(halves), 2, _HALF), np.float32)
    values[:, :1] = halves & 15
    values[:, 1:] = halves >> 4
    values += LOWEST_STEP
    values *= scales.astype(np.float32).reshape(-1, 1, 1)
    return values.reshape(len(packed), 2 * packed.shape[1])
