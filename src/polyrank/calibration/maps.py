"""Maps from shifted logits to probabilities, each rising all the way. Pure.

All three begin with the line of Platt's method, u = slope * logit + intercept + offsets:

- platt: p = sigmoid(u)
- beta: p = sigmoid(low * ln sigmoid(u) - high * ln(1 - sigmoid(u)) + intercept), a slope of its
  own on either side
- isotonic: p is what was seen near u, straight lines between; a little of Platt's sigmoid is mixed
  in, so that no two different logits tie

Reference: Platt, 1999; Kull et al., AISTATS 2017 (beta); Zadrozny and Elkan, KDD 2002 (isotonic).
"""

from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float64Array = NDArray[np.float64]
Method = Literal["platt", "beta", "isotonic"]
METHODS: tuple[Method, ...] = get_args(Method)

SIGMOID_SHARE = 1e-3  # of Platt's map in an isotonic one


class Map(Protocol):
    """From shifted logits to probabilities."""

    def __call__(self, shifted: Float64Array) -> Float64Array:
        """Return probabilities, 0 to 1, same shape."""
        ...


def sigmoid(values: ArrayLike) -> Float64Array:
    """Return 1 / (1 + exp(-x)), without overflow."""
    x = np.asarray(values, np.float64)
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + small), small / (1 + small))


def softplus(values: ArrayLike) -> Float64Array:
    """Return ln(1 + exp(x)), without overflow."""
    x = np.asarray(values, np.float64)
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


@dataclass(frozen=True, slots=True)
class Platt:
    """The sigmoid of the shifted logit."""

    def __call__(self, shifted: Float64Array) -> Float64Array:
        """Return probabilities, same shape."""
        return sigmoid(shifted)


@dataclass(frozen=True, slots=True)
class Beta:
    """A sigmoid with a slope for each side.

    Attributes:
        low: Slope where the shifted logit is far below 0, above 0.
        high: Slope where it is far above, above 0.
        intercept: Added to both.
    """

    low: float
    high: float
    intercept: float

    def __call__(self, shifted: Float64Array) -> Float64Array:
        """Return probabilities, same shape."""
        curve = self.high * softplus(shifted) - self.low * softplus(-np.asarray(shifted))
        return sigmoid(curve + self.intercept)


@dataclass(frozen=True, slots=True)
class Isotonic:
    """What was seen, made to rise.

    Attributes:
        places: Shifted logits, ascending.
        values: Probability at each, not falling.
    """

    places: tuple[float, ...]
    values: tuple[float, ...]

    def __call__(self, shifted: Float64Array) -> Float64Array:
        """Return probabilities, same shape."""
        seen = np.interp(shifted, self.places, self.values)
        return (1 - SIGMOID_SHARE) * seen + SIGMOID_SHARE * sigmoid(shifted)
