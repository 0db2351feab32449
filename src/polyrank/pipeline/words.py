"""An index of words beside a store that searches none: BM25 in a file of SQLite.

Words are polyrank's own for any language (`polyrank.evaluation.lexical`), put into SQLite's full
text search as they are.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from polyrank.evaluation.lexical import tokenize
from polyrank.stores.base import Entry, Found, StoreSettings
from polyrank.stores.entries import BUSY_S, EntryTable, where
from polyrank.stores.failures import translated

_NAME = "words"
# what is left of a word after `tokenize` are letters, digits and marks, which belong together
_MADE = """
CREATE VIRTUAL TABLE {{name}}_words
    USING fts5(words, tokenize="unicode61 remove_diacritics 0 categories 'L* N* M* Co'")"""


class WordIndex:
    """Texts and metadata of a store's entries, searched by words."""

    def __init__(self, path: Path, url: str) -> None:
        """Open it, or make it.

        Args:
            path: Its file.
            url: The store, for messages.

        Raises:
            StoreError: If it cannot be opened.
        """
        self._url = url
        with self._translating():
            self._connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
            settings = StoreSettings(1, collection=_NAME)
            self._entries = EntryTable(self._connection, settings, url, _MADE.format())

    def add(self, entries: Sequence[Entry]) -> None:
        """Keep entries, in place of those of the same names."""
        with self._translating(), self._entries.writing():
            numbers, gone = self._entries.upsert(entries)
            self._forget(gone)
            rows = [
                (number, " ".join(tokenize(entry.text)))
                for number, entry in zip(numbers, entries, strict=True)
            ]
            self._connection.executemany(
                f"INSERT INTO {_NAME}_words (rowid, words) VALUES (?, ?)", rows
            )

    def delete(self, ids: Iterable[str]) -> None:
        """Remove entries by their names."""
        with self._translating(), self._entries.writing():
            self._forget(self._entries.delete(ids))

    def query_text(self, text: str, top_k: int, *, filter: Any = None) -> list[Found]:
        """Return the entries whose words match a text best; see `Store.query_text`."""
        asked = " OR ".join(f'"{word}"' for word in dict.fromkeys(tokenize(text)))
        if not asked:
            return []
        clause, values = where(filter)
        select = (
            f"SELECT rowid, -bm25({_NAME}_words) FROM {_NAME}_words "
            f"WHERE {_NAME}_words MATCH ? AND rowid IN "
            f"(SELECT number FROM {_NAME}_entries WHERE {clause}) ORDER BY 2 DESC LIMIT ?"
        )
        with self._translating():
            rows = self._connection.execute(select, (asked, *values, top_k)).fetchall()
            return self._entries.found((row[0] for row in rows), (row[1] for row in rows), False)

    def close(self) -> None:
        """Let the file go."""
        self._connection.close()

    def _forget(self, numbers: Iterable[int]) -> None:
        remove = f"DELETE FROM {_NAME}_words WHERE rowid = ?"
        self._connection.executemany(remove, [(number,) for number in numbers])

    @contextmanager
    def _translating(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as exc:
            raise translated(exc, f"the index of words beside {self._url}") from exc
