"""File formats of input: how long a file is, what columns it has, and a slice of its rows.

Rows come as a stream: whoever asks for slices in a row reads a file once. Knows no job.
"""

import gzip
import io
import json
from codecs import BOM_UTF8
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from polyrank.bulk.rows import PoisonRow, Rows, as_table, infer_schema, shown

READ_ROWS = 2048  # at a time
LONGEST_LINE = 64 * 2**20  # bytes; a longer one is poison
SAMPLE_ROWS, SAMPLE_BYTES = 1000, 2**20  # of a file of JSON lines, by which its columns are known
_READ_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Measured:
    """What is known of a file before its rows are read.

    Attributes:
        length: Rows; for JSON lines that can be cut anywhere, bytes.
        row_bytes: Bytes of a row in memory, on average.
        schema: Its columns.
    """

    length: int
    row_bytes: float
    schema: pa.Schema


class Slices(Protocol):
    """An open file that gives slices of its rows."""

    def read(self, start: int, stop: int) -> Rows:
        """Return what begins between two places."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


class TableSlices:
    """Slices of Parquet and Arrow files, and of Lance tables."""

    def __init__(self, source: "TableSource", columns: Sequence[str] | None) -> None:
        own = source.schema.names
        self._columns = None if columns is None else [name for name in columns if name in own]
        self._source = source
        self._batches: Iterator[pa.RecordBatch] | None = None
        self._at = 0
        self._left: pa.RecordBatch | None = None

    def read(self, start: int, stop: int) -> Rows:
        """Return rows by their numbers."""
        if self._batches is None or start < self._at:
            self._batches, self._at = self._source.batches(start, self._columns)
            self._left = None
        parts = []
        while self._at < stop:
            batch = self._left if self._left is not None else next(self._batches, None)
            self._left = None
            if batch is None:
                raise pa.ArrowInvalid(f"the file ends at row {self._at}, before row {stop}")
            end = self._at + len(batch)
            low, high = max(start - self._at, 0), min(stop - self._at, len(batch))
            if high > low:
                parts.append(batch.slice(low, high - low))
            if end > stop:
                self._left, end = batch.slice(high), stop
            self._at = end
        schema = self._source.schema
        if self._columns is not None:
            schema = pa.schema([schema.field(name) for name in self._columns])
        return Rows(pa.Table.from_batches(parts, schema), range(start, stop))

    def close(self) -> None:
        """Close the file."""
        self._source.close()


class TableSource(Protocol):
    """A table that gives its rows from one on."""

    @property
    def schema(self) -> pa.Schema:
        """Its columns."""
        ...

    def measure(self) -> Measured:
        """Return how long it is."""
        ...

    def batches(
        self, start: int, columns: Sequence[str] | None
    ) -> tuple[Iterator[pa.RecordBatch], int]:
        """Return batches that begin at or before a row, and the number of their first row."""
        ...

    def close(self) -> None:
        """Close it."""
        ...


class ParquetSource:
    """A Parquet file."""

    def __init__(self, file: Any) -> None:
        self._file = pq.ParquetFile(file)

    @property
    def schema(self) -> pa.Schema:
        """Its columns."""
        return self._file.schema_arrow.remove_metadata()

    def measure(self) -> Measured:
        """Return how long it is, by its footer."""
        footer = self._file.metadata
        groups = [footer.row_group(i).total_byte_size for i in range(footer.num_row_groups)]
        return Measured(footer.num_rows, sum(groups) / max(footer.num_rows, 1), self.schema)

    def batches(
        self, start: int, columns: Sequence[str] | None
    ) -> tuple[Iterator[pa.RecordBatch], int]:
        """Begin with the row group that holds a row."""
        footer, first, group = self._file.metadata, 0, 0
        while group < footer.num_row_groups and first + footer.row_group(group).num_rows <= start:
            first += footer.row_group(group).num_rows
            group += 1
        wanted = range(group, footer.num_row_groups)
        found = self._file.iter_batches(
            READ_ROWS, row_groups=list(wanted), columns=None if columns is None else list(columns)
        )
        return (found if len(wanted) else iter(())), first

    def close(self) -> None:
        """Close the file."""
        self._file.close(force=True)


class ArrowSource:
    """An Arrow stream, as the folders of Hugging Face `datasets` hold."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.schema: pa.Schema = self._opened().schema.remove_metadata()

    def _opened(self) -> Any:
        self._file.seek(0)
        return pa.ipc.open_stream(self._file)

    def measure(self) -> Measured:
        """Return how long it is; all of it is read."""
        rows = size = 0
        for batch in self._opened():
            rows, size = rows + len(batch), size + batch.nbytes
        return Measured(rows, size / max(rows, 1), self.schema)

    def batches(
        self, start: int, columns: Sequence[str] | None
    ) -> tuple[Iterator[pa.RecordBatch], int]:
        """Begin with the first row."""
        found = iter(self._opened())
        return (b if columns is None else b.select(list(columns)) for b in found), 0

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class LanceSource:
    """A Lance table."""

    def __init__(self, url: str, version: int | None = None) -> None:
        import lance

        self._table = lance.dataset(url, version=version)

    @property
    def version(self) -> int:
        """Number of the version that is read."""
        return int(self._table.version)

    @property
    def schema(self) -> pa.Schema:
        """Its columns."""
        return self._table.schema.remove_metadata()

    def measure(self) -> Measured:
        """Return how long it is."""
        rows = self._table.count_rows()
        first = self._table.head(min(rows, READ_ROWS))
        return Measured(rows, first.nbytes / max(len(first), 1), self.schema)

    def batches(
        self, start: int, columns: Sequence[str] | None
    ) -> tuple[Iterator[pa.RecordBatch], int]:
        """Begin with the row itself."""
        chosen = None if columns is None else list(columns)
        scanner = self._table.scanner(
            columns=chosen, offset=start, batch_size=READ_ROWS, scan_in_order=True
        )
        return scanner.to_batches(), start

    def close(self) -> None:
        """Nothing is open."""


