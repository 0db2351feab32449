"""Multipliers of the inputs of linear layers, fitted so that int8 products lose least.

With multipliers *m*, inputs *x* and weights *W* become int8 as *x m* and *W* / *m*. A token's row
has one step, its widest value over 127, and so has an output's row of weights. Taken as noise, both
roundings together put into all outputs the square error

    mean over tokens of max (x m)^2 * sum of (W / m)^2
    + c * sum over outputs of max (W / m)^2 * mean over tokens of sum of (x m)^2

but for a constant. *c* would be 1 if all that counted were one product. But the rounding of weights
is the same for every token and is not averaged out in pooled vectors, and tokens that all others
attend to are those with the widest values, whose rows are rounded most coarsely; so it is a number
for each of a layer's inputs, measured. The error is driven down by Adam on log *m*, from the
formula that the encoder uses at load (`polyrank.encoder.smoothing`), which looks at the widest
values alone.

References: Xiao et al., ICML 2023, arXiv:2211.10438 (what multipliers are for); Kingma and Ba,
ICLR 2015, arXiv:1412.6980 (Adam).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from polyrank.compress.vocabulary.pieces import Float64Array
from polyrank.encoder.smoothing import MIGRATION, SMALLEST, input_multipliers
from polyrank.types import Float32Array

WEIGHT_NOISE = (0.03, 1.0, 2.0, 4.0)
"""*c* for each of `LINEARS` in its order: least loss of vectors of multilingual-e5-small."""

_START = 0.5  # see `input_multipliers`
_STEPS = 200
_RATE = 0.03
_DECAYS = (0.9, 0.999)


@dataclass(frozen=True, slots=True)
class InputRows:
    """Inputs of linear layers, of the same tokens for all.

    Attributes:
        rows: For each layer and each of `LINEARS` in its order, shape (num_rows, in_features).
    """

    rows: tuple[tuple[Float32Array, ...], ...]


def choose_multipliers(
    inputs: InputRows | Float32Array, layer: int, number: int, matrices: Sequence[Float32Array]
) -> Float32Array:
    """Return the factor of each input channel, fitted where rows of inputs are known.

    Args:
        inputs: Rows, or the largest magnitudes as `NativeEncoder.measure_inputs` gives them.
        layer: The layer.
        number: Which of its `LINEARS`.
        matrices: Weights that read the input, each of shape (out_features, in_features).

    Returns:
        Positive factors, shape (in_features,); weights are to be divided by them.
    """
    if isinstance(inputs, InputRows):
        return fit_multipliers(matrices, inputs.rows[layer][number], WEIGHT_NOISE[number])
    widths = inputs[layer, number, : matrices[0].shape[1]]
    return input_multipliers(matrices, widths, MIGRATION[number])


def fit_multipliers(
    matrices: Sequence[Float32Array], rows: Float32Array, weight_noise: float = 1.0
) -> Float32Array:
    """Return the factor of each input channel before it is quantised.

    Args:
        matrices: Weights that read the input, each of shape (out_features, in_features).
        rows: Inputs of some tokens, shape (num_rows, in_features).
        weight_noise: What the rounding of weights counts for beside that of inputs.

    Returns:
        Positive factors, shape (in_features,); weights are to be divided by them.
    """
    weights = np.concatenate(list(matrices))
    start = input_multipliers(matrices, np.abs(rows).max(axis=0), _START)
    loss = _Loss(np.abs(rows), np.abs(weights), weight_noise)
    found = np.log(start.astype(np.float64))
    mean, square = np.zeros_like(found), np.zeros_like(found)
    first, second = _DECAYS
    for step in range(_STEPS):
        slope = loss.slope(found)
        mean = first * mean + (1 - first) * slope
        square = second * square + (1 - second) * slope**2
        away = mean / (1 - first ** (step + 1))
        size = np.sqrt(square / (1 - second ** (step + 1))) + 1e-12
        found -= _RATE * (1 - step / _STEPS) * away / size
    return np.ascontiguousarray(np.exp(found - found.mean()), np.float32)


class _Loss:
    """The logarithm of the square error."""

    def __init__(self, rows: Float32Array, weights: Float32Array, weight_noise: float) -> None:
        self._rows, self._weights, self._weight_noise = rows, weights, weight_noise
        self._row_squares = np.square(rows).mean(axis=0, dtype=np.float64)
        self._weight_squares = np.square(weights).sum(axis=0, dtype=np.float64) + SMALLEST**2

    def slope(self, logs: Float64Array) -> Float64Array:
        """Return the slope at the logarithms of multipliers, shape (in_features,)."""
        factors = np.exp(logs)
        up = factors.astype(np.float32)
        row_peaks = _peaks(self._rows * up) / len(self._rows)
        weight_peaks = _peaks(self._weights / up) * self._weight_noise
        row_energy = self._row_squares * factors**2
        weight_energy = self._weight_squares / factors**2
        of_rows, of_weights = row_peaks.sum(), weight_peaks.sum()
        total = of_rows * weight_energy.sum() + of_weights * row_energy.sum()
        risen = row_peaks * weight_energy.sum() + of_weights * row_energy
        fallen = of_rows * weight_energy + weight_peaks * row_energy.sum()
        return 2 * (risen - fallen) / total


def _peaks(values: Float32Array) -> Float64Array:
    """Return by column the squares of those values that are the widest of their row."""
    places = values.argmax(axis=1)
    widest = np.take_along_axis(values, places[:, None], axis=1)[:, 0].astype(np.float64)
    return np.bincount(places, widest**2, values.shape[1]).astype(np.float64)
