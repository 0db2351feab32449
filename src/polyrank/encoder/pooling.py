"""From the token rows of a sequence to one row, in NumPy.

Sums run over one sequence at a time, so a pooled row never depends on batch mates.
"""

from collections.abc import Callable, Mapping
from itertools import pairwise

import numpy as np

from polyrank.types import Float32Array, Int32Array, PoolingMode


def _cls(rows: Float32Array) -> Float32Array:
    return rows[0]


def _mean(rows: Float32Array) -> Float32Array:
    return rows.mean(axis=0, dtype=np.float32)


def _max(rows: Float32Array) -> Float32Array:
    return np.max(rows, axis=0)


def _mean_sqrt_len(rows: Float32Array) -> Float32Array:
    return rows.sum(axis=0, dtype=np.float32) / np.float32(np.sqrt(len(rows)))


def _weighted_mean(rows: Float32Array) -> Float32Array:
    weights = np.arange(1, len(rows) + 1, dtype=np.float32)
    return (weights[:, None] * rows).sum(axis=0, dtype=np.float32) / weights.sum()


def _last_token(rows: Float32Array) -> Float32Array:
    return rows[-1]


POOLERS: Mapping[PoolingMode, Callable[[Float32Array], Float32Array]] = {
    "cls": _cls,
    "mean": _mean,
    "max": _max,
    "mean_sqrt_len": _mean_sqrt_len,
    "weighted_mean": _weighted_mean,
    "last_token": _last_token,
}


def pool(
    token_rows: Float32Array, cu_seqlens: Int32Array, modes: tuple[PoolingMode, ...]
) -> Float32Array:
    """Pool the token rows of each sequence.

    Args:
        token_rows: Rows in packed order, shape (total_tokens, hidden_size).
        cu_seqlens: Bounds of the sequences, shape (num_sequences + 1,); no sequence is empty.
        modes: Pooling modes, laid side by side in this order; one or more.

    Returns:
        Pooled rows, shape (num_sequences, hidden_size * len(modes)).

    Reference: Reimers and Gurevych, EMNLP 2019, arXiv:1908.10084 (cls, mean, max);
        Muennighoff, 2022, arXiv:2202.08904 (weighted mean).
    """
    hidden = token_rows.shape[1]
    pooled = np.empty((len(cu_seqlens) - 1, hidden * len(modes)), np.float32)
    for i, (start, end) in enumerate(pairwise(cu_seqlens)):
        for column, mode in enumerate(modes):
            span = slice(column * hidden, (column + 1) * hidden)
            pooled[i, span] = POOLERS[mode](token_rows[start:end])
    return pooled
