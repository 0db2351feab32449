"""PostgreSQL with pgvector: a table in a database that is there already.

An int8 vector it has not. "binary" searches bits and chooses the best by half-precision vectors.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import psycopg
from pgvector import Bit, HalfVector, Vector
from pgvector.psycopg import register_vector
from psycopg import sql

from polyrank.errors import StoreError
from polyrank.stores.base import (
    OVERSAMPLING,
    Entry,
    Found,
    Metadata,
    Store,
    StoreSettings,
    to_bits,
)
from polyrank.stores.entries import dumps, row_dtype
from polyrank.types import Float32Array

_MADE = sql.SQL("""
CREATE TABLE {table} (id text PRIMARY KEY, text text NOT NULL, metadata jsonb NOT NULL, {columns});
CREATE INDEX ON {table} USING gin (metadata jsonb_path_ops);
CREATE INDEX ON {table} USING gin (to_tsvector('simple', text));
COMMENT ON TABLE {table} IS {settings};
""")
_COLUMNS = {
    "float32": "vector vector({size})",
    "float16": "vector halfvec({size})",
    "binary": "vector bit({size}), fine halfvec({size})",
}
_OPERATORS = {
    "float32": ("<=>", "vector_cosine_ops"),
    "float16": ("<=>", "halfvec_cosine_ops"),
    "binary": ("<~>", "bit_hamming_ops"),
}


class PostgresStore(Store):
    """A table of PostgreSQL; `optimize` makes an HNSW index, without it search is exact."""

    capabilities = frozenset({"rows", "scan", "text", "index"})
    dtypes = ("float32", "float16", "binary")
    foreign_errors = (OSError, psycopg.Error)

    def __init__(self, url: str, settings: StoreSettings) -> None:
        """Connect, as to ``postgresql://USER@HOST/DATABASE``; see `Store`."""
        super().__init__(url, settings)
        self._table, self._dtype = sql.Identifier(settings.collection), settings.dtype
        self._names = ["id", "text", "metadata", "vector"]
        self._names += ["fine"] if settings.dtype == "binary" else []
        self._names += ["rows"] if settings.row_dimensions else []
        with self._translating():
            self._connection = psycopg.connect(url, autocommit=True, connect_timeout=10)
            try:
                self._open()
            except BaseException:
                self._connection.close()
                raise

    def _open(self) -> None:
        run, settings = self._connection.execute, self.settings
        if not run("SELECT 1 FROM pg_extension WHERE extname = 'vector'").fetchone():
            run("CREATE EXTENSION IF NOT EXISTS vector")
        register_vector(self._connection)
        known = "SELECT obj_description(to_regclass(quote_ident(%s)), 'pg_class')"
        exists = "SELECT to_regclass(quote_ident(%s))"
        if run(exists, (settings.collection,)).fetchone() == (None,):
            if not settings.create:
                raise StoreError(f"{self.url} holds no table {settings.collection}.")
            self._make()
        comment = run(known, (settings.collection,)).fetchone()
        try:
            held = json.loads(comment[0] if comment else "")["polyrank"]
        except (TypeError, ValueError, KeyError) as exc:
            raise StoreError(
                f"the table {settings.collection} of {self.url} is none of polyrank's. Name "
                "another collection."
            ) from exc
        self._compare(*held)

    def _make(self) -> None:
        settings = self.settings
        columns = _COLUMNS[settings.dtype].format(size=settings.dimensions)
        columns += ", rows bytea" if settings.row_dimensions else ""
        held = [settings.dimensions, settings.dtype, settings.row_dimensions]
        made = _MADE.format(
            table=self._table,
            columns=sql.SQL(columns),
            settings=sql.Literal(json.dumps({"polyrank": held})),
        )
        with self._connection.transaction():
            self._connection.execute(made)

    def _upsert(self, entries: Sequence[Entry]) -> None:
        names = self._names
        add = sql.SQL("INSERT INTO {} ({}) VALUES ({}) ON CONFLICT (id) DO UPDATE SET {}").format(
            self._table,
            sql.SQL(", ").join(map(sql.Identifier, names)),
            sql.SQL(", ").join([sql.Placeholder()] * len(names)),
            sql.SQL(", ").join(
                sql.SQL("{0} = EXCLUDED.{0}").format(sql.Identifier(name)) for name in names[1:]
            ),
        )
        with self._connection.transaction(), self._connection.cursor() as cursor:
            cursor.executemany(add, [self._row(entry) for entry in entries])

    def _row(self, entry: Entry) -> list[Any]:
        row = [entry.id, entry.text, dumps(entry.metadata), self._asked(entry.vector)]
        if self._dtype == "binary":
            row.append(HalfVector(entry.vector))
        if self.settings.row_dimensions:
            kind = row_dtype(self.settings)
            row.append(None if entry.rows is None else entry.rows.astype(kind).tobytes())
        return row

    def _asked(self, vector: Float32Array) -> Any:
        """Return a vector as its column has it."""
        if self._dtype == "binary":
            bits = np.unpackbits(to_bits(vector[None])[0], count=len(vector))
            return Bit(bits.astype(bool))
        return Vector(vector) if self._dtype == "float32" else HalfVector(vector)

    def _search(
        self, vector: Float32Array, top_k: int, filter: Any, return_rows: bool
    ) -> list[Found]:
        condition, values = _where(filter)
        is_binary = self._dtype == "binary"
        near = sql.SQL(
            "SELECT id, text, metadata, {rows} AS rows, {finest} AS finest FROM {table} "
            "WHERE {condition} ORDER BY vector {operator} %s LIMIT %s"
        ).format(
            rows=sql.SQL("rows" if return_rows and self._holds_rows else "NULL"),
            finest=sql.Identifier("fine" if is_binary else "vector"),
            table=self._table,
            condition=condition,
            operator=sql.SQL(_OPERATORS[self._dtype][0]),
        )
        best = sql.SQL(
            "SELECT id, text, metadata, rows, 1 - (finest <=> %s) FROM ({near}) AS near "
            "ORDER BY finest <=> %s LIMIT %s"
        ).format(
            near=near,
            rows=sql.Identifier("rows" if return_rows and self._holds_rows else "?column?"),
        )
        wanted = top_k * OVERSAMPLING if is_binary else top_k
        finest = Vector(vector) if self._dtype == "float32" else HalfVector(vector)
        with self._connection.transaction():
            # an index looks at so many at least, and goes on where a filter lets few through
            width = min(max(wanted, 40), 1_000)
            self._connection.execute(f"SET LOCAL hnsw.ef_search = {width}")
            self._connection.execute("SET LOCAL hnsw.iterative_scan = strict_order")
            asked = (finest, *values, self._asked(vector), wanted, finest, top_k)
            return [self._found(row) for row in self._connection.execute(best, asked)]

    @property
    def _holds_rows(self) -> bool:
        return self.settings.row_dimensions > 0

    def _search_text(self, text: str, top_k: int, filter: Any) -> list[Found]:
        condition, values = _where(filter)
        search = sql.SQL(
            "SELECT id, text, metadata, NULL, ts_rank_cd(to_tsvector('simple', text), words) "
            "FROM {}, CAST(replace(plainto_tsquery('simple', %s)::text, '&', '|') AS tsquery) "
            "AS words WHERE to_tsvector('simple', text) @@ words AND {} ORDER BY 5 DESC LIMIT %s"
        ).format(self._table, condition)
        rows = self._connection.execute(search, (text, *values, top_k))
        return [self._found(row) for row in rows]

    def _found(self, row: Sequence[Any]) -> Found:
        name, text, facts, data, score = row
        return Found(name, text, float(score), facts, self._unpacked(data))

    def _unpacked(self, data: bytes | None) -> Float32Array | None:
        if data is None:
            return None
        flat = np.frombuffer(data, row_dtype(self.settings)).astype(np.float32)
        return flat.reshape(-1, self.settings.row_dimensions)

    def _get_rows(self, ids: list[str]) -> Iterable[tuple[str, Float32Array | None]]:
        select = sql.SQL("SELECT id, rows FROM {} WHERE id = ANY(%s)").format(self._table)
        rows = self._connection.execute(select, (ids,))
        return ((name, self._unpacked(data)) for name, data in rows)

    def _delete(self, ids: list[str]) -> None:
        remove = sql.SQL("DELETE FROM {} WHERE id = ANY(%s)").format(self._table)
        self._connection.execute(remove, (ids,))

    def _count(self) -> int:
        select = sql.SQL("SELECT count(*) FROM {}").format(self._table)
        row = self._connection.execute(select).fetchone()
        return int(row[0]) if row else 0

    def _scan(self) -> Iterator[tuple[str, Metadata]]:
        select = sql.SQL("SELECT id, metadata FROM {}").format(self._table)
        with self._connection.transaction(), self._connection.cursor("scan") as cursor:
            yield from cursor.execute(select)

    def _optimize(self) -> None:
        operators = sql.SQL(_OPERATORS[self._dtype][1])
        name = sql.Identifier(f"{self.settings.collection}_hnsw")
        index = sql.SQL("CREATE INDEX IF NOT EXISTS {} ON {} USING hnsw (vector {})")
        self._connection.execute(index.format(name, self._table, operators))
        self._connection.execute(sql.SQL("VACUUM ANALYZE {}").format(self._table))

    def _close(self) -> None:
        self._connection.close()


def _where(filter: Any) -> tuple[Any, list[Any]]:
    """Return a condition and its values: of equalities, or in SQL as it is given."""
    if not filter:
        return sql.SQL("TRUE"), []
    if isinstance(filter, Mapping):
        return sql.SQL("metadata @> %s"), [dumps(filter)]
    given = filter if isinstance(filter, sql.Composable) else sql.SQL(filter.replace("%", "%%"))
    return given, []
