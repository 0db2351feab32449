"""Token rows of sequences that were run before, bounded in bytes, least recently used first out.

`RowCache` keeps them as the encoder gave them, `SmallRowCache` keeps what a task made of them.

A sequence is known by its exact token ids, and its segments where a batch has them; no hash
stands for them, so that none can be taken for another.
Knows nothing of text or tasks.
"""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from typing import Generic, Protocol, TypeVar

import numpy as np

from polyrank.types import Float32Array, PackedBatch

_OVERHEAD_BYTES = 400  # the objects around a key and its array, the dictionary's slot

Key = tuple[bytes, bytes]


class Sized(Protocol):
    """What can be kept."""

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        ...


SizedT = TypeVar("SizedT", bound=Sized)


class _BySequence(Generic[SizedT]):
    """Things by sequence, the oldest dropped first. Safe to use from several threads."""

    def __init__(self, max_bytes: int) -> None:
        """Make an empty cache.

        Args:
            max_bytes: Most bytes to hold, keys included. A sequence that comes to more is not
                kept.
        """
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self.hits = 0
        self.misses = 0
        self._rows: OrderedDict[Key, SizedT] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._rows)

    def find(self, batch: PackedBatch) -> list[SizedT | None]:
        """Return what is kept of each sequence; those become the newest.

        Args:
            batch: Sequences of any number.

        Returns:
            One entry a sequence: what is kept, arrays read-only; or None.
        """
        keys = _keys(batch)
        with self._lock:
            found = [self._rows.get(key) for key in keys]
            for key, rows in zip(keys, found, strict=True):
                if rows is not None:
                    self._rows.move_to_end(key)
            missed = sum(rows is None for rows in found)
            self.hits += len(found) - missed
            self.misses += missed
        return found

    def holds(self, batch: PackedBatch) -> list[bool]:
        """Return whether the rows of each sequence are kept; none counts as asked for."""
        with self._lock:
            return [key in self._rows for key in _keys(batch)]

    def _put(self, key: Key, rows: SizedT) -> None:
        with self._lock:
            if key in self._rows:  # another thread was faster
                return
            self._rows[key] = rows
            self.num_bytes += _size(key, rows)
            while self.num_bytes > self.max_bytes:
                self.num_bytes -= _size(*self._rows.popitem(last=False))


class RowCache(_BySequence[Float32Array]):
    """Token rows by sequence, shape (seq_len, width) each, as the encoder gave them."""

    def keep(self, batch: PackedBatch, rows: Float32Array) -> None:
        """Keep a copy of the rows of each sequence, and drop the oldest until all fit.

        Args:
            batch: Sequences that were run.
            rows: Their token rows in packed order, shape (total_tokens, width).
        """
        for key, (start, end) in zip(_keys(batch), pairwise(batch.cu_seqlens), strict=True):
            own = rows[start:end]
            if key not in self._rows and _size(key, own) <= self.max_bytes:
                # a copy: a view would keep the whole batch alive
                copy = np.array(own, np.float32, order="C")
                copy.setflags(write=False)
                self._put(key, copy)


class SmallRowCache(_BySequence[SizedT]):
    """What a task made of token rows, by sequence."""

    def keep(self, batch: PackedBatch, made: Sequence[SizedT]) -> None:
        """Keep what was made of each sequence, and drop the oldest until all fit.

        Args:
            batch: Sequences that were run.
            made: One entry for each; holds no view of anything larger.
        """
        for key, own in zip(_keys(batch), made, strict=True):
            if key not in self._rows and _size(key, own) <= self.max_bytes:
                self._put(key, own)


def _size(key: Key, rows: Sized) -> int:
    ids, types = key
    return rows.nbytes + len(ids) + len(types) + _OVERHEAD_BYTES


def _keys(batch: PackedBatch) -> list[Key]:
    ids, types = batch.input_ids, batch.token_type_ids
    spans = pairwise(batch.cu_seqlens.tolist())
    if types is None:
        return [(ids[start:end].tobytes(), b"") for start, end in spans]
    # no segments are segments of 0: what a batch has depends on who shares it
    return [
        (ids[start:end].tobytes(), own.tobytes() if own.any() else b"")
        for start, end in spans
        for own in (types[start:end],)
    ]
