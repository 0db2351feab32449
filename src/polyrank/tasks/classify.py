"""Labels with probabilities, from activated outputs. Pure."""

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from polyrank.types import Classification, Float32Array


def classifications(
    labels: Sequence[str], probabilities: Float32Array, is_truncated: NDArray[Any]
) -> list[Classification]:
    """Return one classification per row.

    Args:
        labels: Name of each column.
        probabilities: Activated outputs, shape (num_inputs, num_labels).
        is_truncated: Whether an input lost tokens, shape (num_inputs,).

    Returns:
        Results in input order; the first of equally probable labels wins.
    """
    results: list[Classification] = []
    for row, truncated in zip(probabilities, is_truncated, strict=True):
        best = int(row.argmax())
        named = {label: float(value) for label, value in zip(labels, row, strict=True)}
        results.append(Classification(labels[best], float(row[best]), named, bool(truncated)))
    return results
