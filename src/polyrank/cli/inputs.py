"""Texts from files and standard input: lines, JSONL, CSV, TSV and Parquet, read as a stream."""

import csv
import gzip
import itertools
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, TextIO, cast

from polyrank._extras import require
from polyrank.errors import DataError

STDIN = "-"


class InputFormat(StrEnum):
    """How texts lie in a file."""

    AUTO = "auto"
    LINES = "lines"
    JSONL = "jsonl"
    CSV = "csv"
    TSV = "tsv"
    PARQUET = "parquet"


SUFFIXES = {
    ".txt": InputFormat.LINES,
    ".jsonl": InputFormat.JSONL,
    ".ndjson": InputFormat.JSONL,
    ".csv": InputFormat.CSV,
    ".tsv": InputFormat.TSV,
    ".parquet": InputFormat.PARQUET,
}


@dataclass(frozen=True, slots=True)
class Record:
    """One text with the fields that came with it.

    Attributes:
        text: The text.
        fields: Every field of its row, the text included; for plain lines the text alone.
        where: File and line, for messages.
    """

    text: str
    fields: dict[str, Any]
    where: str


@dataclass(frozen=True, slots=True)
class Source:
    """Where texts come from and how to read them.

    Attributes:
        name: Path of a file, or "-" for standard input.
        format: How it is laid out; AUTO goes by the name's ending, and on standard input by
            whether the first line is a JSON object.
        text_field: Field or column that holds the text.
    """

    name: str
    format: InputFormat = InputFormat.AUTO
    text_field: str = "text"

    @property
    def label(self) -> str:
        """Name for messages."""
        return "standard input" if self.name == STDIN else self.name

    def records(self) -> Iterator[Record]:
        """Read the texts one by one; blank lines of line files are left out.

        Yields:
            Records in file order.

        Raises:
            DataError: If the source cannot be read as what it should be.
        """
        layout = self.format if self.format != InputFormat.AUTO else self._format_by_name()
        if layout == InputFormat.PARQUET:
            yield from self._parquet()
            return
        with closing(self._open()) as file:
            yield from self._decoded(file, layout)

    def _format_by_name(self) -> InputFormat:
        if self.name == STDIN:
            return InputFormat.AUTO
        name = self.name.removesuffix(".gz")
        if Path(name).suffix not in SUFFIXES:
            return InputFormat.AUTO
        return SUFFIXES[Path(name).suffix]

    def _open(self) -> TextIO:
        if self.name == STDIN:
            return open(sys.stdin.fileno(), encoding="utf-8-sig", newline="", closefd=False)
        try:
            if self.name.endswith(".gz"):
                return cast(TextIO, gzip.open(self.name, "rt", encoding="utf-8-sig", newline=""))
            return open(self.name, encoding="utf-8-sig", newline="")
        except OSError as exc:
            raise DataError(f"{self.name} cannot be opened: {exc.strerror or exc}") from exc

    def _decoded(self, file: TextIO, layout: InputFormat) -> Iterator[Record]:
        try:
            if layout in (InputFormat.CSV, InputFormat.TSV):
                yield from self._table(file, "," if layout == InputFormat.CSV else "\t")
            else:
                yield from self._lines(file, layout)
        except UnicodeDecodeError as exc:
            raise DataError(
                f"{self.label} is not UTF-8: {exc.reason} (byte 0x{exc.object[exc.start]:02x}). "
                "Convert it, for instance with: iconv -f ENCODING -t utf-8"
            ) from exc
        except (OSError, EOFError) as exc:
            raise DataError(f"{self.label} cannot be read: {exc}") from exc

    def _lines(self, file: TextIO, layout: InputFormat) -> Iterator[Record]:
        # split at \n alone: str.splitlines would cut texts at U+2028 and form feeds
        numbered = ((at, line.rstrip("\r\n")) for at, line in enumerate(file, start=1))
        filled = ((at, line) for at, line in numbered if line.strip())
        first = next(filled, None)
        if first is None:
            return
        if layout == InputFormat.AUTO:
            layout = InputFormat.JSONL if self._is_json(first[1]) else InputFormat.LINES
        for at, line in itertools.chain([first], filled):
            where = f"{self.label}, line {at}"
            if layout == InputFormat.JSONL:
                yield self._record(_json_object(line, where), where)
            else:
                yield Record(line, {self.text_field: line}, where)

    def _is_json(self, line: str) -> bool:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            return False
        return isinstance(row, dict) and self.text_field in row

    def _table(self, file: TextIO, delimiter: str) -> Iterator[Record]:
        csv.field_size_limit(2**31 - 1)  # a document may be longer than the default 128 KiB
        reader = csv.DictReader(file, delimiter=delimiter)
        try:
            for row in reader:
                row.pop(None, None)  # cells beyond the header
                yield self._record(row, f"{self.label}, line {reader.line_num}")
        except csv.Error as exc:
            raise DataError(f"{self.label}, line {reader.line_num}: not CSV: {exc}") from exc

    def _parquet(self) -> Iterator[Record]:
        require("parquet", "pyarrow", purpose="Reading Parquet files")
        import pyarrow as pa
        import pyarrow.parquet as pq

        if self.name == STDIN:
            raise DataError("Parquet cannot be read from standard input; name a file")
        try:
            with pq.ParquetFile(self.name) as file:
                rows = (row for part in file.iter_batches(1024) for row in part.to_pylist())
                for at, row in enumerate(rows, start=1):
                    yield self._record(row, f"{self.label}, row {at}")
        except (OSError, pa.ArrowException) as exc:
            raise DataError(f"{self.name} cannot be read as Parquet: {exc}") from exc

    def _record(self, row: dict[str, Any], where: str) -> Record:
        if self.text_field not in row:
            raise DataError(
                f"{where}: no field {self.text_field!r}; it has {', '.join(map(str, row))}. "
                "Name the right one with --text-field."
            )
        text = row[self.text_field]
        if not isinstance(text, str):
            raise DataError(
                f"{where}: field {self.text_field!r} holds {type(text).__name__}, not a text"
            )
        return Record(text, row, where)


def _json_object(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as exc:
        raise DataError(f"{where}: not JSON: {exc}. For one text a line: --format lines") from exc
    if not isinstance(row, dict):
        raise DataError(f"{where}: a JSON {type(row).__name__}, not an object")
    return row


def chunks(records: Iterable[Record], size: int) -> Iterator[list[Record]]:
    """Yield lists of at most `size` records."""
    iterator = iter(records)
    while part := list(itertools.islice(iterator, size)):
        yield part
