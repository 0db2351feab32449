"""What commands show: tables and bars on a terminal, JSON lines in a pipe, remarks on stderr."""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from polyrank import types
from polyrank._files import replacing

BAR_WIDTH = 12
_EIGHTHS = " ▏▎▍▌▋▊▉"


def bar(share: float, width: int = BAR_WIDTH) -> str:
    """Return a bar of block characters for a share from 0 to 1, to an eighth of a cell."""
    eighths = round(min(max(share, 0.0), 1.0) * width * 8)
    full, part = divmod(eighths, 8)
    return ("█" * full + (_EIGHTHS[part] if part else "")).ljust(width)


def shares(values: list[float]) -> list[float]:
    """Return values as shares for bars: themselves within 0 to 1, else from lowest to highest."""
    if not values or (min(values) >= 0 and max(values) <= 1):
        return values
    low, high = min(values), max(values)
    return [(value - low) / (high - low) if high > low else 1.0 for value in values]


def one_line(text: str) -> Text:
    """Return a text for a table cell: blanks folded, cut at the cell's end, no markup read."""
    shown = " ".join(text.split())
    printable = "".join(char if char.isprintable() else "\ufffd" for char in shown)
    return Text(printable, no_wrap=True, overflow="ellipsis")


def is_table_wanted(as_json: bool, output: str | None) -> bool:
    """Return whether results go to a person's terminal."""
    return not as_json and output is None and sys.stdout.isatty()


def remark(message: str, *, quiet: bool) -> None:
    """Print a remark on standard error."""
    if not quiet:
        Console(stderr=True, highlight=False).print(Text(message, style="dim"))


def note_truncated(count: int, total: int, max_length: int, *, quiet: bool) -> None:
    """Say how many texts were longer than the model reads."""
    if count:
        remark(
            f"{count:,} of {total:,} were longer than {max_length:,} tokens; "
            "the rest of them was not read (--max-length sets the limit).",
            quiet=quiet,
        )


@contextmanager
def progress_bar(label: str, *, quiet: bool) -> Iterator[types.Progress | None]:
    """Show a bar of tokens done on standard error, if that is a terminal."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f} of {task.total:,.0f} tokens"),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task(label, total=1)
        yield lambda done, total: shown.update(task, completed=done, total=total)


@contextmanager
def text_output(output: str | None) -> Iterator[TextIO]:
    """Give standard output, or a file that appears only when all of it is written."""
    if output is None:
        yield sys.stdout
        return
    with replacing(Path(output)) as path, path.open("w", encoding="utf8", newline="\n") as file:
        yield file


def write_lines(rows: Iterable[Mapping[str, Any]], file: TextIO) -> None:
    """Write one JSON object a line, in UTF-8 without escapes."""
    for row in rows:
        file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
