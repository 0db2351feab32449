"""Texts from files and standard input: lines, JSONL, CSV, TSV and Parquet, read as a stream.

A JSON array is read whole.
"""

import csv
import gzip
import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, TextIO, cast

from polyrank._extras import require
from polyrank.cli.json_rows import is_array_of_rows, json_values
from polyrank.errors import DataError
from polyrank.text.inputs import TEXT_FIELDS as FIELDS_OF_TEXT

STDIN = "-"
TEXT_FIELD = "text"
TEXT_FIELDS = (*FIELDS_OF_TEXT, "passage", "document")
"""Fields that usually hold the text; of a row without "text", the only one of them does."""


class InputFormat(StrEnum):
    """How texts lie in a file."""

    AUTO = "auto"
    LINES = "lines"
    JSONL = "jsonl"
    JSON = "json"
    CSV = "csv"
    TSV = "tsv"
    PARQUET = "parquet"


SUFFIXES = {
    ".txt": InputFormat.LINES,
    ".jsonl": InputFormat.JSONL,
    ".ndjson": InputFormat.JSONL,
    ".json": InputFormat.JSON,
    ".csv": InputFormat.CSV,
    ".tsv": InputFormat.TSV,
    ".parquet": InputFormat.PARQUET,
}


@dataclass(frozen=True, slots=True)
class TextRecord:
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
class TextSource:
    """Where texts come from and how to read them.

    Attributes:
        name: Path of a file, or "-" for standard input.
        format: How it is laid out; AUTO goes by the name's ending, and where that says nothing,
            as on standard input, by whether it begins as JSON does.
        text_field: Field or column that holds the text. Rows without "text" may have one of
            `TEXT_FIELDS` instead.
    """

    name: str
    format: InputFormat = InputFormat.AUTO
    text_field: str = "text"

    @property
    def label(self) -> str:
        """Name for messages."""
        return "standard input" if self.name == STDIN else self.name

    def check(self) -> None:
        """Raise now what is known before anything is read.

        Raises:
            DataError: If the source cannot be opened.
            MissingExtraError: If the library that reads it is not installed.
        """
        if self._layout() == InputFormat.PARQUET:
            require("parquet", purpose="Reading Parquet files")
        if self.name != STDIN:
            self._open().close()
        elif sys.stdin is not None and sys.stdin.isatty():
            sys.stderr.write("Type or paste texts, one a line; Ctrl-D ends them.\n")

    def records(self) -> Iterator[TextRecord]:
        """Read the texts one by one; blank lines of line files are left out.

        Yields:
            Records in file order.

        Raises:
            DataError: If the source cannot be read as what it should be.
        """
        layout = self._layout()
        if layout == InputFormat.PARQUET:
            yield from self._parquet()
            return
        with closing(self._open()) as file:
            yield from self._decoded(file, layout)

    def _layout(self) -> InputFormat:
        if self.format != InputFormat.AUTO:
            return self.format
        if self.name == STDIN:
            return InputFormat.AUTO
        name = self.name.removesuffix(".gz")
        if Path(name).suffix not in SUFFIXES:
            return InputFormat.AUTO
        return SUFFIXES[Path(name).suffix]

    def _open(self) -> TextIO:
        if self.name == STDIN:
            if sys.stdin is None:
                raise DataError("standard input is closed; name a file, or pipe texts in")
            return open(sys.stdin.fileno(), encoding="utf-8-sig", newline="", closefd=False)
        try:
            if self.name.endswith(".gz"):
                return cast(TextIO, gzip.open(self.name, "rt", encoding="utf-8-sig", newline=""))
            return open(self.name, encoding="utf-8-sig", newline="")
        except OSError as exc:
            raise DataError(f"{self.name} cannot be opened: {exc.strerror or exc}") from exc

    def _decoded(self, file: TextIO, layout: InputFormat) -> Iterator[TextRecord]:
        try:
            if layout in (InputFormat.CSV, InputFormat.TSV):
                yield from self._table(file, "," if layout == InputFormat.CSV else "\t")
            elif layout == InputFormat.JSON:
                yield from self._json(file.read())
            else:
                yield from self._lines(file, layout)
        except UnicodeDecodeError as exc:
            raise DataError(
                f"{self.label} is not UTF-8: {exc.reason} (byte 0x{exc.object[exc.start]:02x}). "
                "Convert it, for instance with: iconv -f ENCODING -t utf-8"
            ) from exc
        except (OSError, EOFError) as exc:
            raise DataError(f"{self.label} cannot be read: {exc}") from exc

    def _lines(self, file: TextIO, layout: InputFormat) -> Iterator[TextRecord]:
        # split at \n alone: str.splitlines would cut texts at U+2028 and form feeds
        numbered = ((at, line.rstrip("\r\n")) for at, line in enumerate(file, start=1))
        filled = ((at, line) for at, line in numbered if line.strip())
        first = next(filled, None)
        if first is None:
            return
        if layout == InputFormat.AUTO:
            layout = _layout_by_start(first[1], self.text_field)
        if layout == InputFormat.JSON:
            yield from self._json("\n" * (first[0] - 1) + first[1] + "\n" + file.read())
            return
        for at, line in itertools.chain([first], filled):
            where = f"{self.label}, line {at}"
            if layout == InputFormat.JSONL:
                yield self._record(_json_object(line, where), where)
            else:
                yield TextRecord(line, {self.text_field: line}, where)

    def _json(self, content: str) -> Iterator[TextRecord]:
        """Read an array of texts or objects, or the objects that stand one after another."""
        try:
            values = json_values(content)
        except (ValueError, RecursionError) as exc:
            raise DataError(
                f"{self.label} is not JSON: {exc}. For one text a line: --format lines"
            ) from exc
        members = self._members(values[0]) if len(values) == 1 else values
        for at, member in enumerate(members, start=1):
            where = f"{self.label}, item {at}"
            if isinstance(member, str):
                yield TextRecord(member, {self.text_field: member}, where)
            elif isinstance(member, dict):
                yield self._record(member, where)
            else:
                raise DataError(
                    f"{where}: {type(member).__name__}, where a text or an object should be"
                )

    def _members(self, value: Any) -> list[Any]:
        """Return the array that a JSON value is or holds, or an object as the only member."""
        if isinstance(value, list):
            return value
        if isinstance(value, dict):
            lists = {key: member for key, member in value.items() if is_array_of_rows(member)}
            if text_key(value, self.text_field) is not None or not value:
                return [value]
            if len(lists) == 1:
                return next(iter(lists.values()))
            names = ", ".join(lists) or "none"
            raise DataError(
                f"{self.label}: a JSON object with these arrays of texts or objects: {names}. "
                "Give the array alone, for instance with: jq '.NAME'"
            )
        raise DataError(f"{self.label}: a JSON {type(value).__name__}, not an array of texts")

    def _table(self, file: TextIO, delimiter: str) -> Iterator[TextRecord]:
        csv.field_size_limit(2**31 - 1)  # a document may be longer than the default 128 KiB
        reader = csv.DictReader(file, delimiter=delimiter)
        try:
            for row in reader:
                row.pop(None, None)  # cells beyond the header
                yield self._record(row, f"{self.label}, line {reader.line_num}")
        except csv.Error as exc:
            raise DataError(f"{self.label}, line {reader.line_num}: not CSV: {exc}") from exc

    def _parquet(self) -> Iterator[TextRecord]:
        require("parquet", purpose="Reading Parquet files")
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

    def _record(self, row: dict[str, Any], where: str) -> TextRecord:
        key = text_key(row, self.text_field)
        if key is None:
            raise DataError(
                f"{where}: no field {self.text_field!r}; it has {', '.join(map(str, row))}. "
                "Name the right one with --text-field."
            )
        text = row[key]
        if not isinstance(text, str):
            raise DataError(f"{where}: field {key!r} holds {type(text).__name__}, not a text")
        return TextRecord(text, row, where)


