"""Adding what a first stage found to the logits of a reranker. Pure.

Scores of a search have any unit: BM25 gives 0 to 40, cosines of one model lie between 0.7 and 0.9.
What they say is how one candidate of a query stands to the others, so they are standardised over
the candidates of that query, and count a learnt number of logits for each standard deviation.
"""

import math
from collections.abc import Callable, Sequence
from numbers import Real
from typing import get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from polyrank.checkpoint.spec import ModelSpec
from polyrank.errors import CapabilityError, ConfigError, InputError
from polyrank.types import FirstStageKind, Float32Array

_CLOSE = 1e-6


def standardized(scores: ArrayLike) -> NDArray[np.float64]:
    """Return scores less their mean, in standard deviations (of the population).

    Args:
        scores: Of one query's candidates, finite, any unit, shape (num_candidates,).

    Returns:
        Shape (num_candidates,); 0 where all are equal or there is one.
    """
    values = np.asarray(scores, np.float64)
    largest = np.abs(values).max(initial=0.0)
    # a mean of equal numbers can be off by a rounding, which would be blown up to 1
    if largest == 0 or values.max() == values.min():
        return np.zeros_like(values)
    values = values / largest  # so that no square overflows or vanishes
    values -= values.mean()
    if np.abs(values).max() < _CLOSE:  # the mean's own rounding is then a part of what is left
        values -= values.mean()
    deviation = np.sqrt(np.mean(values**2))
    return values / deviation if deviation > 0 else np.zeros_like(values)


def with_first_stage(logits: Float32Array, scores: ArrayLike, weight: float) -> Float32Array:
    """Return the logits of one query's candidates with their first-stage scores added.

    Args:
        logits: The reranker's, shape (num_candidates,).
        scores: The first stage's, finite, shape (num_candidates,).
        weight: Logits that a standard deviation of the scores counts for; 0 changes nothing.

    Returns:
        ``logits + weight * standardized(scores)``, shape (num_candidates,).
    """
    if not weight:
        return logits
    return (logits + weight * standardized(scores)).astype(np.float32)


def first_stage_weight(spec: ModelSpec, first_stage: FirstStageKind | float) -> float:
    """Return what a standard deviation of first-stage scores counts for, in logits.

    Args:
        spec: The checkpoint.
        first_stage: The kind of first stage, for the checkpoint's own weight, or a weight.

    Returns:
        The weight, 0 or more.

    Raises:
        ConfigError: If it is neither a kind nor a finite number from 0 upwards.
        CapabilityError: If the checkpoint has no weight for that kind.
    """
    if isinstance(first_stage, str):
        if first_stage not in get_args(FirstStageKind):
            raise ConfigError(
                f"first_stage must be {' or '.join(get_args(FirstStageKind))}, or a weight, not "
                f"{first_stage!r}"
            )
        if first_stage not in spec.first_stage_weights:
            raise CapabilityError(
                f"{spec.name} does not say what scores of a {first_stage} first stage count for. "
                "Pass a number as first_stage, the logits that a standard deviation of the scores "
                "counts for, or learn one with `polyrank train first-stage-weight`."
            )
        return spec.first_stage_weights[first_stage]
    is_number = isinstance(first_stage, Real) and not isinstance(first_stage, bool)
    if not is_number or not 0 <= first_stage < math.inf:
        raise ConfigError(
            "first_stage must be lexical, dense, or a finite number from 0 upwards, not "
            f"{first_stage!r}"
        )
    return float(first_stage)


def first_stage_adder(
    spec: ModelSpec,
    scores: Sequence[float],
    first_stage: FirstStageKind | float,
    num_documents: int,
) -> Callable[[Float32Array], Float32Array]:
    """Return what adds first-stage scores to the logits of a query's documents.

    All that can be wrong with them is found here, before any text is run.

    Args:
        spec: The checkpoint.
        scores: What the caller gave.
        first_stage: What made them, or a weight; see `first_stage_weight`.
        num_documents: Documents that they are of.

    Returns:
        A function of logits, shape (num_documents, 1), that returns others of that shape.

    Raises:
        InputError: If the scores are not one finite number a document.
        ConfigError: If `first_stage` is neither a kind nor a finite number from 0 upwards.
        CapabilityError: If the checkpoint has no weight for that kind.
    """
    found = check_first_stage_scores(scores, num_documents)
    weight = first_stage_weight(spec, first_stage)
    return lambda logits: with_first_stage(logits[:, 0], found, weight)[:, None]


def check_first_stage_scores(scores: Sequence[float], num_documents: int) -> NDArray[np.float64]:
    """Return first-stage scores as numbers that can be used.

    Args:
        scores: What the caller gave.
        num_documents: Documents that they are of.

    Returns:
        Shape (num_documents,).

    Raises:
        InputError: If they are not one finite number a document.
    """
    try:
        values = np.asarray(scores, np.float64)
    except (TypeError, ValueError) as exc:
        raise InputError(f"first_stage_scores must hold one number a document: {exc}") from exc
    if values.shape != (num_documents,):
        raise InputError(
            f"first_stage_scores must hold one number a document: {num_documents} documents, and "
            f"scores of shape {values.shape}"
        )
    if not np.isfinite(values).all():
        place = int(np.flatnonzero(~np.isfinite(values))[0])
        raise InputError(
            f"first_stage_scores[{place}] is {values[place]}; scores must be finite. Give a "
            "document that the first stage did not find its lowest score."
        )
    return values
