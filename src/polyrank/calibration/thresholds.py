"""Thresholds of probability, given as numbers or by the precision or recall they reach. Pure.

What a threshold reaches was counted on the calibration data, with probabilities of maps that had
not seen the queries. On other data, with more or less to be found, it reaches something else.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from polyrank.errors import CapabilityError, ConfigError

Threshold = float | str
"""A probability from 0 to 1; or "precision:0.9", "recall:0.95"."""

MAX_ROWS = 64
_LEAST_KEPT = 20  # pairs above a threshold, for its precision to count
_TARGETS = ("precision", "recall")


@dataclass(frozen=True, slots=True)
class ThresholdRow:
    """What one threshold reached.

    Attributes:
        probability: The threshold.
        precision: Share of relevant pairs among those at or above it.
        recall: Share of the relevant pairs that are at or above it.
    """

    probability: float
    precision: float
    recall: float


def parse_threshold(value: object, name: str = "min_probability") -> float | tuple[str, float]:
    """Return a threshold as given: a probability, or what it shall reach.

    Args:
        value: A number, "precision:0.9" or "recall:0.9", or a number as text.
        name: Of the setting, for the message.

    Returns:
        The probability, or "precision" or "recall" with the target.

    Raises:
        ConfigError: If it is none of them, or out of range.
    """
    target, _, rest = value.rpartition(":") if isinstance(value, str) else ("", "", value)
    number = _number(rest)
    if not 0 <= number <= 1 or target not in ("", *_TARGETS):
        raise ConfigError(
            f'{name} must be a probability from 0 to 1, or "precision:0.9" or "recall:0.9" with '
            f"such a target, not {value!r:.80}"
        )
    return (target, number) if target else number


def _number(value: object) -> float:
    """Return a number, or one that is out of every range."""
    if isinstance(value, bool) or not isinstance(value, str | int | float | np.floating):
        return math.nan
    try:
        return float(value)
    except ValueError:
        return math.nan


def choose_threshold(rows: Sequence[ThresholdRow], target: str, wanted: float) -> float:
    """Return the probability from which on a target is reached, keeping as many as possible.

    Args:
        rows: What thresholds reached, by ascending probability.
        target: "precision" or "recall".
        wanted: The share to reach, 0 to 1.

    Returns:
        The lowest threshold of that precision, or the highest of that recall.

    Raises:
        CapabilityError: If no threshold reached it.
    """
    reached = [row for row in rows if getattr(row, target) >= wanted]
    if not reached:
        best = max((getattr(row, target) for row in rows), default=0.0)
        raise CapabilityError(
            f"no threshold reached a {target} of {wanted:g} on the calibration data; the best is "
            f"{best:.3f}. Ask for less, or calibrate on more data."
        )
    return (reached[0] if target == "precision" else reached[-1]).probability


def threshold_table(
    probabilities: NDArray[np.float64], is_relevant: NDArray[np.bool_]
) -> tuple[ThresholdRow, ...]:
    """Return what thresholds reach, at most `MAX_ROWS` spread over the relevant pairs.

    Args:
        probabilities: Of pairs, shape (num_pairs,).
        is_relevant: Which of them are, shape (num_pairs,); one at least.

    Returns:
        Rows by ascending probability, each reached by pairs that exist.
    """
    order = np.argsort(-probabilities, kind="stable")
    found, hits = probabilities[order], np.cumsum(is_relevant[order])
    is_last = np.append(found[1:] < found[:-1], True)  # of equal ones the last counts them all
    ends = np.flatnonzero(is_last & is_relevant[order] & (np.arange(len(found)) >= _LEAST_KEPT - 1))
    if len(ends) == 0:
        ends = np.array([len(found) - 1])
    picked = np.unique(np.linspace(0, len(ends) - 1, MAX_ROWS).round().astype(int))
    rows = [
        ThresholdRow(
            float(np.floor(found[end] * 1e6) / 1e6),
            round(float(hits[end] / (end + 1)), 4),
            round(float(hits[end] / hits[-1]), 4),
        )
        for end in ends[picked]
    ]
    return tuple(reversed(rows))