def text_key(row: Mapping[str, Any], text_field: str) -> str | None:
    """Return the field that holds the text of a row, or None where none or several may.

    Args:
        row: Its fields.
        text_field: The field that was asked for. Where that is the usual one and the row lacks it,
            the only one of `TEXT_FIELDS` that it has stands for it.

    Returns:
        Name of the field.
    """
    if text_field in row:
        return text_field
    others = [name for name in TEXT_FIELDS if name in row] if text_field == TEXT_FIELD else []
    return others[0] if len(others) == 1 else None


def _holds_rows(value: dict[str, Any], text_field: str) -> bool:
    """Return whether an object is no row itself, but holds an array of them."""
    return text_key(value, text_field) is None and any(map(is_array_of_rows, value.values()))


def _layout_by_start(line: str, text_field: str) -> InputFormat:
    """Return how a source is laid out whose name says nothing, by its first line.

    Lines of text may begin with a bracket, as "[1] Smith" does; what begins as an array of texts
    or objects, or is the first line of an object over several lines, is none.
    """
    start = "".join(line.split())
    if start in ("[", "{") or start.startswith(('["', "[{", '{"')) or start == "[]":
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            return InputFormat.JSON
        is_row = isinstance(value, dict) and not _holds_rows(value, text_field)
        return InputFormat.JSONL if is_row else InputFormat.JSON
    return InputFormat.LINES


def _json_object(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as exc:
        raise DataError(f"{where}: not JSON: {exc}. For one text a line: --format lines") from exc
    if not isinstance(row, dict):
        raise DataError(f"{where}: a JSON {type(row).__name__}, not an object")
    return row


def chunks(records: Iterable[TextRecord], size: int) -> Iterator[list[TextRecord]]:
    """Yield lists of at most `size` records."""
    iterator = iter(records)
    while part := list(itertools.islice(iterator, size)):
        yield part
