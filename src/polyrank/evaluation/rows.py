"""Reading of JSON lines, plain or gzip, with errors that name file and line."""

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO, cast

from polyrank.errors import DataError


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not blank, with their numbers, counted from 1."""
    try:
        with cast(
            TextIO,
            gzip.open(path, "rt", encoding="utf-8-sig")
            if path.suffix == ".gz"
            else path.open(encoding="utf-8-sig"),
        ) as stream:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    yield number, line
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as exc:
        raise DataError(
            f"{path} cannot be read to its end: {exc}. It must be UTF-8 text; a file whose name "
            "ends in .gz must be gzip. Fetch it again."
        ) from exc


def at_line(path: Path, number: int, seen: str, remedy: str) -> DataError:
    """Return the error of a line: what was seen there and what to do."""
    return DataError(f"{path}, line {number}: {seen}. {remedy}")


class JsonRow:
    """One JSON object of a file, with checks that name file and line.

    Args:
        path: The file.
        number: Of the line, counted from 1.
        line: Its text.

    Raises:
        DataError: If the line is no JSON object.
    """

    def __init__(self, path: Path, number: int, line: str) -> None:
        self.path, self.number = path, number
        try:
            content = json.loads(line)
        except (ValueError, RecursionError) as exc:
            raise self.error(f"not JSON ({exc})", "Write one JSON object a line.") from exc
        if not isinstance(content, dict):
            kind = type(content).__name__
            raise self.error(f"a {kind}, not an object", "Write one JSON object a line.")
        self.content: dict[str, Any] = content

    def error(self, seen: str, remedy: str) -> DataError:
        """Return an error of this row."""
        return at_line(self.path, self.number, seen, remedy)

    def text(self, key: str, default: str | None = None, needed: str = '"_id" and "text"') -> str:
        """Return a string of the row.

        Args:
            key: Its name.
            default: What an absent or null value stands for; None for values that must be there.
            needed: The keys that rows must have, for the message.

        Returns:
            The string, which may be empty.

        Raises:
            DataError: If it is absent without a default, or no string.
        """
        value = self.content.get(key)
        if value is None and default is not None:
            return default
        if key not in self.content:
            raise self.error(
                f"the object lacks the key {key!r}; it has {sorted(self.content)}",
                f"Rows need {needed}.",
            )
        if not isinstance(value, str):
            raise self.error(f"{key!r} is {value!r}", "It must be a string.")
        return value

    def id(self) -> str:
        """Return the row's id; whole numbers as strings."""
        value = self.content.get("_id")
        if type(value) is int:  # home-made sets number their rows
            return str(value)
        text = self.text("_id")
        if not text:
            raise self.error("'_id' is empty", "Give every row an id of its own.")
        return text
