"""Results of texts that were seen before, bounded in bytes, least recently used first out.

Rows are kept before activation, normalisation and shortening, so that requests that differ in
those alone share them. A key is a hash of the model's fingerprint, the task's settings and the
texts, each with its length before it: no two inputs can be joined into the same bytes.
"""

import hashlib
from collections.abc import Iterable, MutableMapping
from dataclasses import dataclass

from polyrank._bounded import BoundedCache
from polyrank.types import Float32Array

_LONG_BYTES = 1_000  # from here on a text gives its hash
_OVERHEAD_BYTES = 200  # the key, the objects around the array, the dictionary's slot


@dataclass(frozen=True, slots=True)
class Counts:
    """What an item counts for, in `usage` and metrics.

    Attributes:
        num_tokens: Tokens of its own.
        num_query_tokens: Tokens of its query, where that runs once for many documents.
        is_truncated: Whether it was cut.
    """

    num_tokens: int
    num_query_tokens: int
    is_truncated: bool


@dataclass(frozen=True, slots=True)
class CachedRow:
    """One result.

    Attributes:
        row: Logits or a vector.
        counts: What is told of it.
    """

    row: Float32Array
    counts: Counts


def cache_key(
    settings: bytes, texts: Iterable[str], known: MutableMapping[int, bytes] | None = None
) -> bytes:
    """Return the key of texts under some settings, 16 bytes.

    Args:
        settings: The model's fingerprint and all that changes the result.
        texts: The text or texts of one result, in order.
        known: What a text gives its key, by the identity of texts that outlive the mapping: one
            query stands before many documents, and may be megabytes.

    Returns:
        A hash.
    """
    digest = hashlib.blake2b(_part(settings), digest_size=16)
    known = {} if known is None else known
    for text in texts:
        if id(text) not in known:
            known[id(text)] = _part(text.encode("utf8"))
        digest.update(known[id(text)])
    return digest.digest()


def _part(data: bytes) -> bytes:
    content = data if len(data) <= _LONG_BYTES else hashlib.blake2b(data, digest_size=16).digest()
    return len(data).to_bytes(8, "little") + content


class ResultCache:
    """Rows by key. Safe to use from several threads."""

    def __init__(self, max_bytes: int) -> None:
        self._rows: BoundedCache[bytes, CachedRow] = BoundedCache(max_bytes)

    @property
    def max_bytes(self) -> int:
        """Bytes that rows may take together."""
        return self._rows.max_size

    @property
    def num_bytes(self) -> int:
        """Bytes that they take."""
        return self._rows.size

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, key: bytes) -> CachedRow | None:
        """Return what is kept under a key, which thereby becomes the newest."""
        return self._rows.get(key)

    def put(self, key: bytes, found: CachedRow) -> None:
        """Keep a row, and drop the oldest until all fit."""
        # a copy: a view would keep the whole batch alive
        kept = CachedRow(found.row.copy(), found.counts)
        self._rows.put(key, kept, kept.row.nbytes + _OVERHEAD_BYTES)
