"""How many candidates a cheaper stage may drop, so that the best stage's first n stay. Pure.

Labels are not needed: what should stay is what the best stage itself puts first. On calibration
questions every candidate is scored by both stages; the threshold on the cheaper scores is an order
statistic of how far down the kept ones lie, which holds for new questions of the same kind, however
scores are distributed.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from polyrank._files import replacing
from polyrank.config import check_choice, check_whole
from polyrank.errors import ConfigError, DataError
from polyrank.tasks.first_stage import standardized

PRUNING_FILE = "polyrank_pruning.json"
FORMAT = "polyrank-pruning-1"
Statistic = Literal["gap", "deviations", "rank"]
"""How far down a candidate lies: its score below the best one's, in the scores' own unit or in
standard deviations of the question's scores; or the number of candidates above it."""

Float64Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ScoredCandidates:
    """The candidates of a calibration question.

    Attributes:
        cheap: Scores of the cheaper stage, shape (num_candidates,).
        best: Scores of the best stage, shape (num_candidates,).
    """

    cheap: Float64Array
    best: Float64Array


@dataclass(frozen=True, slots=True)
class Pruning:
    """Which candidates a stage hands on.

    Attributes:
        statistic: What is compared with the threshold.
        threshold: Candidates that lie further down are dropped.
        top_n: First documents of the best stage that are to be kept.
        min_kept: How many of them have to be, for a question to count as kept.
        probability: Least share of questions of which they are kept.
        confidence: With which this holds over the draw of calibration questions.
        num_questions: Questions that the threshold was calibrated on.
        mean_share: Mean share of the candidates that was handed on for them.
        stage: What gave the cheaper scores; empty where it is not known.

    Raises:
        ConfigError: If a value is out of range.
    """

    statistic: Statistic
    threshold: float
    top_n: int
    min_kept: int
    probability: float
    confidence: float
    num_questions: int
    mean_share: float
    stage: str = ""

    def __post_init__(self) -> None:
        check_choice("statistic", self.statistic, get_args(Statistic))
        check_whole("top_n", self.top_n)
        check_whole("min_kept", self.min_kept, high=self.top_n)
        check_whole("num_questions", self.num_questions)
        for name in ("probability", "confidence"):
            if not 0 < getattr(self, name) < 1:
                raise ConfigError(f"{name} must lie between 0 and 1, not {getattr(self, name)}")
        if not 0 <= self.threshold < math.inf:
            raise ConfigError(f"threshold must be finite, 0 or more, not {self.threshold}")

    def keeps(self, scores: Float64Array) -> NDArray[np.bool_]:
        """Return which candidates of one question are handed on.

        Args:
            scores: Of the cheaper stage, finite, shape (num_candidates,).

        Returns:
            Shape (num_candidates,); the first always is.
        """
        return depths(scores, self.statistic) <= self.threshold

    @property
    def guarantee(self) -> str:
        """What is promised, as a sentence."""
        what = f"the first {self.top_n}"
        if self.min_kept < self.top_n:
            what = f"at least {self.min_kept} of {what}"
        return (
            f"Of at least {self.probability:.0%} of questions like the {self.num_questions:,} it "
            f"was calibrated on, {what} of the best stage are handed on (confidence "
            f"{self.confidence:.0%}); {self.mean_share:.1%} of the candidates are, on average."
        )

    def save(self, path: str | Path) -> None:
        """Write it to a file, whole or not at all.

        Args:
            path: Where to.
        """
        content = {"format": FORMAT, **asdict(self)}
        with replacing(Path(path)) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> "Pruning":
        """Read it from a file, or from the `polyrank_pruning.json` of a folder.

        Args:
            path: The file or the folder.

        Returns:
            What `save` wrote.

        Raises:
            DataError: If there is no such file, or it holds something else.
        """
        path = Path(path) / PRUNING_FILE if Path(path).is_dir() else Path(path)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as exc:
            raise DataError(
                f"{path} cannot be read: {exc}. Write it with `polyrank train pruning`."
            ) from exc
        return _from_content(path, content)


def _from_content(path: Path, content: Any) -> Pruning:
    if not isinstance(content, Mapping) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, Mapping) else content
        raise DataError(f"{path} is not in the format {FORMAT}: {found!r:.80}")
    try:
        return Pruning(**{name: value for name, value in content.items() if name != "format"})
    except (TypeError, ConfigError) as exc:
        raise DataError(f"{path} is damaged: {exc}. Write it anew.") from exc


def depths(scores: Float64Array, statistic: Statistic) -> Float64Array:
    """Return how far down each candidate of one question lies.

    Args:
        scores: Of one stage, finite, shape (num_candidates,).
        statistic: How it is told.

    Returns:
        0 for the best, larger further down, shape (num_candidates,).
    """
    values = np.asarray(scores, np.float64)
    if not len(values):
        return values
    if statistic == "rank":
        # candidates of equal scores share the best of their ranks: none is dropped before another
        return np.searchsorted(np.sort(-values), -values).astype(np.float64)
    if statistic == "deviations":
        values = standardized(values)
    return values.max() - values


def least_threshold(
    question: ScoredCandidates, statistic: Statistic, top_n: int, min_kept: int
) -> float:
    """Return the least threshold that keeps what should stay of one question.

    Args:
        question: Its candidates.
        statistic: What is compared with the threshold.
        top_n: First documents of the best stage that should stay.
        min_kept: How many of them have to.

    Returns:
        A depth; 0 where there are no candidates.
    """
    first = np.argsort(-np.asarray(question.best), kind="stable")[:top_n]
    own = np.sort(depths(question.cheap, statistic)[first])
    return float(own[min(min_kept, len(own)) - 1]) if len(own) else 0.0


