"""Panels of int8 weights: the order in which all kernels read them, so that files need no packing.

A panel holds 16 outputs, four inputs of each side by side: element ``[p, d, j, i]`` is the weight
of output ``16 * p + j`` and input ``4 * d + i``. Inputs are filled up with zeros to a multiple of
64. `docs/reference/checkpoint-format.md` describes panels for readers without polyrank.
"""

import numpy as np
from numpy.typing import NDArray

PANELS_NDIM = 4
OUTPUTS = 16
INPUTS = 4
DEPTH_BLOCK = 64
ALIGNMENT = 64  # bytes; the native encoder copies panels that lie elsewhere in a file

Int8Array = NDArray[np.int8]


def panels_shape(shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Return the shape of the panels of a matrix.

    Args:
        shape: (outputs, inputs), outputs a multiple of 16.

    Returns:
        (outputs / 16, padded inputs / 4, 16, 4).
    """
    outputs, inputs = shape
    padded = -(-inputs // DEPTH_BLOCK) * DEPTH_BLOCK
    return outputs // OUTPUTS, padded // INPUTS, OUTPUTS, INPUTS


def pack_panels(steps: Int8Array) -> Int8Array:
    """Return a matrix in panels.

    Args:
        steps: Shape (outputs, inputs), outputs a multiple of 16.

    Returns:
        Shape `panels_shape`.
    """
    num_panels, num_fours, _, _ = panels_shape(steps.shape)
    padded = np.zeros((len(steps), num_fours * INPUTS), np.int8)
    padded[:, : steps.shape[1]] = steps
    ordered = padded.reshape(num_panels, OUTPUTS, num_fours, INPUTS).swapaxes(1, 2)
    return np.ascontiguousarray(ordered)


def unpack_panels(panels: Int8Array, num_inputs: int) -> Int8Array:
    """Return the matrix of panels, shape (outputs, num_inputs)."""
    rows = panels.swapaxes(1, 2).reshape(panels.shape[0] * OUTPUTS, -1)
    return rows[:, :num_inputs]
