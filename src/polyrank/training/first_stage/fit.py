"""Fitting how much a first stage's scores count beside a reranker's logits. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyrank.calibration.newton import minimized
from polyrank.errors import TrainingError
from polyrank.evaluation.measures import measure
from polyrank.types import Float32Array

MEASURE = "nDCG@10"
_FOLDS = 5
_RIDGE = 1e-5  # keeps both multipliers finite where they could tell all answers apart

Float64Array = NDArray[np.float64]


@dataclass(frozen=True)
class RankedCandidates:
    """The candidates of one question, best first by the first stage.

    Attributes:
        source: Name of the data that it is from.
        language: Of the question and the candidates.
        logits: The reranker's, shape (num_candidates,).
        found: The first stage's scores, standardised over the candidates, shape
            (num_candidates,).
        is_answer: Whether a candidate answers, shape (num_candidates,), dtype bool.
        num_answers: Passages that answer among all that were searched, 1 or more.
    """

    source: str
    language: str
    logits: Float32Array
    found: Float64Array
    is_answer: NDArray[np.bool_]
    num_answers: int

    @property
    def is_usable(self) -> bool:
        """Whether it tells anything: an answer is among the candidates, and something else."""
        return bool(self.is_answer.any() and not self.is_answer.all())

    def order(self, weight: float | None) -> list[int]:
        """Return the candidates, best first.

        Args:
            weight: What a standard deviation of first-stage scores counts for, in logits; None
                orders by the first stage alone.

        Returns:
            Positions; equal candidates keep the order of the first stage.
        """
        if weight is None:
            return list(range(len(self.logits)))
        return [int(i) for i in np.argsort(-(self.logits + weight * self.found), kind="stable")]


def fit_weight(questions: Sequence[RankedCandidates], shares: Mapping[str, float]) -> float:
    """Return the weight of first-stage scores that tells answers from other candidates best.

    It is β/α, or 0 if that is negative, for the multipliers of logit (α) and first-stage score
    (β) with the least listwise cross-entropy: minus the mean log share of the answers in a
    softmax over the candidates. The loss is convex; Newton's method finds its minimum.

    Args:
        questions: Usable ones, at least one.
        shares: What each source counts for, spread evenly over its questions.

    Returns:
        The weight, 0 or more.

    Raises:
        TrainingError: If the logits themselves do not help beside the first stage.
    """
    lists = _Lists.of(questions, shares)
    multipliers = minimized(lists.loss, 2)
    alpha, beta = multipliers[0] / lists.scale, multipliers[1]
    if beta <= 0:
        return 0.0
    if alpha <= 0:
        raise TrainingError(
            "the reranker's logits do not tell answers from other candidates on these data, so no "
            "weight beside them can be learnt. Check the data and the model, or do not rerank."
        )
    return float(beta / alpha)


@dataclass(frozen=True)
class _Lists:
    """All lists end to end.

    Attributes:
        inputs: Logit in units of `scale`, and first-stage score, shape (num_candidates, 2).
        starts: First candidate of each list, shape (num_lists,).
        list_of: List of each candidate, shape (num_candidates,).
        targets: Share that each candidate should have in its list, shape (num_candidates,).
        weights: What each list counts for, sum 1, shape (num_lists,).
        scale: Mean spread of the logits within a list.
    """

    inputs: Float64Array
    starts: NDArray[np.intp]
    list_of: NDArray[np.intp]
    targets: Float64Array
    weights: Float64Array
    scale: float

    @classmethod
    def of(cls, questions: Sequence[RankedCandidates], shares: Mapping[str, float]) -> "_Lists":
        counts = np.array([len(question.logits) for question in questions])
        spreads = [np.std(question.logits, dtype=np.float64) for question in questions]
        scale = float(np.mean(spreads)) or 1.0
        logits = np.concatenate([question.logits for question in questions]).astype(np.float64)
        found = np.concatenate([question.found for question in questions])
        asked = {name: sum(q.source == name for q in questions) for name in shares}
        weights = np.array([shares[q.source] / asked[q.source] for q in questions])
        return cls(
            np.stack([logits / scale, found], axis=1),
            np.cumsum(counts) - counts,
            np.repeat(np.arange(len(counts)), counts),
            np.concatenate([q.is_answer / q.is_answer.sum() for q in questions]),
            weights / weights.sum(),
            scale,
        )

    def loss(self, multipliers: Float64Array) -> tuple[float, Float64Array, Float64Array]:
        """Return the loss with its gradient and Hessian."""
        values = self.inputs @ multipliers
        values -= np.maximum.reduceat(values, self.starts)[self.list_of]
        sums = np.add.reduceat(np.exp(values), self.starts)
        logs = values - np.log(sums)[self.list_of]
        each = self.weights[self.list_of]
        shares = np.exp(logs)
        means = np.add.reduceat(shares[:, None] * self.inputs, self.starts)
        slope = ((shares - self.targets) * each) @ self.inputs
        curve = (self.inputs * (shares * each)[:, None]).T @ self.inputs
        curve -= (means * self.weights[:, None]).T @ means
        ridge = _RIDGE * np.eye(2)
        loss = -float((self.targets * each) @ logs) + _RIDGE * float(multipliers @ multipliers) / 2
        return loss, slope + ridge @ multipliers, curve + ridge


def held_out_weights(
    questions: Sequence[RankedCandidates], shares: Mapping[str, float]
) -> tuple[str, list[float | None]]:
    """Return for each question a weight that was learnt without it.

    Args:
        questions: All of them.
        shares: What each source counts for.

    Returns:
        What was left out at a time, "source" or "fifth of the questions", and the weights, None
        where nothing was left to learn from.

    Raises:
        TrainingError: If logits do not help.
    """
    sources = sorted({question.source for question in questions if question.is_usable})
    if len(sources) > 1:
        parts, by = [question.source for question in questions], "source"
    else:
        parts, by = [str(i % _FOLDS) for i in range(len(questions))], "fifth of the questions"
    weights: dict[str, float | None] = {}
    for part in sorted(set(parts)):
        rest = [
            question
            for question, own in zip(questions, parts, strict=True)
            if own != part and question.is_usable
        ]
        weights[part] = fit_weight(rest, shares) if rest else None
    return by, [weights[part] for part in parts]


def figures(
    questions: Sequence[RankedCandidates], weights: Sequence[float | None]
) -> dict[str, Any]:
    """Return nDCG@10 of first stage, reranker and both together, by source and language.

    Args:
        questions: All that were asked, those without an answer among the candidates too.
        weights: For each question, one learnt without it; None counts as 0.

    Returns:
        "groups", a row for each source and language, and "mean" over them.
    """
    orders: dict[str, list[list[int]]] = {
        "first_stage": [question.order(None) for question in questions],
        "reranked": [question.order(0.0) for question in questions],
        "blended": [q.order(w or 0.0) for q, w in zip(questions, weights, strict=True)],
    }
    values = {name: _gains(questions, own) for name, own in orders.items()}
    keys = [(question.source, question.language) for question in questions]
    groups = []
    for source, language in sorted(set(keys)):
        rows = [i for i, key in enumerate(keys) if key == (source, language)]
        groups.append(
            {
                "source": source,
                "language": language,
                "num_questions": len(rows),
                "num_found": sum(bool(questions[i].is_answer.any()) for i in rows),
                "held_out_weight": _rounded(weights[rows[0]]),
                **{name: round(float(own[rows].mean()), 4) for name, own in values.items()},
            }
        )
    mean = {name: round(float(np.mean([row[name] for row in groups])), 4) for name in values}
    return {"measure": MEASURE, "groups": groups, "mean": mean}


def _rounded(weight: float | None) -> float | None:
    return None if weight is None else round(weight, 4)


def _gains(questions: Sequence[RankedCandidates], orders: Sequence[list[int]]) -> Float64Array:
    qrels, rankings = {}, {}
    for i, (question, order) in enumerate(zip(questions, orders, strict=True)):
        found = np.flatnonzero(question.is_answer)
        unseen = range(-(question.num_answers - len(found)), 0)
        qrels[str(i)] = {str(place): 1 for place in (*found, *unseen)}
        rankings[str(i)] = [str(place) for place in order]
    return measure((MEASURE,), qrels, rankings)[MEASURE]
