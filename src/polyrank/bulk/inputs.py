"""Input of a job: which files, how long, with which columns, and how they are cut."""

import zlib
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import pyarrow as pa

from polyrank._extras import require
from polyrank.bulk.formats import (
    ArrowSource,
    LanceSource,
    LineSlices,
    Measured,
    ParquetSource,
    Slices,
    TableSlices,
    measure_lines,
)
from polyrank.bulk.places import FoundFile, Place
from polyrank.errors import ConfigError, DataError

Kind = Literal["parquet", "arrow", "lines", "gzip_lines", "lance"]

SUFFIXES: dict[str, Kind] = {
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".jsonl": "lines",
    ".ndjson": "lines",
    ".jsonl.gz": "gzip_lines",
    ".ndjson.gz": "gzip_lines",
}
DATASET_DICT = "dataset_dict.json"
MEASURED_AT_ONCE = 16
PARTITION_BYTES = 64 * 2**20  # of rows in memory, at most: long texts make partitions of fewer rows
LINE_BYTES = 1024  # that count as a row where lines are cut by bytes


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file of the input.

    Attributes:
        path: Path in its file system.
        kind: Its format.
        size_bytes: Its size.
        version: What tells its content from an earlier one.
        length: Rows, or bytes of JSON lines.
        step: Length of its partitions.
    """

    path: str
    kind: Kind
    size_bytes: int
    version: str
    length: int
    step: int


@dataclass(frozen=True, slots=True)
class Split:
    """A slice of an input file: what a partition is made of.

    Attributes:
        index: Number of the partition.
        file: The file.
        start: First row, or byte at or after which its first line begins.
        stop: The one after the last.
    """

    index: int
    file: InputFile
    start: int
    stop: int

    @property
    def size_bytes(self) -> float:
        """Its share of the file."""
        return self.file.size_bytes * (self.stop - self.start) / max(self.file.length, 1)


def splits(files: Sequence[InputFile]) -> list[Split]:
    """Return the partitions of some files, in order."""
    found: list[Split] = []
    for file in files:
        for start in range(0, file.length, file.step):
            found.append(Split(len(found), file, start, min(start + file.step, file.length)))
    return found


def list_files(place: Place) -> list[tuple[FoundFile, Kind]]:
    """Return the files of an input.

    Args:
        place: A file, a folder of files, a Lance table, or a folder that `datasets` saved.

    Returns:
        Files and their formats, by path.

    Raises:
        DataError: If there is none.
        ConfigError: If the folder holds several data sets.
    """
    found = place.files()
    folder = place.path
    names = {file.path.removeprefix(f"{folder}/") for file in found}
    if DATASET_DICT in names:
        parts = sorted({name.partition("/")[0] for name in names if "/" in name})
        raise ConfigError(
            f"{place.url} holds several data sets: {', '.join(parts)}. Name one of the folders."
        )
    if any(name.startswith("_versions/") for name in names):
        size = sum(file.size_bytes for file in found)
        return [(FoundFile(folder, size, ""), "lance")]
    chosen = []
    for file in found:
        parts = file.path.removeprefix(folder).split("/")
        kind = kind_of(file.path)
        if kind is not None and not any(part.startswith(("_", ".")) for part in parts):
            chosen.append((file, kind))
    if not chosen:
        endings = ", ".join(SUFFIXES)
        what = f"it has {len(found):,} others" if found else "nothing is there"
        raise DataError(f"{place.url} holds no file that ends in {endings}: {what}.")
    return chosen


def kind_of(path: str) -> Kind | None:
    """Return the format that a name's ending says."""
    for suffix, kind in SUFFIXES.items():
        if path.lower().endswith(suffix):
            return kind
    return None


