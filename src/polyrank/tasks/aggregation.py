"""One relevance out of those of a document's passages. Pure.

Reference: Dai and Callan, SIGIR 2019, arXiv:1905.09217 (MaxP, FirstP, SumP); Li et al., TOIS 2023,
arXiv:2111.09852 (the best blocks of a long document).
"""

import numpy as np

from polyrank.types import Aggregation, Float32Array

TOP_K = 3  # passages of "top_k_mean"
DECAY = 0.5  # of "decayed_sum", from one passage to the next


def aggregate(logits: Float32Array, rule: Aggregation) -> Float32Array:
    """Return the logits of a document.

    Args:
        logits: Of its passages, in the order of the text, shape (num_passages, num_outputs),
            num_passages 1 or more.
        rule: How to join them, as `PassageConfig.aggregation`; "joint_maxsim" where nothing was
            split, since it joins rows, not logits.

    Returns:
        Shape (num_outputs,); of one passage its own, to the bit.
    """
    if rule == "first_p" or len(logits) == 1:
        return logits[0]
    if rule == "max_p":
        return logits.max(axis=0)
    best = -np.sort(-logits, axis=0)
    if rule == "top_k_mean":
        return np.asarray(best[:TOP_K].mean(axis=0), np.float32)
    weights = np.power(DECAY, np.arange(len(best), dtype=np.float64))
    return np.asarray((weights / weights.sum()) @ best, np.float32)
