"""LanceDB: the embedded store to begin with; a table in a folder, nothing to start.

Metadata are columns of their own, so that LanceDB's filters (SQL) name them: ``lang = 'de'``.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa
from lancedb.index import FTS, BTree, HnswSq, IvfFlat
from numpy.typing import NDArray

from polyrank.errors import InputError, StoreError
from polyrank.stores.base import (
    OVERSAMPLING,
    RESERVED,
    Entry,
    Found,
    Metadata,
    Scalar,
    Store,
    StoreSettings,
    cosines_with,
    to_bits,
    to_int8,
)
from polyrank.types import Float32Array

_VALUES = {"float32": pa.float32(), "float16": pa.float16(), "binary": pa.int8()}
_LEAST_INDEXED = 10_000  # entries; fewer are searched one by one in milliseconds
_MISSING = re.compile("not found|does not exist")


class LanceStore(Store):
    """A table of LanceDB. Other processes may read it, and see what is written after a second."""

    capabilities = frozenset({"rows", "scan", "text", "index"})
    dtypes = ("float32", "float16", "binary")
    foreign_errors = (OSError, RuntimeError, ValueError)

    def __init__(self, url: str, settings: StoreSettings) -> None:
        """Open a folder, as in ``lancedb://index``; see `Store`."""
        super().__init__(url, settings)
        with self._translating():
            database = lancedb.connect(
                url.partition("://")[2], read_consistency_interval=timedelta(seconds=1)
            )
            try:
                self._table = database.open_table(settings.collection)
            except ValueError as exc:
                if not _MISSING.search(str(exc)):
                    raise
                if not settings.create:
                    raise StoreError(f"{url} holds no table {settings.collection}.") from exc
                self._table = database.create_table(settings.collection, schema=self._schema())
        vectors, rows = self._columns.get("vector"), self._columns.get("rows")
        if vectors is None:
            raise StoreError(f"the table {settings.collection} of {url} is none of polyrank's.")
        names = {str(value): name for name, value in _VALUES.items()}
        width = 0 if rows is None else rows.type.value_type.list_size
        self._compare(vectors.type.list_size, names[str(vectors.type.value_type)], width)

    @property
    def _columns(self) -> dict[str, Any]:
        return {column.name: column for column in self._table.schema}

    def _schema(self) -> Any:
        settings = self.settings
        value = _VALUES[settings.dtype]
        columns = [
            ("id", pa.string()),
            ("text", pa.string()),
            ("vector", pa.list_(value, settings.dimensions)),
        ]
        if settings.dtype == "binary":
            columns.append(("bits", pa.list_(pa.uint8(), -(-settings.dimensions // 8))))
        if settings.row_dimensions:
            # of the type of the vectors, so that float32 rows give the scores of reading
            row = pa.float32() if settings.dtype == "float32" else pa.float16()
            columns.append(("rows", pa.list_(pa.list_(row, settings.row_dimensions))))
        return pa.schema(columns)

    def _upsert(self, entries: Sequence[Entry]) -> None:
        facts = self._facts(entries)
        vectors = np.stack([entry.vector for entry in entries])
        columns = self._columns
        data = {
            "id": pa.array([entry.id for entry in entries]),
            "text": pa.array([entry.text for entry in entries], pa.string()),
            "vector": _lists(
                to_int8(vectors) if "bits" in columns else vectors, columns["vector"].type
            ),
            **facts,
        }
        if "bits" in columns:
            data["bits"] = _lists(to_bits(vectors), columns["bits"].type)
        if "rows" in columns:
            data["rows"] = _ragged([entry.rows for entry in entries], columns["rows"].type)
        missing = (column for name, column in self._columns.items() if name not in data)
        data |= {column.name: pa.nulls(len(entries), column.type) for column in missing}
        batch = pa.table(data)
        if not self._table.count_rows():
            self._table.add(batch)
            return
        merge = self._table.merge_insert("id").when_matched_update_all()
        merge.when_not_matched_insert_all().execute(batch)

    def _facts(self, entries: Sequence[Entry]) -> dict[str, Any]:
        """Return the columns of metadata; those that the table lacks are made."""
        columns, facts = self._columns, {}
        for key in dict.fromkeys(key for entry in entries for key in entry.metadata):
            values = [entry.metadata.get(key) for entry in entries]
            try:
                facts[key] = pa.array(values, columns[key].type if key in columns else None)
            except (pa.ArrowInvalid, pa.ArrowTypeError) as exc:
                raise InputError(
                    f"metadata {key!r} must be of one type in all entries of {self.url}: {exc}"
                ) from exc
        missing = [
            pa.field(key, column.type) for key, column in facts.items() if key not in columns
        ]
        if missing:
            self._table.add_columns(missing)
        return facts

    def _search(
        self, vector: Float32Array, top_k: int, filter: Any, return_rows: bool
    ) -> list[Found]:
        is_binary = "bits" in self._columns
        asked: NDArray[Any] = to_bits(vector[None])[0] if is_binary else vector
        search = self._table.search(asked, vector_column_name="bits" if is_binary else "vector")
        search = search.distance_type("hamming" if is_binary else "cosine")
        search = search.limit(top_k * OVERSAMPLING if is_binary else top_k)
        more = ["vector", "_distance"] if is_binary else ["_distance"]
        table = self._read(search, filter, return_rows, more)
        if table is None:
            return []
        if not is_binary:
            return _found(table, 1 - np.asarray(table["_distance"]))
        fine = np.asarray(table["vector"].combine_chunks().flatten()).reshape(
            len(table), vector.size
        )
        scores = cosines_with(vector, fine)
        best = np.argsort(-scores, kind="stable")[:top_k]
        return _found(table.drop_columns("vector").take(best), scores[best])

    def _search_text(self, text: str, top_k: int, filter: Any) -> list[Found]:
        if not any("text" in index.columns for index in self._table.list_indices()):
            self._index_text()
        search = self._table.search(text, query_type="fts", fts_columns="text").limit(top_k)
        table = self._read(search, filter, False, ["_score"])
        return [] if table is None else _found(table, np.asarray(table["_score"]))

    def _read(self, search: Any, filter: Any, return_rows: bool, more: list[str]) -> Any:
        """Return the entries that a search finds; None where no entry can fit the filter."""
        columns = self._columns
        if isinstance(filter, Mapping):
            if not columns.keys() >= filter.keys():
                return None
            filter = " AND ".join(f"`{key}` = {_literal(v)}" for key, v in filter.items())
        if filter:
            search = search.where(filter, prefilter=True)
        hidden = {"vector", "bits"} if return_rows else {"vector", "bits", "rows"}
        wanted = [name for name in columns if name not in hidden] + more
        return search.select(wanted).to_arrow()

    def _get_rows(self, ids: list[str]) -> Iterable[tuple[str, Float32Array | None]]:
        search = self._table.search().where(f"id IN ({', '.join(map(_literal, ids))})")
        table = search.select(["id", "rows"]).limit(len(ids)).to_arrow()
        return zip(table["id"].to_pylist(), map(_matrix, table["rows"]), strict=True)

    def _delete(self, ids: list[str]) -> None:
        self._table.delete(f"id IN ({', '.join(map(_literal, ids))})")

    def _count(self) -> int:
        return int(self._table.count_rows())

    def _scan(self) -> Iterator[tuple[str, Metadata]]:
        names = [name for name in self._columns if name not in RESERVED - {"id"}]
        for batch in self._table.search().select(names).limit(None).to_batches():
            for row in batch.to_pylist():
                name = row.pop("id")
                yield name, {key: value for key, value in row.items() if value is not None}

    def _optimize(self) -> None:
        """Join small files, drop versions older than a minute, and bring the indexes up to date."""
        if self._table.count_rows() >= _LEAST_INDEXED:
            is_binary = "bits" in self._columns
            if is_binary:
                self._table.create_index("bits", config=IvfFlat(distance_type="hamming"))
            else:
                self._table.create_index("vector", config=HnswSq(distance_type="cosine"))
            self._table.create_index("id", config=BTree())
        self._table.optimize(cleanup_older_than=timedelta(minutes=1))

    def _index_text(self) -> None:
        # words of any script, as they are: no language's stemming or stop words
        words = FTS(base_tokenizer="icu", stem=False, remove_stop_words=False)
        self._table.create_index("text", config=words)

    def _close(self) -> None:
        """Nothing is open: each call reads and writes files."""


def _lists(rows: NDArray[Any], kind: Any) -> Any:
    """Return rows of a matrix as a column of lists of a fixed size."""
    flat = rows.astype(kind.value_type.to_pandas_dtype(), copy=False).reshape(-1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), kind.list_size)


def _ragged(rows: Sequence[Float32Array | None], kind: Any) -> Any:
    """Return matrices of any number of rows as a column; None where there is none."""
    inner = kind.value_type
    sizes = [0 if part is None else len(part) for part in rows]
    offsets = pa.array(np.concatenate([[0], np.cumsum(sizes)]), pa.int32())
    given = [part for part in rows if part is not None]
    flat = np.concatenate([np.empty((0, inner.list_size), np.float32), *given])
    is_missing = pa.array([part is None for part in rows])
    return pa.ListArray.from_arrays(offsets, _lists(flat, inner), type=kind, mask=is_missing)


def _literal(value: Scalar) -> str:
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return str(value).upper() if isinstance(value, bool) else repr(value)


def _found(table: Any, scores: NDArray[Any]) -> list[Found]:
    """Return the rows of a table of hits with their scores, in its order."""
    rows: list[Float32Array | None] = [None] * len(table)
    if "rows" in table.column_names:
        rows = [_matrix(part) for part in table["rows"]]
    names = [name for name in table.column_names if name not in ("rows", "_distance", "_score")]
    return [
        Found(
            row.pop("id"),
            row.pop("text"),
            float(score),
            {key: value for key, value in row.items() if value is not None},
            own,
        )
        for row, score, own in zip(table.select(names).to_pylist(), scores, rows, strict=True)
    ]


def _matrix(part: Any) -> Float32Array | None:
    if not part.is_valid:
        return None
    flat = part.values.flatten().to_numpy(zero_copy_only=False)
    return np.asarray(flat, np.float32).reshape(-1, part.type.value_type.list_size)