def measure(
    place: Place,
    texts: Sequence[str],
    partition_rows: int,
    wanted: Collection[str] | None = None,
) -> tuple[list[InputFile], pa.Schema]:
    """Return the files of an input with their lengths, and the columns that all have.

    Args:
        place: The input.
        texts: Columns that must be there, and texts.
        partition_rows: Rows of a partition, at most.
        wanted: Columns to look at; None takes all.

    Returns:
        Files by path, empty ones left out; and the columns.

    Raises:
        DataError: If a file cannot be read, lacks a column, or has other columns than the rest.
    """
    found = list_files(place)
    with ThreadPoolExecutor(MEASURED_AT_ONCE) as pool:
        measured = list(pool.map(partial(_measure, place, texts, wanted), found))
    files, schemas = [], []
    for (file, kind), (version, own) in zip(found, measured, strict=True):
        if not own.length or not own.schema.names:
            continue
        rows = min(partition_rows, max(int(PARTITION_BYTES / max(own.row_bytes, 1)), 1))
        step = rows * LINE_BYTES if kind == "lines" else rows
        files.append(InputFile(file.path, kind, file.size_bytes, version, own.length, step))
        schemas.append((file.path, _chosen(own.schema, wanted)))
    if not files:
        raise DataError(f"{place.url}: no file holds a row.")
    schema = _common(schemas)
    for name in texts:
        _check_text_column(place.url, schema, name)
    return files, schema


def _chosen(schema: pa.Schema, wanted: Collection[str] | None) -> pa.Schema:
    return schema if wanted is None else pa.schema([f for f in schema if f.name in wanted])


def _measure(
    place: Place,
    texts: Sequence[str],
    wanted: Collection[str] | None,
    found: tuple[FoundFile, Kind],
) -> tuple[str, Measured]:
    file, kind = found

    def look() -> tuple[str, Measured]:
        if kind == "lance":
            require("lance", purpose="Lance tables")
            table = LanceSource(place.url)
            return str(table.version), table.measure()
        with place.fs.open(file.path, "rb") as opened:
            if kind == "parquet":
                return file.version, ParquetSource(opened).measure()
            if kind == "arrow":
                return file.version, ArrowSource(opened).measure()
            is_compressed = kind == "gzip_lines"
            own = measure_lines(opened, file.size_bytes, texts, wanted, is_compressed=is_compressed)
            return file.version, own

    return reading(place, file.path, look)


def open_slices(
    place: Place, file: InputFile, schema: pa.Schema, columns: Sequence[str] | None
) -> Slices:
    """Open a file of the input.

    Args:
        place: The input.
        file: The file.
        schema: The columns to read.
        columns: Their names, where not all that the file has are read.

    Returns:
        What gives slices of its rows.
    """
    if file.kind == "lance":
        return TableSlices(LanceSource(place.url, int(file.version)), columns)
    opened = place.fs.open(file.path, "rb")
    if file.kind == "parquet":
        return TableSlices(ParquetSource(opened), columns)
    if file.kind == "arrow":
        return TableSlices(ArrowSource(opened), columns)
    is_compressed = file.kind == "gzip_lines"
    return LineSlices(
        opened, file.path, schema, is_compressed=is_compressed, is_selective=columns is not None
    )


def reading(place: Place, path: str, read: Any) -> Any:
    """Return what a reader of files gives; what is wrong with a file becomes `DataError`."""

    def attempt() -> Any:
        try:
            return read()
        except (pa.ArrowException, EOFError, UnicodeDecodeError, zlib.error) as exc:
            raise DataError(f"{path} cannot be read: {_said(exc)}") from exc
        except OSError as exc:
            # what pyarrow and gzip find wrong in a file has no number of the system's
            if exc.errno is None and place.is_local:
                raise DataError(f"{path} cannot be read: {_said(exc)}") from exc
            raise

    return place.asked(attempt, path)


def _said(exc: BaseException) -> str:
    return " ".join(str(exc).split())[:300] or type(exc).__name__


def _common(schemas: Sequence[tuple[str, pa.Schema]]) -> pa.Schema:
    """Return the columns of all files; one that a file lacks is empty in its rows."""
    whole = schemas[0][1]
    for path, schema in schemas[1:]:
        try:
            whole = pa.unify_schemas([whole, schema], promote_options="permissive")
        except pa.ArrowException as exc:
            raise DataError(
                f"{path} has columns of other types than {schemas[0][0]}: {_said(exc)}. Run them "
                "as two jobs, or name the columns to keep with --columns."
            ) from exc
    return whole


def is_text(kind: pa.DataType) -> bool:
    """Return whether values of a type are texts."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def _check_text_column(url: str, schema: pa.Schema, name: str) -> None:
    if name not in schema.names:
        raise DataError(
            f"{url} has no column {name!r}; it has {', '.join(schema.names)}. Name the right one "
            "with --text-field or --query-field."
        )
    kind = schema.field(name).type
    if not is_text(kind):
        raise DataError(f"{url}: column {name!r} holds {kind}, not texts.")
