"""SQLite with sqlite-vec: one file, in which every vector is compared with the query's.

Where this Python's own SQLite loads no extensions, as on macOS, pysqlite3 takes its place.
"""

import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import sqlite_vec

from polyrank import _extras
from polyrank.errors import StoreError
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
from polyrank.stores.entries import BUSY_S, EntryTable, where
from polyrank.types import Float32Array

database: Any = sqlite3
if not hasattr(sqlite3.Connection, "enable_load_extension"):
    _extras.require("sqlite", "pysqlite3", purpose="SQLite of a Python that loads no extensions")
    database = import_module("pysqlite3")

_COLUMNS = {
    "float32": "vector float[{size}] distance_metric=cosine",
    "int8": "vector int8[{size}] distance_metric=cosine",
    "binary": "vector bit[{bits}], +fine BLOB",
}
_GIVEN = {"float32": "?", "int8": "vec_int8(?)", "binary": "vec_bit(?)"}
_DISTANCES = {"float32": "cosine", "int8": "cosine", "binary": "hamming"}
_MOST_NEIGHBOURS = 4_096  # that sqlite-vec's own search gives
_MADE = """
CREATE VIRTUAL TABLE {{name}}_vectors USING vec0({columns});
CREATE VIRTUAL TABLE {{name}}_words
    USING fts5(text, content='{{name}}_entries', content_rowid='number')"""


class SqliteStore(Store):
    """Tables in a file of SQLite. Any number of processes read while one writes."""

    capabilities = frozenset({"rows", "scan", "text"})
    dtypes = ("float32", "int8", "binary")
    foreign_errors = (OSError, database.Error)

    def __init__(self, url: str, settings: StoreSettings) -> None:
        """Open a file, as in ``sqlite://index.db``; see `Store`."""
        super().__init__(url, settings)
        path = Path(url.partition("://")[2])
        if not path.exists() and not settings.create:
            raise StoreError(f"{url} holds no collection {settings.collection}: no such file.")
        self._dtype, self._name = settings.dtype, settings.collection
        size = settings.dimensions
        columns = _COLUMNS[settings.dtype].format(size=size, bits=-(-size // 8) * 8)
        with self._translating():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = database.connect(
                path, timeout=BUSY_S, isolation_level=None, check_same_thread=False
            )
            self._connection.enable_load_extension(True)
            sqlite_vec.load(self._connection)
            made = _MADE.format(columns=columns)
            self._entries = EntryTable(self._connection, settings, url, made)
        self._compare(*self._entries.held())

    def _upsert(self, entries: Sequence[Entry]) -> None:
        vectors = np.stack([entry.vector for entry in entries])
        data = self._packed(vectors)
        fine = to_int8(vectors) if self._dtype == "binary" else None
        with self._entries.writing():
            self._forget([entry.id for entry in entries])
            numbers, _ = self._entries.upsert(entries)
            words = f"INSERT INTO {self._name}_words (rowid, text) VALUES (?, ?)"
            texts = (entry.text for entry in entries)
            self._connection.executemany(words, zip(numbers, texts, strict=True))
            given = _GIVEN[self._dtype]
            if fine is None:
                add = f"INSERT INTO {self._name}_vectors (rowid, vector) VALUES (?, {given})"
                self._connection.executemany(add, zip(numbers, data, strict=True))
            else:
                add = (
                    f"INSERT INTO {self._name}_vectors (rowid, vector, fine) VALUES (?, {given}, ?)"
                )
                kept = (row.tobytes() for row in fine)
                self._connection.executemany(add, zip(numbers, data, kept, strict=True))

    def _packed(self, vectors: Float32Array) -> list[bytes]:
        if self._dtype == "float32":
            return [row.tobytes() for row in vectors]
        return [row.tobytes() for row in (to_int8 if self._dtype == "int8" else to_bits)(vectors)]

    def _search(
        self, vector: Float32Array, top_k: int, filter: Any, return_rows: bool
    ) -> list[Found]:
        is_binary = self._dtype == "binary"
        wanted = top_k * OVERSAMPLING if is_binary else top_k
        clause, values = where(filter)
        among = f"rowid IN (SELECT number FROM {self._name}_entries WHERE {clause})"
        given, fine = _GIVEN[self._dtype], ", fine" if is_binary else ""
        if wanted <= _MOST_NEIGHBOURS:
            select = (
                f"SELECT rowid, distance{fine} FROM {self._name}_vectors "
                f"WHERE vector MATCH {given} AND k = ? {f'AND {among}' if filter else ''}"
            )
            asked = [self._packed(vector[None])[0], wanted, *values]
        else:
            distance = f"vec_distance_{_DISTANCES[self._dtype]}(vector, {given})"
            select = (
                f"SELECT rowid, {distance} AS distance{fine} FROM {self._name}_vectors "
                f"WHERE {among} ORDER BY distance LIMIT ?"
            )
            asked = [self._packed(vector[None])[0], *values, wanted]
        rows = self._connection.execute(select, asked).fetchall()
        numbers = np.array([row[0] for row in rows], np.int64)
        scores = 1 - np.array([row[1] for row in rows], np.float32)
        if is_binary and rows:
            kept = np.frombuffer(b"".join(row[2] for row in rows), np.int8)
            scores = cosines_with(vector, kept.reshape(len(rows), -1))
        best = np.argsort(-scores, kind="stable")[:top_k]
        return self._entries.found(numbers[best].tolist(), scores[best].tolist(), return_rows)

    def _search_text(self, text: str, top_k: int, filter: Any) -> list[Found]:
        words = " OR ".join(f'"{word}"' for word in re.findall(r"\w+", text))
        if not words:
            return []
        clause, values = where(filter)
        select = (
            f"SELECT rowid, -bm25({self._name}_words) FROM {self._name}_words "
            f"WHERE {self._name}_words MATCH ? AND rowid IN "
            f"(SELECT number FROM {self._name}_entries WHERE {clause}) ORDER BY 2 DESC LIMIT ?"
        )
        rows = self._connection.execute(select, (words, *values, top_k)).fetchall()
        return self._entries.found((row[0] for row in rows), (row[1] for row in rows), False)

    def _get_rows(self, ids: list[str]) -> Iterable[tuple[str, Float32Array | None]]:
        return self._entries.rows(ids)

    def _delete(self, ids: list[str]) -> None:
        with self._entries.writing():
            self._forget(ids)
            self._entries.delete(ids)

    def _forget(self, ids: list[str]) -> None:
        """Remove vectors and words of entries that are about to go."""
        marks = ", ".join("?" * len(ids))
        select = f"SELECT number, text FROM {self._name}_entries WHERE id IN ({marks})"
        gone = self._connection.execute(select, ids).fetchall()
        words = f"INSERT INTO {self._name}_words ({self._name}_words, rowid, text) "
        self._connection.executemany(f"{words}VALUES ('delete', ?, ?)", gone)
        remove = f"DELETE FROM {self._name}_vectors WHERE rowid = ?"
        self._connection.executemany(remove, [(number,) for number, _ in gone])

    def _count(self) -> int:
        return self._entries.count()

    def _scan(self) -> Iterator[tuple[str, Metadata]]:
        return self._entries.scan()

    def _close(self) -> None:
        self._connection.close()
