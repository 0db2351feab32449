"""Newton's method for the few numbers of a calibration. Pure."""

import numpy as np
from numpy.typing import NDArray

from polyrank.calibration.maps import sigmoid

Float64Array = NDArray[np.float64]

_STEPS = 60
_SMALL = 1e-9


def fit_logistic(columns: Float64Array, targets: Float64Array, ridge: Float64Array) -> Float64Array:
    """Return the weights of the sigmoid of a weighted sum that make targets most likely.

    Args:
        columns: What is weighed, shape (num_rows, num_columns).
        targets: 0 to 1, shape (num_rows,).
        ridge: What the square of each weight costs, shape (num_columns,).

    Returns:
        Shape (num_columns,).
    """
    weights = np.zeros(columns.shape[1])
    for _ in range(_STEPS):
        found = sigmoid(columns @ weights)
        slope = columns.T @ (found - targets) + ridge * weights
        curve = (columns * (found * (1 - found))[:, None]).T @ columns
        step = np.linalg.solve(curve + np.diag(ridge + _SMALL), slope)
        largest = float(np.abs(step).max(initial=0.0))
        weights -= step * min(1.0, 5.0 / max(largest, _SMALL))  # far steps overshoot
        if largest < 1e-8:
            break
    return weights


def fit_softmax(logits: Float64Array, labels: NDArray[np.intp], *, is_shared: bool) -> Float64Array:
    """Return scales and biases under which the softmax of logits makes labels most likely.

    Args:
        logits: Shape (num_rows, num_labels).
        labels: Number of each row's label, shape (num_rows,).
        is_shared: Whether all labels have one scale, and no bias.

    Returns:
        Scales, then biases that sum to 0, shape (2 * num_labels,).
    """
    count = logits.shape[1]
    truths = np.eye(count)[labels]
    # what each free number adds to the logits: (num_rows, num_labels, num_free)
    if is_shared:
        parts = logits[:, :, None]
    else:
        biases = np.broadcast_to(np.eye(count), (len(logits), count, count))
        parts = np.concatenate([logits[:, :, None] * np.eye(count), biases], axis=2)
    free = np.zeros(parts.shape[2])
    free[: 1 if is_shared else count] = 1.0
    cost = np.full(len(free), 1e-3)
    for _ in range(_STEPS):
        values = parts @ free
        powers = np.exp(values - values.max(axis=1, keepdims=True))
        found = powers / powers.sum(axis=1, keepdims=True)
        slope = np.einsum("nk,nkf->f", found - truths, parts) + cost * free
        mean = np.einsum("nk,nkf->nf", found, parts)
        curve = np.einsum("nk,nkf,nkg->fg", found, parts, parts, optimize=True) - mean.T @ mean
        step = np.linalg.solve(curve + np.diag(cost), slope)
        largest = float(np.abs(step).max())
        free -= step * min(1.0, 1.0 / max(largest, _SMALL))
        if largest < 1e-8:
            break
    if is_shared:
        return np.r_[np.full(count, free[0]), np.zeros(count)]
    free[count:] -= free[count:].mean()
    return free


def pool_adjacent(values: Float64Array) -> list[tuple[int, int, float]]:
    """Return the blocks of the rising steps nearest to values: start, end, mean.

    Args:
        values: Shape (num_values,).

    Returns:
        Blocks in order, their means rising.

    Reference: Barlow et al., 1972 (pool adjacent violators).
    """
    blocks: list[tuple[int, int, float]] = []
    for i, value in enumerate(values.tolist()):
        start, end, mean = i, i + 1, value
        while blocks and blocks[-1][2] >= mean:
            before, last, other = blocks.pop()
            mean = (mean * (end - start) + other * (last - before)) / (end - before)
            start = before
        blocks.append((start, end, mean))
    return blocks
