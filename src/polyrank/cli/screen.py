"""What commands show: tables and bars on a terminal, JSON lines in a pipe, remarks on stderr."""

import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from polyrank.errors import CheckpointWarning

if TYPE_CHECKING:
    from polyrank.inference.classifier import Classifier
    from polyrank.inference.embedder import Embedder
    from polyrank.inference.reranker import Reranker

BAR_WIDTH = 12
_EIGHTHS = " ▏▎▍▌▋▊▉"


def bar(share: float, width: int = BAR_WIDTH) -> str:
    """Return a bar of block characters for a share from 0 to 1, to an eighth of a cell."""
    eighths = round(min(max(share, 0.0), 1.0) * width * 8)
    full, part = divmod(eighths, 8)
    return ("█" * full + (_EIGHTHS[part] if part else "")).ljust(width)


def shares(values: list[float], *, is_probability: bool) -> list[float]:
    """Return values as shares for bars: themselves, or spread from lowest to highest.

    Cosines of an embedder lie close together: their own size would fill every bar alike.
    """
    if is_probability or not values:
        return values
    low, high = min(values), max(values)
    return [(value - low) / (high - low) if high > low else 1.0 for value in values]


def one_line(text: str, width: int) -> Text:
    """Return a text for a table cell: blanks folded, cut to a width, no markup read."""
    shown = " ".join(text.split())
    printable = "".join(char if char.isprintable() else "\ufffd" for char in shown)
    line = Text(printable, no_wrap=True)
    # cut here: a table gives a column that must not wrap all the room it asks for
    line.truncate(max(width, 10), overflow="ellipsis")
    return line


def is_table_wanted(as_json: bool, output: str | None) -> bool:
    """Return whether results go to a person's terminal."""
    return not as_json and output is None and sys.stdout.isatty()


def remark(message: str, *, quiet: bool) -> None:
    """Print a remark on standard error."""
    if not quiet:
        Console(stderr=True, highlight=False).print(Text(message, style="dim"))


def note_empty_query(query: str | None, *, quiet: bool) -> None:
    """Say that an empty query tells nothing apart."""
    if query is not None and not query.strip():
        remark("the query is empty: the scores compare the texts with nothing.", quiet=quiet)


def note_truncated(model: "Classifier | Embedder | Reranker", total: int, *, quiet: bool) -> None:
    """Say how many texts were longer than the model reads."""
    if model.num_truncated:
        remark(
            f"{model.num_truncated:,} of {total:,} were longer than {model.info.max_length:,} "
            "tokens; the rest of them was not read (--max-length sets the limit).",
            quiet=quiet,
        )


class Timer:
    """Tells how long loading and work took, beneath a table."""

    def __init__(self) -> None:
        self._laps = [time.perf_counter()]

    def lap(self) -> None:
        """End a part: loading first, then the work."""
        self._laps.append(time.perf_counter())

    def note(self, work: str, model: str, *, quiet: bool) -> None:
        """Print the times on standard error; call after two laps."""
        begin, loaded, done = self._laps
        remark(
            f"{work} in {_span(done - loaded)} by {model}, loaded in {_span(loaded - begin)}",
            quiet=quiet,
        )


def _span(seconds: float) -> str:
    return f"{seconds * 1e3:,.0f} ms" if seconds < 1 else f"{seconds:,.1f} s"


@contextmanager
def loading(model: str | None, *, quiet: bool) -> Iterator[None]:
    """Show on standard error, if that is a terminal, that a model is being loaded.

    What had to be assumed of it is said afterwards.
    """
    with assumptions_as_remarks(quiet=quiet):
        if quiet or not sys.stderr.isatty():
            yield
            return
        with Console(stderr=True).status(f"loading {escape(model or 'the default model')}"):
            yield


@contextmanager
def assumptions_as_remarks(*, quiet: bool) -> Iterator[None]:
    """Print what was assumed of checkpoints within the block as remarks, not as warnings."""
    told: dict[str, None] = {}
    with warnings.catch_warnings():
        show = warnings.showwarning

        def collect(message: Warning | str, category: type[Warning], *place: Any) -> None:
            if issubclass(category, CheckpointWarning):
                told[str(message)] = None
            else:
                show(message, category, *place)

        warnings.showwarning = collect  # type: ignore[assignment] # `place` stands for its rest
        warnings.simplefilter("always", CheckpointWarning)
        try:
            yield
        finally:
            for message in told:
                remark(message, quiet=quiet)
