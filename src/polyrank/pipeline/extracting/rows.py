"""Files of many documents, one a row: JSON lines and Parquet."""

import io
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from polyrank.errors import DataError, InputError
from polyrank.pipeline.extracting.decoding import decode
from polyrank.pipeline.extracting.document import ExtractedDocument, Section
from polyrank.text.inputs import TEXT_FIELDS, check_text

_TITLE = "title"
_LANGUAGES = ("language", "lang")
_ROWS = 1_024  # of Parquet, read at a time


def extract_jsonl(data: bytes) -> list[ExtractedDocument]:
    """Return the documents in a file of JSON lines; blank lines are passed over.

    Args:
        data: The file.

    Returns:
        A document a line.

    Raises:
        DataError: If a line is no JSON object with a text.
    """
    # split at \n alone: texts may hold other line ends
    lines = enumerate(decode(data).split("\n"), start=1)
    return list(_documents((at, _object(line, at)) for at, line in lines if line.strip()))


def extract_parquet(data: bytes) -> list[ExtractedDocument]:
    """Return the documents in a Parquet file.

    Args:
        data: The file.

    Returns:
        A document a row.

    Raises:
        DataError: If it is broken, or a row has no text.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(io.BytesIO(data)) as file:
            rows = (row for part in file.iter_batches(_ROWS) for row in part.to_pylist())
            return list(_documents(enumerate(rows, start=1)))
    except (OSError, pa.ArrowException) as exc:
        raise DataError(f"a broken Parquet file: {exc}") from exc


def _object(line: str, at: int) -> Mapping[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as exc:
        raise DataError(f"line {at}: not JSON: {exc}") from exc
    if not isinstance(row, dict):
        raise DataError(f"line {at}: a JSON {type(row).__name__}, not an object")
    return row


def _documents(rows: Iterable[tuple[int, Mapping[str, Any]]]) -> Iterator[ExtractedDocument]:
    for at, row in rows:
        name = next((name for name in TEXT_FIELDS if name in row), None)
        if name is None:
            raise DataError(
                f"row {at}: no field {' or '.join(map(repr, TEXT_FIELDS))}; it has "
                f"{', '.join(map(str, row))[:200] or 'none'}"
            )
        try:
            text = check_text(row[name], f"row {at}, field {name!r}")
        except InputError as exc:
            raise DataError(str(exc)) from exc
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        fields = {key: _cell(value) for key, value in row.items() if _is_fact(value)}
        language = next((fields[key] for key in _LANGUAGES if key in fields), "")
        sections = (Section(0, len(text)),) if text else ()
        fields.pop(name, None)
        yield ExtractedDocument(text, sections, fields.get(_TITLE, ""), language[:8], at, fields)


def _is_fact(value: object) -> bool:
    return isinstance(value, str | int | float | bool)


def _cell(value: object) -> str:
    """Return a value as a text, as it would be typed on a command line."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value).encode("utf8", "replace").decode("utf8")
