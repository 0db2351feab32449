"""Where results go: JSON lines to standard output, or a file in the format that its name says."""

import csv
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TextIO

import numpy as np
from numpy.typing import NDArray

from polyrank._extras import require
from polyrank._files import replacing
from polyrank.errors import ConfigError, DataError

STDOUT = "-"
LINES = (".jsonl", ".ndjson")
ROW_SUFFIXES = (*LINES, ".json", ".csv", ".tsv", ".parquet")
VECTOR_SUFFIXES = (".npy", ".parquet", *LINES)
_SUFFIXES_OF_FILES = (
    *ROW_SUFFIXES,
    *(".npy", ".txt", ".md", ".html", ".png", ".gz", ".zip"),
    *(".safetensors", ".onnx", ".gguf", ".bin", ".pt"),
)

Row = Mapping[str, Any]


def check_output(output: str | None, suffixes: Sequence[str]) -> None:
    """Raise before any work unless results can be written in the format that a name asks for.

    Args:
        output: What was given as --output.
        suffixes: Endings that the command writes.

    Raises:
        ConfigError: If the ending stands for another format, or a folder has the name.
        MissingExtraError: If the library that writes it is not installed.
    """
    if output is None or output == STDOUT:
        return
    path = Path(output)
    if path.is_dir():
        raise ConfigError(f"--output {output} is a folder. Name a file in it.")
    if _suffix(output) not in ("", *suffixes):
        raise ConfigError(
            f"--output {output}: nothing is written as {path.suffix} here. Name a file that ends "
            f"in {', '.join(suffixes)}; without an ending it gets JSON lines."
        )
    if _suffix(output) == ".parquet":
        require("parquet", purpose="Writing Parquet files")


def check_folder(output: Path | None) -> None:
    """Raise if the name of a folder to make is that of a file.

    Args:
        output: What was given as --output.

    Raises:
        ConfigError: If it ends as files do.
    """
    if output is not None and output.suffix.lower() in _SUFFIXES_OF_FILES:
        raise ConfigError(f"--output {output} is to be a folder, and that is a file's name.")


def _suffix(output: str | None) -> str:
    return "" if output in (None, STDOUT) else Path(str(output)).suffix.lower()


@contextmanager
def text_output(output: str | None) -> Iterator[TextIO]:
    """Give standard output, or a file that appears only when all of it is written."""
    if output in (None, STDOUT, "/dev/stdout"):  # opened anew, a redirected file would be emptied
        yield sys.stdout
        sys.stdout.flush()
        return
    with replacing(Path(str(output))) as path, path.open("w", encoding="utf8", newline="") as file:
        yield file


def write_rows(rows: Sequence[Row], output: str | None) -> None:
    """Write rows in the format that the ending of a name says.

    Args:
        rows: The rows; not all need have the same fields.
        output: Name of a file; None or "-" is standard output.

    Raises:
        DataError: If a field holds values that the format cannot keep.
    """
    suffix = _suffix(output)
    if suffix == ".parquet":
        with replacing(Path(str(output))) as path:
            parquet = ParquetSink(path)
            try:
                parquet.write_rows(rows)
            finally:
                parquet.close()
        return
    with text_output(output) as file:
        if suffix in (".csv", ".tsv"):
            _write_table(rows, file, "," if suffix == ".csv" else "\t")
        elif suffix == ".json":
            file.write(json.dumps(rows, ensure_ascii=False, default=str, indent=1) + "\n")
        else:
            write_lines(rows, file)


def write_lines(rows: Iterable[Row], file: TextIO) -> None:
    """Write one JSON object a line, in UTF-8 without escapes."""
    for row in rows:
        file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")


def _names(rows: Iterable[Row]) -> list[str]:
    """Return the fields that any row has, in the order in which they come."""
    return list(dict.fromkeys(name for row in rows for name in row))


