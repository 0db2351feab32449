"""Runs any number of sequences through an encoder, in batches, and returns rows in input order.

It knows nothing of text or tasks. One blocking core; fronts that await it copy no logic.
"""

import threading
from dataclasses import dataclass

import numpy as np

from polyrank.encoder.base import Encoder
from polyrank.engine.packing import plan_batches
from polyrank.types import Float32Array, PackedBatch, PoolingMode, Progress


@dataclass(frozen=True, slots=True)
class Usage:
    """What an engine has done since it was made.

    Attributes:
        num_sequences: Sequences run.
        num_tokens: Tokens run, without padding.
        num_batches: Forward passes.
    """

    num_sequences: int = 0
    num_tokens: int = 0
    num_batches: int = 0


class Engine:
    """An encoder with a token budget. Safe to use from several threads."""

    def __init__(self, encoder: Encoder, max_batch_tokens: int) -> None:
        self.encoder = encoder
        self.max_batch_tokens = max_batch_tokens
        self._usage = Usage()
        self._lock = threading.Lock()

    @property
    def usage(self) -> Usage:
        """Work done so far."""
        return self._usage

    def run(
        self,
        batch: PackedBatch,
        pooling: tuple[PoolingMode, ...],
        width: int,
        progress: Progress | None = None,
        out: Float32Array | None = None,
    ) -> Float32Array:
        """Return one pooled row per sequence, or one row per token.

        Args:
            batch: Sequences of any number and length, none empty.
            pooling: Pooling modes; empty for token rows.
            width: Values in a row, hidden_size * len(pooling), or hidden_size for token rows.
            progress: Called after each forward pass with tokens done and tokens in all.
            out: Where to write the rows; None makes a new array.

        Returns:
            Rows in input order, shape (num_sequences, width), or (total_tokens, width) in the
            order of the packed batch where `pooling` is empty.

        Raises:
            EncoderError: If the encoder fails.
        """
        num_rows = len(batch) if pooling else batch.total_tokens
        rows = np.empty((num_rows, width), np.float32) if out is None else out
        is_padding = self.encoder.capabilities.is_padding
        done = 0
        for indices in plan_batches(batch.lengths, self.max_batch_tokens, is_padding=is_padding):
            part = batch.select(indices)
            rows[indices if pooling else batch.tokens_of(indices)] = self.encoder.run(part, pooling)
            done += part.total_tokens
            self._count(part)
            if progress is not None:
                progress(done, batch.total_tokens)
        return rows

    def _count(self, part: PackedBatch) -> None:
        with self._lock:
            used = self._usage
            self._usage = Usage(
                used.num_sequences + len(part),
                used.num_tokens + part.total_tokens,
                used.num_batches + 1,
            )

    def close(self) -> None:
        """Close the encoder."""
        self.encoder.close()
