"""Labels with probabilities, from activated outputs. Pure."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyrank.types import Classification, Float32Array


def classifications(
    labels: Sequence[str],
    probabilities: Float32Array,
    is_truncated: NDArray[Any],
    calibrated: NDArray[np.float64] | None = None,
) -> list[Classification]:
    """Return one classification per row.

    Args:
        labels: Name of each column.
        probabilities: Activated outputs, shape (num_inputs, num_labels).
        is_truncated: Whether an input lost tokens, shape (num_inputs,).
        calibrated: Calibrated probabilities, shape (num_inputs, num_labels), where the checkpoint
            has them.

    Returns:
        Results in input order; the first of equally probable labels wins.
    """
    results: list[Classification] = []
    for i, (row, truncated) in enumerate(zip(probabilities, is_truncated, strict=True)):
        best = int(row.argmax())
        own = None if calibrated is None else calibrated[i]
        results.append(
            Classification(
                labels[best],
                float(row[best]),
                _named(labels, row),
                bool(truncated),
                None if own is None else float(own[best]),
                None if own is None else _named(labels, own),
            )
        )
    return results


def _named(labels: Sequence[str], row: NDArray[Any]) -> dict[str, float]:
    return {label: float(value) for label, value in zip(labels, row, strict=True)}