def _write_table(rows: Sequence[Row], file: TextIO, delimiter: str) -> None:
    """Write a table whose cells are texts; a mapping becomes a column for each of its keys."""
    flat = [dict(_cells(row)) for row in rows]
    writer = csv.DictWriter(file, _names(flat), delimiter=delimiter, lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)


def _cells(row: Row) -> Iterator[tuple[str, object]]:
    for name, value in row.items():
        if isinstance(value, Mapping):
            yield from _cells({f"{name}.{key}": each for key, each in value.items()})
        elif isinstance(value, list | tuple):
            yield name, json.dumps(value, ensure_ascii=False, default=str)
        else:
            yield name, value


class Sink(Protocol):
    """Takes vectors part by part."""

    def write(self, rows: Sequence[Row], vectors: NDArray[Any]) -> None:
        """Take some rows and their vectors."""
        ...


class LineSink:
    """JSON lines."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, rows: Sequence[Row], vectors: NDArray[Any]) -> None:
        """Write one line a row."""
        pairs = zip(rows, vectors, strict=True)
        write_lines(({**row, "embedding": vector.tolist()} for row, vector in pairs), self._file)


class ArraySink:
    """A NumPy file; its header needs the count, so parts are kept until the end."""

    def __init__(self) -> None:
        self._parts: list[NDArray[Any]] = []

    def write(self, rows: Sequence[Row], vectors: NDArray[Any]) -> None:
        """Keep the vectors."""
        self._parts.append(vectors)

    def save(self, path: Path) -> None:
        """Write all of them."""
        whole = np.concatenate(self._parts) if self._parts else np.empty((0, 0), np.float32)
        with path.open("wb") as file:
            # handed over as bytes: NumPy's own way needs a file that has positions, not a pipe
            np.lib.format.write_array_header_1_0(
                file, np.lib.format.header_data_from_array_1_0(whole)
            )
            file.write(np.ascontiguousarray(whole).data)


class ParquetSink:
    """A Parquet file with the rows' fields, and perhaps a column of vectors."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: Any = None

    def write(self, rows: Sequence[Row], vectors: NDArray[Any]) -> None:
        """Write one group of rows with their vectors."""
        import pyarrow as pa

        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
        self._append(rows, {"embedding": column})

    def write_rows(self, rows: Sequence[Row]) -> None:
        """Write one group of rows."""
        self._append(rows, {})

    def _append(self, rows: Sequence[Row], more: Mapping[str, Any]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        names = [name for name in _names(rows) if name not in more]
        try:
            columns = {name: pa.array([row.get(name) for row in rows]) for name in names}
            table = pa.table({**columns, **more})
            if self._writer is None:
                self._writer = pq.ParquetWriter(self._path, table.schema)
            schema = self._writer.schema
            if new := set(table.column_names) - set(schema.names):
                raise DataError(f"fields that no earlier row has: {', '.join(sorted(new))}")
            absent = [field for field in schema if field.name not in table.column_names]
            for field in absent:
                table = table.append_column(field, pa.nulls(len(rows), field.type))
            self._writer.write_table(table.select(schema.names).cast(schema))
        except (pa.ArrowException, DataError) as exc:
            if isinstance(exc, OSError):
                raise
            raise DataError(
                f"the rows do not fit into one Parquet table: {exc}. Write .jsonl instead, or give "
                "every row the same fields, each of one type."
            ) from exc

    def close(self) -> None:
        """Write the footer."""
        if self._writer is not None:
            self._writer.close()


@contextmanager
def vector_sink(output: str | None) -> Iterator[Sink]:
    """Give what writes vectors in the format that the ending of a name says."""
    suffix = _suffix(output)
    if suffix not in (".npy", ".parquet"):
        with text_output(output) as file:
            yield LineSink(file)
        return
    with replacing(Path(str(output))) as path:
        if suffix == ".npy":
            array = ArraySink()
            yield array
            array.save(path)
        else:
            parquet = ParquetSink(path)
            try:
                yield parquet
            finally:
                parquet.close()
