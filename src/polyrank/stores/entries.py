"""Texts, metadata and rows of entries in a file of SQLite, for stores that lie beside it.

FAISS keeps vectors alone, and sqlite-vec keeps them in a table of its own: both name an entry by a
number, which this table gives and never gives again.
"""

import json
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyrank.errors import StoreError
from polyrank.stores.base import Entry, Found, Metadata, StoreSettings
from polyrank.types import Float32Array

BUSY_S = 5.0  # how long a writer waits for another
_MADE = """
CREATE TABLE {name}_settings (dimensions INTEGER, dtype TEXT, row_dimensions INTEGER);
CREATE TABLE {name}_entries (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL, text TEXT NOT NULL,
    metadata TEXT NOT NULL, rows BLOB
);
"""


@contextmanager
def transaction(connection: Any) -> Iterator[None]:
    """Do what is inside whole or not at all.

    Args:
        connection: An open file of `sqlite3` or a module like it, without transactions of its own.

    Yields:
        Nothing.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


class EntryTable:
    """The tables of a collection in a file.

    Attributes:
        connection: The open file, of `sqlite3` or a module like it; one writer at a time, any
            number of readers.
    """

    def __init__(self, connection: Any, settings: StoreSettings, url: str, more: str = "") -> None:
        """Find the tables of a collection, or make them.

        Args:
            connection: The open file, without transactions of its own.
            settings: What it holds.
            url: The store, for messages.
            more: What else to make with them, in SQL.

        Raises:
            StoreError: If the collection is not there and may not be made.
        """
        self.connection = connection
        self._name, self._width = settings.collection, settings.row_dimensions
        self._row_dtype = row_dtype(settings)
        self._lock = threading.RLock()
        # readers go on while a writer writes
        connection.execute("PRAGMA journal_mode = WAL")
        known = "SELECT 1 FROM sqlite_master WHERE name = ?"
        if connection.execute(known, (f"{self._name}_settings",)).fetchone():
            return
        if not settings.create:
            raise StoreError(f"{url} holds no collection {settings.collection}.")
        with self.writing():
            for statement in f"{_MADE}{more}".split(";\n"):
                connection.execute(statement.format(name=self._name))
            values = (settings.dimensions, settings.dtype, settings.row_dimensions)
            connection.execute(f"INSERT INTO {self._name}_settings VALUES (?, ?, ?)", values)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Do what is inside whole or not at all, and keep other threads out."""
        with self._lock, transaction(self.connection):
            yield

    def held(self) -> tuple[int, str, int]:
        """Return dimensions, dtype and row dimensions of what the file holds."""
        row = self.connection.execute(f"SELECT * FROM {self._name}_settings").fetchone()
        return int(row[0]), str(row[1]), int(row[2])

    def upsert(self, entries: Sequence[Entry]) -> tuple[list[int], list[int]]:
        """Write entries within the open transaction.

        Args:
            entries: No two of one name.

        Returns:
            Their new numbers, in order, and the numbers of those whose place they took.
        """
        gone = self.delete([entry.id for entry in entries])
        add = f"INSERT INTO {self._name}_entries (id, text, metadata, rows) VALUES (?, ?, ?, ?)"
        numbers = [
            self.connection.execute(
                add, (entry.id, entry.text, dumps(entry.metadata), self._packed(entry.rows))
            ).lastrowid
            or 0
            for entry in entries
        ]
        return numbers, gone

    def delete(self, ids: Iterable[str]) -> list[int]:
        """Remove entries by name within the open transaction; return their numbers."""
        remove = f"DELETE FROM {self._name}_entries WHERE id = ? RETURNING number"
        return [row[0] for name in ids for row in self.connection.execute(remove, (name,))]

    def numbers(self, filter: Any = None) -> NDArray[np.int64]:
        """Return the numbers of entries that a filter lets through; see `where`."""
        clause, values = where(filter)
        select = f"SELECT number FROM {self._name}_entries WHERE {clause}"
        rows = self.connection.execute(select, values)
        return np.fromiter((row[0] for row in rows), np.int64)

    def found(
        self, numbers: Iterable[int], scores: Iterable[float], return_rows: bool
    ) -> list[Found]:
        """Return the entries of some numbers with their scores, those that are there."""
        rows = "rows" if return_rows else "NULL"
        select = f"SELECT id, text, metadata, {rows} FROM {self._name}_entries WHERE number = ?"
        hits = []
        for number, score in zip(numbers, scores, strict=True):
            row = self.connection.execute(select, (int(number),)).fetchone()
            if row is not None:
                facts = json.loads(row[2])
                hits.append(Found(row[0], row[1], float(score), facts, self._unpacked(row[3])))
        return hits

    def rows(self, ids: Sequence[str]) -> Iterator[tuple[str, Float32Array | None]]:
        """Yield name and rows of some entries, those that are there."""
        select = f"SELECT rows FROM {self._name}_entries WHERE id = ?"
        for name in ids:
            row = self.connection.execute(select, (name,)).fetchone()
            if row is not None:
                yield name, self._unpacked(row[0])

    def scan(self) -> Iterator[tuple[str, Metadata]]:
        """Yield name and metadata of every entry."""
        rows = self.connection.execute(f"SELECT id, metadata FROM {self._name}_entries")
        while batch := rows.fetchmany(1_000):
            yield from ((name, json.loads(facts)) for name, facts in batch)

    def count(self) -> int:
        """Return how many entries there are."""
        select = f"SELECT count(*) FROM {self._name}_entries"
        return int(self.connection.execute(select).fetchone()[0])

    def _packed(self, rows: Float32Array | None) -> bytes | None:
        return None if rows is None else rows.astype(self._row_dtype).tobytes()

    def _unpacked(self, data: bytes | None) -> Float32Array | None:
        if data is None:
            return None
        return np.frombuffer(data, self._row_dtype).astype(np.float32).reshape(-1, self._width)


def row_dtype(settings: StoreSettings) -> np.dtype[Any]:
    """Return how rows are kept: exactly beside float32 vectors, in half beside smaller ones."""
    return np.dtype("<f4" if settings.dtype == "float32" else "<f2")


def dumps(metadata: Metadata) -> str:
    """Return metadata as JSON."""
    return json.dumps(dict(metadata), ensure_ascii=False)


def where(filter: Any) -> tuple[str, list[Any]]:
    """Return a condition of SQL and its values.

    Args:
        filter: None; a mapping of keys to values; or a condition on the columns ``id``, ``text``
            and ``metadata`` (JSON), as in ``metadata ->> 'page' < 5``.

    Returns:
        The condition and the values of its question marks.
    """
    if not filter:
        return "TRUE", []
    if not isinstance(filter, Mapping):
        return str(filter), []
    # json_extract gives 1 for true, so that the type is compared as well
    parts = [
        f"(metadata ->> '{key}' = ? AND (json_type(metadata, '$.{key}') IN ('true', 'false')) = ?)"
        for key in filter
    ]
    values = [part for value in filter.values() for part in (value, isinstance(value, bool))]
    return " AND ".join(parts), values
