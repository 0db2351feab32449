"""Confidence intervals of means over queries, by resampling the queries.

Reference: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13 (percentile
intervals); Sakai, SIGIR 2006 (for retrieval measures).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from polyrank.evaluation.measures import Float64Array

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over queries with its 95 % confidence interval.

    Attributes:
        mean: The mean.
        low: Lower end of the interval.
        high: Upper end.
    """

    mean: float
    low: float
    high: float


def resampled_means(
    values: Mapping[str, Float64Array], *, num_resamples: int, seed: int
) -> dict[str, Float64Array]:
    """Return the means of resampled queries.

    Every call with the same seed and number of queries draws the same queries, for all
    measures, for both stages and for all languages. So differences between stages are paired,
    and a mean over languages that hold the same questions in the same order is resampled by
    question, as it must be.

    Args:
        values: For each measure, one value a query, shape (num_queries,), num_queries 1 or more.
        num_resamples: How many times to resample.
        seed: Of the random generator.

    Returns:
        For each measure, shape (num_resamples,).
    """
    columns = np.stack(list(values.values()), axis=1)
    num_queries = len(columns)
    generator = np.random.default_rng(seed)
    means = np.empty((num_resamples, columns.shape[1]))
    for i in range(num_resamples):
        drawn = generator.integers(0, num_queries, num_queries)
        means[i] = np.bincount(drawn, minlength=num_queries) @ columns / num_queries
    return {name: means[:, column] for column, name in enumerate(values)}


def estimate(mean: float, resampled: Float64Array) -> Estimate:
    """Return a mean with the percentile interval of its resampled values.

    Args:
        mean: The mean over the queries as they are.
        resampled: Means of resampled queries, shape (num_resamples,).

    Returns:
        The three numbers.
    """
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return Estimate(float(mean), float(low), float(high))
