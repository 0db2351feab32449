"""What is in a store: a small file of SQLite beside it, changed by whole transactions.

A file's row is written after its passages are; before a passage of it is written, a row in
`pending` says which. What a kill leaves half done can so be taken back or gone on with: names of
passages follow from path, content and number.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polyrank._closing import Closing
from polyrank.errors import DataError
from polyrank.pipeline.listing import Signature
from polyrank.stores.entries import transaction
from polyrank.stores.failures import translated

_VERSION = 1
_MADE = """
CREATE TABLE IF NOT EXISTS settings (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS files (
    path TEXT PRIMARY KEY, content TEXT NOT NULL, passages INTEGER NOT NULL,
    size INTEGER, modified_ns INTEGER, changed_ns INTEGER, inode INTEGER
);
CREATE TABLE IF NOT EXISTS pending (
    path TEXT PRIMARY KEY, content TEXT NOT NULL, passages INTEGER NOT NULL,
    written INTEGER NOT NULL
);
"""


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A file whose passages are in the store.

    Attributes:
        path: The file.
        content: Hash of what was read.
        passages: How many there are.
        signature: Its size and times when it was read; None where it was too fresh to tell.
    """

    path: str
    content: str
    passages: int
    signature: Signature | None = None


@dataclass(frozen=True, slots=True)
class Pending:
    """A file whose passages are being written.

    Attributes:
        path: The file.
        content: Hash of what was read.
        passages: How many there will be.
        written: How many are in the store for certain; more may be.
    """

    path: str
    content: str
    passages: int
    written: int = 0


class Manifest(Closing):
    """The file beside a store. One process writes it; others may read."""

    def __init__(self, path: Path, url: str) -> None:
        """Open it, or make it.

        Args:
            path: Its place.
            url: The store, for messages.

        Raises:
            DataError: If it is of another version of polyrank.
            StoreError: If it cannot be opened.
        """
        self._url = url
        with self._translating():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path, timeout=5.0, isolation_level=None)
            with transaction(self._connection):
                for statement in filter(str.strip, _MADE.split(";\n")):
                    self._connection.execute(statement)
        held = self.settings()
        if held.get("version", _VERSION) != _VERSION:
            self._connection.close()
            raise DataError(
                f"{path} was written by another version of polyrank ({held['version']!r}; this "
                f"one writes {_VERSION}). Index into a new store."
            )

    def settings(self) -> dict[str, Any]:
        """Return what `set` has kept; empty for a new store."""
        with self._translating():
            rows = self._connection.execute("SELECT key, value FROM settings")
            return {key: json.loads(value) for key, value in rows}

    def set(self, values: Mapping[str, Any]) -> None:
        """Keep how the store is filled."""
        rows = [(key, json.dumps(value)) for key, value in {**values, "version": _VERSION}.items()]
        with self._translating(), transaction(self._connection):
            self._connection.executemany("INSERT OR REPLACE INTO settings VALUES (?, ?)", rows)

    def files(self) -> dict[str, FileRecord]:
        """Return every file whose passages are in the store."""
        with self._translating():
            return {row[0]: _record(row) for row in self._connection.execute("SELECT * FROM files")}

    def count_passages(self) -> int:
        """Return how many passages all files have."""
        with self._translating():
            row = self._connection.execute("SELECT total(passages) FROM files").fetchone()
            return int(row[0])

    def pending(self) -> dict[str, Pending]:
        """Return the files whose passages were being written, by path."""
        with self._translating():
            rows = self._connection.execute("SELECT * FROM pending")
            return {row[0]: Pending(*row) for row in rows}

    def write_pending(self, files: Iterable[Pending]) -> None:
        """Say that passages of files are about to be written, or how many are."""
        rows = [(each.path, each.content, each.passages, each.written) for each in files]
        with self._translating(), transaction(self._connection):
            self._connection.executemany("INSERT OR REPLACE INTO pending VALUES (?, ?, ?, ?)", rows)

    def finish(self, files: Iterable[FileRecord]) -> None:
        """Say that the passages of files are in the store, and no older ones of them."""
        files = list(files)
        rows = [_row(record) for record in files]
        with self._translating(), transaction(self._connection):
            self._connection.executemany(
                "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?)", rows
            )
            gone = [(record.path,) for record in files]
            self._connection.executemany("DELETE FROM pending WHERE path = ?", gone)

    def begin_removal(self, version: Pending) -> None:
        """Say that the last passages of a file are about to be removed.

        Args:
            version: The file; from now on none of its passages are certain to be there.
        """
        row = (version.path, version.content, version.passages, 0)
        with self._translating(), transaction(self._connection):
            self._connection.execute("DELETE FROM files WHERE path = ?", (version.path,))
            self._connection.execute("INSERT OR REPLACE INTO pending VALUES (?, ?, ?, ?)", row)

    def drop_pending(self, path: str) -> None:
        """Say that what was being written of a file has been taken back."""
        with self._translating(), transaction(self._connection):
            self._connection.execute("DELETE FROM pending WHERE path = ?", (path,))

    def close(self) -> None:
        """Let the file go."""
        self._connection.close()

    @contextmanager
    def _translating(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as exc:
            raise translated(exc, f"the manifest of {self._url}") from exc


def _row(record: FileRecord) -> tuple[str | int | None, ...]:
    signature = record.signature
    numbers: tuple[int | None, ...] = (None,) * 4
    if signature is not None:
        numbers = (
            *(signature.size, signature.modified_ns),
            *(signature.changed_ns, signature.inode),
        )
    return (record.path, record.content, record.passages, *numbers)


def _record(row: tuple[Any, ...]) -> FileRecord:
    path, content, passages, *numbers = row
    signature = None if None in numbers else Signature(*numbers)
    return FileRecord(path, content, passages, signature)
