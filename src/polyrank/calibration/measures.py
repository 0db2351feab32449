"""How far probabilities are from frequencies: log loss, Brier score, calibration error. Pure."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float64Array = NDArray[np.float64]

NUM_BINS = 15
_LEAST = 1e-12  # a probability of 0 that comes true would cost infinitely much


@dataclass(frozen=True, slots=True)
class Bin:
    """Pairs of like probability.

    Attributes:
        count: How many.
        probability: Their mean probability.
        frequency: Share of them that came true.
    """

    count: int
    probability: float
    frequency: float


def reliability(
    probabilities: ArrayLike, came_true: ArrayLike, num_bins: int = NUM_BINS
) -> tuple[Bin, ...]:
    """Return bins of equally many pairs, by rising probability.

    Args:
        probabilities: Shape (num_pairs,).
        came_true: 0 or 1, shape (num_pairs,).
        num_bins: How many; fewer where there are fewer pairs.

    Returns:
        The bins, none where there are no pairs.
    """
    values, truths = np.asarray(probabilities, np.float64), np.asarray(came_true, np.float64)
    order = np.argsort(values, kind="stable")
    parts = np.array_split(order, num_bins)
    return tuple(
        Bin(len(part), float(values[part].mean()), float(truths[part].mean()))
        for part in parts
        if len(part)
    )


def reliability_by_width(
    probabilities: ArrayLike, came_true: ArrayLike, num_bins: int = 10
) -> tuple[Bin, ...]:
    """Return bins of equal width, for the eye: most pairs of a ranking lie next to 0.

    Args:
        probabilities: Shape (num_pairs,), 0 to 1.
        came_true: 0 or 1, shape (num_pairs,).
        num_bins: How many; those without pairs are left out.

    Returns:
        The bins, by rising probability.
    """
    values, truths = np.asarray(probabilities, np.float64), np.asarray(came_true, np.float64)
    places = np.minimum((values * num_bins).astype(np.intp), num_bins - 1)
    return tuple(
        Bin(int(own.sum()), float(values[own].mean()), float(truths[own].mean()))
        for own in (places == place for place in range(num_bins))
        if own.any()
    )


def calibration_error(
    probabilities: ArrayLike, came_true: ArrayLike, num_bins: int = NUM_BINS
) -> float:
    """Return the expected calibration error (ECE) over bins of equally many pairs.

    Args:
        probabilities: Shape (num_pairs,).
        came_true: 0 or 1, shape (num_pairs,).
        num_bins: How many bins.

    Returns:
        The mean distance of probability and frequency, 0 to 1; 0 where there are no pairs.

    Reference: Nguyen and O'Connor, EMNLP 2015, arXiv:1508.05154 (bins of equal mass).
    """
    bins = reliability(probabilities, came_true, num_bins)
    total = sum(each.count for each in bins)
    return sum(each.count * abs(each.probability - each.frequency) for each in bins) / max(1, total)


def expected_error(
    probabilities: ArrayLike, num_bins: int = NUM_BINS, *, num_draws: int = 40, seed: int = 0
) -> float:
    """Return the calibration error that probabilities would have if all were right.

    It is not 0: so many pairs as there are in a bin come true a little more or less often than
    they should by chance alone.

    Args:
        probabilities: Shape (num_pairs,).
        num_bins: How many bins.
        num_draws: Over how many draws of what comes true the mean is taken.
        seed: Of the draws.

    Returns:
        The mean error.
    """
    values = np.asarray(probabilities, np.float64)
    generator = np.random.default_rng(seed)
    found = [
        calibration_error(values, generator.random(len(values)) < values, num_bins)
        for _ in range(num_draws)
    ]
    return float(np.mean(found))


def brier_score(probabilities: ArrayLike, came_true: ArrayLike) -> float:
    """Return the mean squared distance of probabilities and what came true, 0 to 1."""
    return float(np.mean((np.asarray(probabilities) - np.asarray(came_true)) ** 2))


def log_loss(probabilities: ArrayLike, came_true: ArrayLike) -> float:
    """Return the mean negative logarithm of the probability of what came true, in nats."""
    truths = np.asarray(came_true, np.float64)
    values = np.clip(np.asarray(probabilities, np.float64), _LEAST, 1 - _LEAST)
    return float(-np.mean(truths * np.log(values) + (1 - truths) * np.log1p(-values)))
