"""Joining several rankings of the same documents into one. Pure.

Scores of different searches have different units, so they are joined by rank, or standardised
over the documents of the query first. Weights are given or learnt on questions whose answers are
known.
"""

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from polyrank.calibration.newton import minimized
from polyrank.errors import ConfigError, InputError, TrainingError
from polyrank.tasks.first_stage import standardized

DEFAULT_K = 60
"""Where the weights of ranks begin, as in the paper: high enough that no first rank wins alone."""

_RIDGE = 1e-5  # keeps weights finite where they could tell all answers apart

Float64Array = NDArray[np.float64]
IdT = TypeVar("IdT", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Fused(Generic[IdT]):
    """A document of a joined ranking.

    Attributes:
        id: What the rankings call it.
        score: What they gave it together; comparable within the ranking alone.
    """

    id: IdT
    score: float


def reciprocal_rank_fusion(
    rankings: Sequence[Iterable[IdT]],
    k: float = DEFAULT_K,
    *,
    weights: Sequence[float] | None = None,
) -> list[Fused[IdT]]:
    """Join rankings by the ranks alone.

    Args:
        rankings: Ids of each ranking, best first, none twice; a document may be in some only.
        k: Added to each rank, 0 or more; the larger, the less the first ranks stand out.
        weights: What each ranking counts for, 0 or more; None counts all the same.

    Returns:
        Every document, best first, with the sum of ``weight / (k + rank)`` over the rankings that
        hold it, ranks from 1; equal sums in the order in which documents first appear.

    Raises:
        ConfigError: If `k` or a weight is negative or not finite, or weights are not one a ranking.
        InputError: If a ranking names a document twice.

    Reference: Cormack, Clarke and Buettcher, SIGIR 2009 (reciprocal rank fusion).
    """
    if not 0 <= k < math.inf:
        raise ConfigError(f"k must be a finite number, 0 or more, not {k!r}; 60 is usual")
    counts = _checked_weights(weights, len(rankings))
    sums: dict[IdT, float] = {}
    for place, (ranking, weight) in enumerate(zip(rankings, counts, strict=True)):
        seen: set[IdT] = set()
        for rank, name in enumerate(ranking, 1):
            if name in seen:
                raise InputError(
                    f"rankings[{place}] names {name!r:.80} twice, the second time at rank {rank}; "
                    "a ranking holds a document once"
                )
            seen.add(name)
            sums[name] = sums.get(name, 0.0) + weight / (k + rank)
    return _ordered(sums)


def weighted_fusion(
    rankings: Sequence[Mapping[IdT, float]], weights: Sequence[float] | None = None
) -> list[Fused[IdT]]:
    """Join rankings by their scores, standardised over the documents of each.

    Args:
        rankings: Score of each document in each ranking, any unit, higher is better.
        weights: What a standard deviation of each ranking counts for, 0 or more; None counts all
            the same.

    Returns:
        Every document, best first, with the weighted sum of its standardised scores. A document
        that a ranking lacks gets that ranking's lowest score. Equal sums in the order in which
        documents first appear.

    Raises:
        ConfigError: If a weight is negative or not finite, or weights are not one a ranking.
        InputError: If a score is not a finite number.
    """
    counts = _checked_weights(weights, len(rankings))
    names = list(dict.fromkeys(name for ranking in rankings for name in ranking))
    sums = standardized_columns(rankings, names) @ counts if names else np.empty(0)
    return _ordered(dict(zip(names, sums.tolist(), strict=True)))


def standardized_columns(
    rankings: Sequence[Mapping[IdT, float]], names: Sequence[IdT]
) -> Float64Array:
    """Return what each ranking gave each document, standardised over the documents.

    Args:
        rankings: Score of each document in each ranking; one that is missing counts as the lowest.
        names: The documents.

    Returns:
        Shape (num_documents, num_rankings); zeros for a ranking without documents.

    Raises:
        InputError: If a score is not a finite number.
    """
    columns = np.zeros((len(names), len(rankings)))
    for place, ranking in enumerate(rankings):
        for name, score in ranking.items():
            if not math.isfinite(score):
                raise InputError(
                    f"rankings[{place}] gives {name!r:.80} the score {score!r}; scores must be "
                    "finite. Leave out what the search did not find."
                )
        if ranking:
            lowest = min(ranking.values())
            columns[:, place] = standardized([ranking.get(name, lowest) for name in names])
    return columns


@dataclass(frozen=True, slots=True)
class LabelledCandidates:
    """The candidates of one question whose answers are known.

    Attributes:
        scores: Standardised scores, shape (num_candidates, num_rankings); see
            `standardized_columns`.
        is_answer: Whether a candidate answers, shape (num_candidates,), dtype bool.
    """

    scores: Float64Array
    is_answer: NDArray[np.bool_]

    @property
    def is_usable(self) -> bool:
        """Whether it tells anything: an answer is among the candidates, and something else."""
        return bool(self.is_answer.any() and not self.is_answer.all())


def learn_fusion_weights(questions: Sequence[LabelledCandidates]) -> tuple[float, ...]:
    """Return the weights under which answers stand out best.

    They have the least listwise cross-entropy: minus the mean log share of a question's answers in
    a softmax over its candidates. The loss is convex. A ranking that would count negatively is
    left out and the others are fitted again.

    Args:
        questions: Of any number; those that tell nothing are left out.

    Returns:
        One weight a ranking, 0 or more, for `weighted_fusion`.

    Raises:
        TrainingError: If no question tells anything.
    """
    usable = [question for question in questions if question.is_usable]
    if not usable:
        raise TrainingError(
            f"none of the {len(questions)} questions has an answer and something else among its "
            "candidates, so no weights can be learnt. Give more candidates or other questions."
        )
    num_rankings = usable[0].scores.shape[1]
    kept = list(range(num_rankings))
    weights = np.zeros(num_rankings)
    while kept:
        columns = [question.scores[:, kept] for question in usable]
        found = minimized(partial(_loss, columns=columns, questions=usable), len(kept))
        if found.min() >= 0:
            weights[kept] = found
            break
        del kept[int(found.argmin())]
    return tuple(weights.tolist())


def _loss(
    weights: Float64Array, columns: Sequence[Float64Array], questions: Sequence[LabelledCandidates]
) -> tuple[float, Float64Array, Float64Array]:
    """Return the loss with its gradient and Hessian."""
    loss = _RIDGE * float(weights @ weights) / 2
    slope, curve = _RIDGE * weights, _RIDGE * np.eye(len(weights))
    for own, question in zip(columns, questions, strict=True):
        values = own @ weights
        logs = values - values.max()
        logs -= np.log(np.exp(logs).sum())
        shares, targets = np.exp(logs), question.is_answer / question.is_answer.sum()
        mean = shares @ own
        loss -= float(targets @ logs) / len(questions)
        slope = slope + (shares - targets) @ own / len(questions)
        spread = (own * shares[:, None]).T @ own - np.outer(mean, mean)
        curve = curve + spread / len(questions)
    return loss, slope, curve


def _checked_weights(weights: Sequence[float] | None, num_rankings: int) -> Float64Array:
    if weights is None:
        return np.ones(num_rankings)
    if len(weights) != num_rankings:
        raise ConfigError(
            f"weights must be one a ranking: {num_rankings} rankings, {len(weights)} weights"
        )
    for place, weight in enumerate(weights):
        if not 0 <= weight < math.inf:
            raise ConfigError(f"weights[{place}] must be a finite number, 0 or more, not {weight}")
    return np.array(weights, np.float64)


def _ordered(sums: Mapping[IdT, float]) -> list[Fused[IdT]]:
    # sorted is stable: equal sums keep the order of their first appearance
    return [Fused(name, sums[name]) for name in sorted(sums, key=lambda name: -sums[name])]
