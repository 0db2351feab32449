"""From raw turns to figures: medians, spreads, ratios turn by turn, agreement. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engines.schedule import Record

Floats = NDArray[np.float64]

# Largest difference over the spread of the reference logits, and least rank correlation: beyond
# these an engine computes something else and its time means nothing. The logits of a seeded head
# lie closer together than a trained one's, so int8 looks worse here than on a real reranker.
TOLERANCES = {
    "float32": (1e-3, 0.9999),
    "bfloat16": (0.3, 0.99),
    "int8": (3.0, 0.9),
    "int8+bfloat16": (3.0, 0.9),
}
# 24 layers of random weights make every rounding grow, so here int8 can only be told from noise.
RANDOM_BODY_INT8 = (3.0, 0.5)


@dataclass(frozen=True, slots=True)
class Agreement:
    """How near an engine's logits are to the reference.

    Attributes:
        largest: Largest difference, in standard deviations of the reference logits.
        mean: Mean difference, likewise.
        rank_correlation: Spearman's.
    """

    largest: float
    mean: float
    rank_correlation: float

    def is_within(self, precision: str, is_random_body: bool) -> bool:
        """Return whether times of this engine mean something."""
        largest, correlation = TOLERANCES[precision]
        if is_random_body and precision.startswith("int8"):
            largest, correlation = RANDOM_BODY_INT8
        return self.largest <= largest and self.rank_correlation >= correlation


def agreement(record: Record, reference: Record) -> Agreement:
    """Compare logits of both throughput jobs with the reference's."""
    jobs = ("natural", "lognormal")
    found = np.concatenate([record.logits[job] for job in jobs])
    wanted = np.concatenate([reference.logits[job] for job in jobs])
    differences = np.abs(found - wanted) / wanted.std()
    ranks = (np.argsort(np.argsort(values)) for values in (found, wanted))
    correlation = float(np.corrcoef(*ranks)[0, 1])
    return Agreement(float(differences.max()), float(differences.mean()), correlation)


def queries(record: Record, documents: int) -> Floats:
    """Return seconds of every query with so many documents, in the same order in all engines."""
    prefix = f"search-{documents}-"
    turns = [seconds for job, seconds in record.seconds.items() if job.startswith(prefix)]
    return np.concatenate([np.asarray(seconds) for seconds in turns]) if turns else np.zeros(0)


def turns(record: Record, job: str) -> Floats:
    """Return seconds of every turn at a job."""
    return np.asarray(record.seconds.get(job, []), np.float64)


def starts(record: Record) -> Floats:
    """Return seconds from process start to first score."""
    return np.asarray(record.starts, np.float64)


def middle(values: Floats) -> tuple[float, float, float]:
    """Return median, 10th and 90th percentile; NaN where there is nothing."""
    if not len(values):
        return (float("nan"),) * 3
    low, median, high = np.percentile(values, (10, 50, 90))
    return float(median), float(low), float(high)


def ratio(slower: Floats, faster: Floats) -> tuple[float, float, float]:
    """Return how many times longer one took, turn by turn: median and percentiles."""
    count = min(len(slower), len(faster))
    return middle(slower[:count] / faster[:count])


def share_of_others(records: Iterable[Record]) -> tuple[float, float]:
    """Return how many cores other processes took in a turn: median and 90th percentile."""
    shares = [
        record.others[job][at] / seconds
        for record in records
        for job in ("natural", "lognormal")
        for at, seconds in enumerate(record.seconds.get(job, []))
    ]
    median, _, high = middle(np.asarray(shares))
    return median, high


def p95(values: Floats) -> float:
    """Return the 95th percentile; NaN where there is nothing."""
    return float(np.percentile(values, 95)) if len(values) else float("nan")
