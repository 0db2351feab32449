"""FAISS: vectors in memory, in one file on the disk; texts and metadata in SQLite beside it.

The index is written whole, beside its place, and takes its place when it is on the disk; only then
are the entries committed. So after a kill the index holds at most vectors that no entry names,
which are dropped when it is opened.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from polyrank._files import holding, replacing
from polyrank.errors import ConfigError, StoreError, StoreUnavailableError
from polyrank.stores.base import (
    OVERSAMPLING,
    Entry,
    Found,
    Metadata,
    Store,
    StoreSettings,
    cosines_with,
    to_bits,
    to_int8,
)
from polyrank.stores.entries import BUSY_S, EntryTable
from polyrank.types import Float32Array

_MARGIN = 1.25  # of int8, beyond the values of the first entries
_FEWEST_PENDING = 20_000  # entries after which the index is written while more are added
_FINE = """
CREATE TABLE {name}_fine (number INTEGER PRIMARY KEY, fine BLOB)"""


class FaissStore(Store):
    """An index of FAISS in a folder, held by one process at a time."""

    capabilities = frozenset({"rows", "scan"})
    dtypes = ("float32", "float16", "int8", "binary")
    foreign_errors = (OSError, RuntimeError, sqlite3.Error)

    def __init__(self, url: str, settings: StoreSettings) -> None:
        """Open a folder, as in ``faiss://index``; see `Store`."""
        super().__init__(url, settings)
        folder = Path(url.partition("://")[2])
        entries = folder / f"{settings.collection}.sqlite"
        if not entries.exists() and not settings.create:
            raise StoreError(f"{url} holds no collection {settings.collection}: no {entries}.")
        self._path = entries.with_suffix(".faiss")
        self._held = ExitStack()
        self._pending, self._gone = 0, list[int]()
        self._is_binary = settings.dtype == "binary"
        with self._translating():
            folder.mkdir(parents=True, exist_ok=True)
            try:
                self._held.enter_context(holding(folder, folder))
            except ConfigError as exc:
                raise StoreUnavailableError(f"{exc} FAISS serves one process at a time.") from exc
            with self._held.pop_all() as held:
                self._connection = held.enter_context(_connected(entries))
                self._entries = EntryTable(self._connection, settings, url, _FINE)
                self._compare(*self._entries.held())
                self._index = self._read()
                self._held = held.pop_all()

    def _read(self) -> Any:
        """Return the index of the file, without vectors that no entry names."""
        index: Any = None
        if self._path.exists():
            read = faiss.read_index_binary if self._is_binary else faiss.read_index
            index = read(str(self._path))
        numbers = self._entries.numbers()
        known = np.empty(0, np.int64) if index is None else faiss.vector_to_array(index.id_map)
        if len(np.setdiff1d(numbers, known)):
            raise StoreError(
                f"{self._path} lacks vectors of entries that are beside it. Index the texts anew."
            )
        dropped = np.setdiff1d(known, numbers)
        if len(dropped):
            index.remove_ids(dropped)
        return index

    def _made(self, vectors: Float32Array) -> Any:
        """Return a new index, its int8 steps fitted to the first vectors."""
        size, inner = self.settings.dimensions, faiss.METRIC_INNER_PRODUCT
        if self._is_binary:
            return faiss.IndexBinaryIDMap2(faiss.IndexBinaryFlat(-(-size // 8) * 8))
        if self.settings.dtype == "float32":
            return faiss.IndexIDMap2(faiss.IndexFlatIP(size))
        if self.settings.dtype == "float16":
            half = faiss.ScalarQuantizer.QT_fp16
            return faiss.IndexIDMap2(faiss.IndexScalarQuantizer(size, half, inner))
        index = faiss.IndexScalarQuantizer(size, faiss.ScalarQuantizer.QT_8bit, inner)
        # few first entries say little: at least four standard deviations of unit vectors
        spread = np.maximum(np.abs(vectors).max(axis=0) * _MARGIN, 4 / np.sqrt(size))
        index.train(np.stack([spread, -spread]).astype(np.float32))
        return faiss.IndexIDMap2(index)

    def _upsert(self, entries: Sequence[Entry]) -> None:
        vectors = np.stack([entry.vector for entry in entries])
        if not self._pending:
            self._connection.execute("BEGIN IMMEDIATE")
        try:
            numbers, gone = self._entries.upsert(entries)
            if self._is_binary:
                kept = [
                    (number, row.tobytes())
                    for number, row in zip(numbers, to_int8(vectors), strict=True)
                ]
                name = self.settings.collection
                self._connection.executemany(f"INSERT INTO {name}_fine VALUES (?, ?)", kept)
            if self._index is None:
                self._index = self._made(vectors)
            given: NDArray[Any] = to_bits(vectors) if self._is_binary else vectors
            self._index.add_with_ids(given, np.array(numbers, np.int64))
        except BaseException:
            self._undo()
            raise
        self._pending += len(entries)
        self._gone += gone
        if self._pending >= max(_FEWEST_PENDING, self._index.ntotal // 4):
            self._flush()

    def _flush(self) -> None:
        """Write the index, then let the entries that are new name its vectors."""
        if not self._pending:
            return
        try:
            self._write()
            self._connection.execute("COMMIT")
        except BaseException:
            self._undo()
            raise
        self._forget(self._gone)
        self._pending, self._gone = 0, []

    def _undo(self) -> None:
        self._connection.execute("ROLLBACK")
        self._pending, self._gone = 0, []
        self._index = self._read()

    def _write(self) -> None:
        with replacing(self._path) as temporary:
            write = faiss.write_index_binary if self._is_binary else faiss.write_index
            write(self._index, str(temporary))

    def _forget(self, numbers: list[int]) -> None:
        """Take vectors out of memory; their file keeps them until it is written again."""
        if numbers:
            self._index.remove_ids(np.array(numbers, np.int64))
        if self._is_binary:
            remove = f"DELETE FROM {self.settings.collection}_fine WHERE number = ?"
            self._connection.executemany(remove, [(number,) for number in numbers])

    def _search(
        self, vector: Float32Array, top_k: int, filter: Any, return_rows: bool
    ) -> list[Found]:
        if self._index is None:
            return []
        options: dict[str, Any] = {}
        if filter:
            numbers = self._entries.numbers(filter)
            if not len(numbers):
                return []
            options["params"] = faiss.SearchParameters(sel=faiss.IDSelectorBatch(numbers))
        wanted = (top_k * OVERSAMPLING if self._is_binary else top_k) + len(self._gone)
        wanted = min(wanted, max(self._index.ntotal, 1))
        asked: NDArray[Any] = to_bits(vector[None]) if self._is_binary else vector[None]
        scores, places = (found[0] for found in self._index.search(asked, wanted, **options))
        scores, places = scores[places >= 0], places[places >= 0]
        if self._is_binary:
            scores = cosines_with(vector, self._fine(places))
        best = np.argsort(-scores, kind="stable")
        found = self._entries.found(places[best].tolist(), scores[best].tolist(), return_rows)
        return found[:top_k]

    def _fine(self, numbers: NDArray[np.int64]) -> NDArray[np.int8]:
        select = f"SELECT fine FROM {self.settings.collection}_fine WHERE number = ?"
        rows = (self._connection.execute(select, (int(n),)).fetchone()[0] for n in numbers)
        return np.frombuffer(b"".join(rows), np.int8).reshape(-1, self.settings.dimensions)

    def _get_rows(self, ids: list[str]) -> Iterable[tuple[str, Float32Array | None]]:
        return self._entries.rows(ids)

    def _delete(self, ids: list[str]) -> None:
        with self._entries.writing():
            gone = self._entries.delete(ids)
        if gone:
            self._forget(gone)

    def _count(self) -> int:
        return self._entries.count()

    def _scan(self) -> Iterator[tuple[str, Metadata]]:
        return self._entries.scan()

    def _close(self) -> None:
        self._held.close()


def _connected(path: Path) -> Any:
    """Return the open file of entries, closed at the end of a block."""
    return closing(
        sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    )
