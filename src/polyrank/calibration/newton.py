"""Newton's method for smooth convex losses, damped so that no step makes a loss larger."""

from collections.abc import Callable

import numpy as np

from polyrank.calibration.features import Float64Array

Loss = Callable[[Float64Array], tuple[float, Float64Array, Float64Array]]
"""From weights to a loss with its gradient and Hessian."""

_MOST_STEPS = 100
_TOLERANCE = 1e-9


def minimized(loss_of: Loss, num_weights: int) -> Float64Array:
    """Return the weights with the least loss.

    Args:
        loss_of: A convex loss.
        num_weights: How many weights; the search begins with zeros.

    Returns:
        Shape (num_weights,).
    """
    weights = np.zeros(num_weights)
    loss, slope, curve = loss_of(weights)
    for _ in range(_MOST_STEPS):
        step = np.linalg.solve(curve, slope)
        if slope @ step < _TOLERANCE:
            break
        size = 1.0
        while True:
            tried = weights - size * step
            after = loss_of(tried)
            if after[0] <= loss - 1e-4 * size * (slope @ step) or size < 1e-8:
                break
            size /= 2
        weights, (loss, slope, curve) = tried, after
    return weights
