"""Taming of outlier channels before int8: what a few wide inputs cost is moved to the weights.

Multilingual encoders have channels whose values are tens of times wider than the others'. With
one int8 scale for a token's row, they leave the others a handful of steps. Dividing an input
channel by a factor and multiplying its column of weights by the same changes nothing in exact
arithmetic and evens out both.

The width of an input channel is read from the layer normalisation that makes it, so no data is
needed: a normalised value is gain * z + shift with z of unit variance.

Reference: Xiao et al., ICML 2023, arXiv:2211.10438 (SmoothQuant, equation 4).
"""

from collections.abc import Sequence

import numpy as np

from polyrank.types import Float32Array

MIGRATION = 0.5  # how much of the width moves to the weights; 0 is none
SPREAD = 3.0  # standard deviations that an input is taken to reach


def input_multipliers(
    weights: Sequence[Float32Array], gain: Float32Array, shift: Float32Array
) -> Float32Array:
    """Return the factor of each input channel before it is quantised.

    Args:
        weights: Matrices that read the input, each of shape (out_features, in_features).
        gain: Gain of the layer normalisation, shape (in_features,).
        shift: Its shift, same shape.

    Returns:
        Positive factors, shape (in_features,); weights are to be divided by them.
    """
    width = np.abs(shift) + SPREAD * np.abs(gain)
    columns = np.max([np.abs(matrix).max(axis=0) for matrix in weights], axis=0)
    factors = (
        np.maximum(columns, 1e-8) ** (1 - MIGRATION) / np.maximum(width, 1e-8) ** MIGRATION
    )
    return np.ascontiguousarray(factors / np.exp(np.log(factors).mean()), np.float32)
