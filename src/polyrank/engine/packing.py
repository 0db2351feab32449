"""Cutting many sequences into batches of similar length under a token budget. Pure."""

import numpy as np
from numpy.typing import NDArray

from polyrank.types import Int32Array


def plan_batches(
    lengths: Int32Array, max_batch_tokens: int, *, is_padding: bool
) -> list[NDArray[np.intp]]:
    """Return which sequences run together.

    Sequences are taken longest first, so that padding is small and a shortage of memory shows
    at once. A sequence longer than the budget gets a batch of its own.

    Args:
        lengths: Tokens of each sequence, shape (num_sequences,).
        max_batch_tokens: Most tokens of a batch, padding counted where `is_padding`.
        is_padding: Whether every sequence costs as much as the longest of its batch.

    Returns:
        Indices of each batch; together every sequence once.
    """
    order = np.argsort(-lengths, kind="stable")
    batches: list[NDArray[np.intp]] = []
    start = 0
    tokens = 0
    for at, index in enumerate(order):
        # lengths only fall, so the first of a batch is its longest
        cost = int(lengths[order[start]] if is_padding else lengths[index])
        if at > start and tokens + cost > max_batch_tokens:
            batches.append(order[start:at])
            start, tokens = at, 0
            cost = int(lengths[index])
        tokens += cost
    if start < len(order):
        batches.append(order[start:])
    return batches