class LineSlices:
    """Slices of JSON lines: by bytes, or by lines where a compressed file cannot be cut."""

    def __init__(
        self,
        file: Any,
        name: str,
        schema: pa.Schema,
        *,
        is_compressed: bool,
        is_selective: bool = False,
    ) -> None:
        """Take an open file.

        Args:
            file: It, in bytes.
            name: Name for records.
            schema: The columns to read.
            is_compressed: Whether it is gzip.
            is_selective: Whether fields that the columns lack are left out rather than refused.
        """
        self._is_selective = is_selective
        self._file = gzip.GzipFile(fileobj=file) if is_compressed else file
        self._name, self._schema, self._is_compressed = name, schema, is_compressed
        self._unit = "row" if is_compressed else "byte"
        self._at = 0  # of the line that comes next, in the unit

    def read(self, start: int, stop: int) -> Rows:
        """Return the lines that begin between two places."""
        self._go_to(start)
        rows: list[tuple[int, dict[str, Any]]] = []
        poison: list[PoisonRow] = []
        columns = set(self._schema.names)
        while self._at < stop:
            place = self._at
            line = self._next()
            if not line:
                break
            if not line.strip():
                continue
            try:
                row = json.loads(line.removeprefix(BOM_UTF8))
                if not isinstance(row, dict):
                    raise TypeError(f"a JSON {type(row).__name__}, not an object")
            except (ValueError, RecursionError, TypeError) as exc:
                reason = f"not a JSON object: {exc}" if len(line) <= LONGEST_LINE else _TOO_LONG
                content = shown(line[:4000].decode("utf8", "replace"))
                poison.append(PoisonRow(self._name, place, self._unit, reason, content))
                continue
            rows.append((place, row))
        if self._is_selective:
            rows = [(place, {k: row[k] for k in columns if k in row}) for place, row in rows]
        found = as_table(rows, self._schema, self._name, self._unit)
        found.poison = sorted(poison + found.poison, key=lambda each: each.place)
        return found

    def _go_to(self, start: int) -> None:
        if self._is_compressed:
            if start < self._at:
                self._file.seek(0)
                self._at = 0
            while self._at < start and self._next():
                pass
        elif start != self._at:
            # a line that begins before `start` belongs to the slice before
            self._at = max(start - 1, 0)
            self._file.seek(self._at)
            if start:
                self._next()

    def _next(self) -> bytes:
        """Return the next line; of one that is too long a little more than is allowed."""
        line = self._file.readline(LONGEST_LINE + 1)
        size = len(line)
        part = line
        while part and not part.endswith(b"\n") and size > LONGEST_LINE:
            part = self._file.readline(_READ_BYTES)
            size += len(part)
            if len(part) < _READ_BYTES:
                break
        self._at += 1 if self._is_compressed and line else size
        return bytes(line)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


_TOO_LONG = f"a line of more than {LONGEST_LINE:,} bytes"


def sample_lines(file: Any, *, is_compressed: bool) -> list[dict[str, Any]]:
    """Return the first rows of a file of JSON lines; lines that hold none are left out."""
    lines = gzip.GzipFile(fileobj=file) if is_compressed else file
    head = lines.read(SAMPLE_BYTES)
    cut = head if len(head) < SAMPLE_BYTES else head[: head.rfind(b"\n") + 1]
    rows = []
    for line in io.BytesIO(cut):
        try:
            row = json.loads(line.removeprefix(BOM_UTF8))
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            rows.append(row)
        if len(rows) == SAMPLE_ROWS:
            break
    return rows


def measure_lines(
    file: Any,
    size_bytes: int,
    texts: Sequence[str],
    wanted: Collection[str] | None = None,
    *,
    is_compressed: bool,
) -> Measured:
    """Return what a file of JSON lines holds, by its first rows.

    Args:
        file: The open file, in bytes.
        size_bytes: Its size.
        texts: Columns that must be texts.
        wanted: Columns to look at; None takes all.
        is_compressed: Whether it is gzip: its lines are counted then.

    Returns:
        Length in bytes, or in lines of a compressed file.

    Raises:
        DataError: If a column holds values of several types.
    """
    rows = sample_lines(file, is_compressed=is_compressed)
    schema = infer_schema(rows, texts, wanted)
    sizes = [len(json.dumps(row, ensure_ascii=False)) for row in rows]
    row_bytes = sum(sizes) / max(len(sizes), 1)
    if not is_compressed:
        return Measured(size_bytes, row_bytes, schema)
    file.seek(0)
    with closing(gzip.GzipFile(fileobj=file)) as lines:
        count, last = 0, b"\n"
        while part := lines.read(_READ_BYTES):
            count, last = count + part.count(b"\n"), part[-1:]
    return Measured(count + (last != b"\n"), row_bytes, schema)
