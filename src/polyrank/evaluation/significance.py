"""Whether one system is better than another, or whether chance alone made it look so.

Reference: Smucker, Allan and Carterette, CIKM 2007 (the paired randomisation test in retrieval);
Holm, Scandinavian Journal of Statistics 1979 (several comparisons at once).
"""

from collections.abc import Sequence

import numpy as np

from polyrank.evaluation.measures import Float64Array

NUM_PERMUTATIONS = 10_000
_BLOCK = 500  # permutations drawn at once


def permutation_p_value(differences: Sequence[Float64Array], *, seed: int) -> float:
    """Return how often chance alone makes a mean difference as large as the one seen, two-sided.

    The mean counts each group the same. Groups of equally many queries hold the same questions in
    the same order, as parallel sets do: the signs of a question's differences then change
    together in all languages, so that twelve translations of a question are no twelve witnesses.

    Args:
        differences: For each group one difference a query, shape (num_queries,).
        seed: Of the random generator.

    Returns:
        The p-value, above 0 and at most 1.
    """
    if len({len(group) for group in differences}) == 1:
        units = np.mean(differences, axis=0) / len(differences[0])
    else:
        units = np.concatenate([group / len(group) for group in differences]) / len(differences)
    seen = abs(float(units.sum()))
    if not units.any():
        return 1.0
    generator = np.random.default_rng(seed)
    as_large = 0
    for _ in range(NUM_PERMUTATIONS // _BLOCK):
        signs = generator.integers(0, 2, (_BLOCK, len(units)), np.int8) * 2 - 1
        as_large += int((np.abs(signs @ units) >= seen * (1 - 1e-12)).sum())
    return (as_large + 1) / (NUM_PERMUTATIONS + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for how many comparisons were made, in the same order.

    Args:
        p_values: One for each comparison.

    Returns:
        The corrected ones, at most 1: below 0.05 each, the chance of any false claim among all
        stays below 5 %.
    """
    corrected = [0.0] * len(p_values)
    largest = 0.0
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected
