"""Packed batches of random ids for tests of encoders."""

from collections.abc import Iterator

import numpy as np

from polyrank.checkpoint.reader import Checkpoint
from polyrank.types import PackedBatch


def batch_of(opened: Checkpoint, lengths: tuple[int, ...]) -> PackedBatch:
    generator = np.random.default_rng(3)
    ids = generator.integers(4, opened.spec.body.vocab_size, sum(lengths), dtype=np.int32)
    return PackedBatch(ids, np.cumsum([0, *lengths]).astype(np.int32))


def alone(batch: PackedBatch) -> Iterator[PackedBatch]:
    for index in range(len(batch)):
        yield batch.select(np.array([index]))
