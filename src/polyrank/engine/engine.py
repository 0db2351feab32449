"""Runs any number of sequences through an encoder, in batches, and returns rows in input order.

It knows nothing of text or tasks. One blocking core; fronts that await it copy no logic.
"""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyrank.encoder.base import Encoder
from polyrank.engine.packing import plan_batches
from polyrank.engine.row_cache import RowCache, SmallRowCache
from polyrank.progress import Progress
from polyrank.types import Float32Array, PackedBatch, PoolingMode


@dataclass(frozen=True, slots=True)
class Usage:
    """What an engine has done since it was made.

    Attributes:
        num_sequences: Sequences run; those whose rows were kept are not.
        num_tokens: Tokens run, without padding.
        num_batches: Forward passes.
    """

    num_sequences: int = 0
    num_tokens: int = 0
    num_batches: int = 0


class Engine:
    """An encoder with a token budget, and perhaps the token rows of what it ran last.

    Safe to use from several threads. With and without kept rows results have the same bits where
    the encoder's do not depend on what else is in a batch, as the native one's; those of encoders
    that pad may differ in the last digits.
    """

    def __init__(
        self,
        encoder: Encoder,
        max_batch_tokens: int,
        row_cache: RowCache | None = None,
        small_rows: SmallRowCache[Any] | None = None,
    ) -> None:
        """Set what runs.

        Args:
            encoder: What computes.
            max_batch_tokens: Tokens in one forward pass.
            row_cache: Where token rows are kept; None keeps none. Pooled rows never are.
            small_rows: Where tasks keep what they made of token rows; the engine never looks.
        """
        self.encoder = encoder
        self.max_batch_tokens = max_batch_tokens
        self.row_cache = row_cache
        self.small_rows = small_rows
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
            progress: Called after each forward pass with tokens done and tokens in all, and before
                the first where there were rows of some tokens already.
            out: Where to write the rows; None makes a new array.

        Returns:
            Rows in input order, shape (num_sequences, width), or (total_tokens, width) in the
            order of the packed batch where `pooling` is empty.

        Raises:
            EncoderError: If the encoder fails.
        """
        num_rows = len(batch) if pooling else batch.total_tokens
        rows = np.empty((num_rows, width), np.float32) if out is None else out
        wanted, done = np.arange(len(batch)), 0
        if not pooling and self.row_cache is not None:
            wanted = self._copy_known(self.row_cache, batch, rows)
            done = batch.total_tokens - int(batch.lengths[wanted].sum())
            if done and progress is not None:
                progress(done, batch.total_tokens)
        for indices, part, found in self._batches(batch, wanted, pooling):
            rows[indices if pooling else batch.tokens_of(indices)] = found
            done += part.total_tokens
            if progress is not None:
                progress(done, batch.total_tokens)
        return rows

    def find_rows(self, batch: PackedBatch) -> list[Float32Array | None]:
        """Return the token rows of each sequence that are kept, read-only, or None."""
        return [None] * len(batch) if self.row_cache is None else self.row_cache.find(batch)

    def num_fresh_tokens(self, batch: PackedBatch, pooling: tuple[PoolingMode, ...]) -> int:
        """Return the tokens of those sequences that would have to run."""
        if pooling or self.row_cache is None:
            return batch.total_tokens
        return batch.total_tokens - int(batch.lengths[self.row_cache.holds(batch)].sum())

    def token_rows(self, batch: PackedBatch) -> list[Float32Array]:
        """Return the token rows of each sequence apart; all are run, kept rows or not.

        Args:
            batch: As for `run`.

        Returns:
            In input order, shape (seq_len, hidden_size) each.

        Raises:
            EncoderError: If the encoder fails.
        """
        rows: dict[int, Float32Array] = {}
        for indices, part, found in self._batches(batch, np.arange(len(batch)), ()):
            rows.update(zip(indices.tolist(), np.split(found, part.cu_seqlens[1:-1]), strict=True))
        return [rows[i] for i in range(len(batch))]

    def _copy_known(
        self, cache: RowCache, batch: PackedBatch, out: Float32Array
    ) -> NDArray[np.intp]:
        """Write the rows that are kept and return the sequences of which there are none."""
        found = cache.find(batch)
        for start, rows in zip(batch.cu_seqlens.tolist(), found, strict=False):
            if rows is not None:
                out[start : start + len(rows)] = rows
        return np.array([i for i, rows in enumerate(found) if rows is None], np.intp)

    def _batches(
        self,
        batch: PackedBatch,
        wanted: NDArray[np.intp],
        pooling: tuple[PoolingMode, ...],
    ) -> Iterator[tuple[NDArray[np.intp], PackedBatch, Float32Array]]:
        """Run some sequences; yield those of each forward pass, as a batch too, and the rows."""
        is_padding = self.encoder.capabilities.is_padding
        lengths = batch.lengths[wanted]
        for places in plan_batches(lengths, self.max_batch_tokens, is_padding=is_padding):
            indices = wanted[places]
            part = batch.select(indices)
            rows = self.encoder.run(part, pooling)
            self._count(part)
            if not pooling and self.row_cache is not None:
                self.row_cache.keep(part, rows)
            yield indices, part, rows

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
