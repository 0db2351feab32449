"""Rows of JSONL files, plain or gzipped, with errors that name file and line."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from polyrank.errors import DataError
from polyrank.evaluation.rows import read_lines


class Row:
    """One JSON object of a file."""

    def __init__(self, content: dict[str, Any], where: str) -> None:
        self.content, self.where = content, where

    def error(self, seen: str, remedy: str) -> DataError:
        """Return an error that names file and line."""
        return DataError(f"{self.where}: {seen}. {remedy}")

    def text(self, key: str, default: str | None = None) -> str:
        """Return a string, which may be blank only where a default allows its absence."""
        value = self.content.get(key, default)
        if value is None and default is not None:
            return default
        if not isinstance(value, str):
            seen = f"{key!r} is {value!r}" if key in self.content else f"{key!r} is missing"
            raise self.error(
                f"{seen}, the object has {sorted(self.content)}", "It must be a string."
            )
        if default is None and not value.strip():
            raise self.error(f"{key!r} is empty", "Fill it in or remove the row.")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a list of strings that are not blank; absent means none."""
        value = self.content.get(key, [])
        if not isinstance(value, list):
            raise self.error(f"{key!r} is {value!r}", "It must be a list of texts.")
        for member in value:
            if not isinstance(member, str) or not member.strip():
                raise self.error(f"{key!r} holds {member!r}", "Each member must be a text.")
        return tuple(value)


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a JSONL file.

    Args:
        path: The file; a name that ends in .gz is gzip.

    Yields:
        One row for each line that is not blank.

    Raises:
        DataError: If the file cannot be read or a line is no JSON object.
    """
    for number, line in read_lines(path):
        yield _row(line, f"{path}, line {number}")


def _row(line: str, where: str) -> Row:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as exc:
        raise DataError(f"{where}: not JSON ({exc}). Write one JSON object a line.") from exc
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise DataError(f"{where}: a {kind}, not an object. Write one JSON object a line.")
    return Row(content, where)


def hash_files(paths: list[Path]) -> str:
    """Return the SHA-256 over names and contents of files, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(path.name.encode() + b"\0")
        with path.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
