"""How sequences are cut into batches before a peer sees them. Pure; knows no engine."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int64]

DEFAULT_BATCH = 32
BUDGETS = (512, 1024, 2048, 4096)


@dataclass(frozen=True, slots=True)
class Batching:
    """One way of calling an engine.

    Attributes:
        budget: Tokens of a batch with padding, sequences sorted by length; 0 takes
            `DEFAULT_BATCH` sequences as they come, 1 takes one sequence at a time.
        lanes: Batches run side by side; each has the threads divided by the lanes.
    """

    budget: int
    lanes: int = 1

    def __str__(self) -> str:
        kinds = {0: f"{DEFAULT_BATCH} as they come", 1: "one by one"}
        kind = kinds.get(self.budget, f"sorted, {self.budget} tokens")
        return kind if self.lanes == 1 else f"{kind}, {self.lanes} at a time"


DEFAULT = Batching(0)


def plan(lengths: Sequence[int], batching: Batching) -> list[NDArray[np.intp]]:
    """Return which sequences share a batch, longest first where they are sorted."""
    count = len(lengths)
    if batching.budget == 0:
        return [np.arange(at, min(at + DEFAULT_BATCH, count)) for at in range(0, count, 32)]
    order = np.argsort(-np.asarray(lengths), kind="stable")
    batches, start = [], 0
    for at in range(1, count + 1):
        is_full = at == count or (at + 1 - start) * lengths[order[start]] > batching.budget
        if is_full:
            batches.append(order[start:at])
            start = at
    return batches


def pad(sequences: Sequence[Tokens], pad_id: int) -> tuple[Tokens, Tokens]:
    """Return ids and mask, both of shape (batch, longest)."""
    longest = max(map(len, sequences))
    ids = np.full((len(sequences), longest), pad_id, np.int64)
    mask = np.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = sequence
        mask[row, : len(sequence)] = 1
    return ids, mask