def order_statistic(num_questions: int, probability: float, confidence: float) -> int | None:
    """Return which of the least thresholds, in ascending order, bounds those of new questions.

    With thresholds of questions drawn like new ones, the share of new ones below the k-th
    smallest of m follows Beta(k, m + 1 - k), whatever the distribution; so it falls short of
    `probability` with the chance that a binomial of m draws at that rate reaches k.

    Args:
        num_questions: Thresholds that there are, m.
        probability: Share of new questions to be covered.
        confidence: With which.

    Returns:
        k, from 1; None where there are too few.

    Reference: Wilks, Annals of Mathematical Statistics 1941 (tolerance limits); Li et al., Findings
        of ACL 2022, arXiv:2205.09638 (candidate sets).
    """
    tail = 0.0
    for k in range(num_questions, 0, -1):
        tail += math.exp(
            math.lgamma(num_questions + 1)
            - math.lgamma(k + 1)
            - math.lgamma(num_questions - k + 1)
            + k * math.log(probability)
            + (num_questions - k) * math.log1p(-probability)
        )
        if tail > 1 - confidence:
            return k + 1 if k < num_questions else None
    return 1 if num_questions else None


def questions_needed(probability: float, confidence: float) -> int:
    """Return how many calibration questions a promise takes at least."""
    return math.ceil(math.log(1 - confidence) / math.log(probability))


def calibrate_pruning(
    questions: Sequence[ScoredCandidates],
    *,
    top_n: int = 10,
    min_kept: int | None = None,
    probability: float = 0.95,
    confidence: float = 0.95,
    stage: str = "",
) -> Pruning:
    """Return the threshold that keeps the best stage's first n with a stated probability.

    The statistic that hands on the fewest candidates is chosen on every third question, the
    threshold is calibrated on the others, so that the choice does not spoil the promise.

    Args:
        questions: Drawn like those to come, each with all of its candidates.
        top_n: First documents of the best stage that should stay.
        min_kept: How many of them have to; None for all.
        probability: Share of questions of which they shall stay.
        confidence: With which, over the draw of these questions.
        stage: What gave the cheaper scores.

    Returns:
        What prunes.

    Raises:
        ConfigError: If a value is out of range.
        DataError: If there are too few questions, or scores are not finite.
    """
    for name, value in (("probability", probability), ("confidence", confidence)):
        if not 0 < value < 1:
            raise ConfigError(f"{name} must lie between 0 and 1, not {value}")
    least = check_whole("min_kept", top_n if min_kept is None else min_kept, high=top_n)
    _check_scores(questions)
    chosen_on = questions[::3]
    calibrated_on = [question for i, question in enumerate(questions) if i % 3]
    k = order_statistic(len(calibrated_on), probability, confidence)
    if k is None:
        needed = math.ceil(questions_needed(probability, confidence) * 1.5)
        raise DataError(
            f"{len(questions):,} questions are too few to promise {probability:.0%} with "
            f"confidence {confidence:.0%}: about {needed:,} are needed. Give more, or promise less."
        )

    def fitted(own: Sequence[ScoredCandidates], statistic: Statistic, place: int) -> Pruning:
        lowest = sorted(least_threshold(q, statistic, top_n, least) for q in own)
        limit = lowest[min(place, len(lowest)) - 1]
        shares = [np.mean(depths(q.cheap, statistic) <= limit) for q in own if len(q.cheap)]
        return Pruning(
            statistic=statistic,
            threshold=limit,
            top_n=top_n,
            min_kept=least,
            probability=probability,
            confidence=confidence,
            num_questions=len(own),
            mean_share=float(np.mean(shares)) if shares else 1.0,
            stage=stage,
        )

    place = math.ceil(probability * len(chosen_on))
    tried: list[Pruning] = [fitted(chosen_on, name, place) for name in get_args(Statistic)]
    best = min(tried, key=lambda pruning: pruning.mean_share)
    return fitted(calibrated_on, best.statistic, k)


def _check_scores(questions: Sequence[ScoredCandidates]) -> None:
    for place, question in enumerate(questions):
        if np.shape(question.cheap) != np.shape(question.best):
            raise DataError(
                f"questions[{place}] has {np.shape(question.cheap)} cheaper scores and "
                f"{np.shape(question.best)} of the best stage; give one of each a candidate"
            )
        if not (np.isfinite(question.cheap).all() and np.isfinite(question.best).all()):
            raise DataError(f"questions[{place}] has scores that are not finite")


@dataclass(frozen=True, slots=True)
class Check:
    """How a promise held on other questions.

    Attributes:
        num_questions: Questions looked at.
        num_kept: Those of which what should stay did.
        mean_share: Mean share of the candidates that was handed on.
    """

    num_questions: int
    num_kept: int
    mean_share: float

    @property
    def share_kept(self) -> float:
        """Share of the questions of which it stayed; 1 where there were none."""
        return self.num_kept / self.num_questions if self.num_questions else 1.0


def check_pruning(pruning: Pruning, questions: Sequence[ScoredCandidates]) -> Check:
    """Return how often a pruning keeps what it promises, on questions that it has not seen.

    Args:
        pruning: What prunes.
        questions: Each with all of its candidates.

    Returns:
        Counts.
    """
    limits = [
        least_threshold(question, pruning.statistic, pruning.top_n, pruning.min_kept)
        for question in questions
    ]
    shares = [float(np.mean(pruning.keeps(q.cheap))) for q in questions if len(q.cheap)]
    return Check(
        len(questions),
        sum(limit <= pruning.threshold for limit in limits),
        float(np.mean(shares)) if shares else 1.0,
    )
