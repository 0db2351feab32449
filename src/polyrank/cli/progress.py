"""How far long work is: bars on a terminal, a line now and then in a log."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from polyrank.progress import Progress as WorkProgress
from polyrank.progress import StepProgress

PATIENCE_S = 0.5  # shorter work shows no bar
LINES_EVERY_S = 30.0


@contextmanager
def steps(*, quiet: bool) -> Iterator[StepProgress | None]:
    """Show on standard error how far each step is, if work takes a while."""
    if quiet:
        yield None
    elif not sys.stderr.isatty():
        yield Lines()
    else:
        bars = Bars()
        try:
            yield bars
        finally:
            bars.close()


@contextmanager
def tokens(step: str, *, quiet: bool) -> Iterator[WorkProgress | None]:
    """Show on standard error how many tokens of the only step are done."""
    with steps(quiet=quiet) as progress:
        yield None if progress is None else partial(progress, f"{step} (tokens)")


class Bars:
    """A bar for each step, gone when the work is done."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._tasks: dict[str, TaskID] = {}
        self._shown = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:,.0f} of {task.total:,.0f}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[note]}"),
            console=Console(stderr=True),
            transient=True,
        )

    def __call__(self, step: str, done: int, total: int, note: str = "") -> None:
        """Move a step's bar."""
        if step not in self._tasks:
            self._tasks[step] = self._shown.add_task(step, total=total, note=note)
        self._shown.update(self._tasks[step], completed=done, total=total, note=note)
        if time.monotonic() - self._begun > PATIENCE_S:
            self._shown.start()

    def close(self) -> None:
        """Take the bars away."""
        self._shown.stop()


class Lines:
    """A line on standard error every half minute, for logs of work that nobody watches."""

    def __init__(self) -> None:
        self._told = time.monotonic()
        self._step, self._begun, self._done = "", self._told, 0

    def __call__(self, step: str, done: int, total: int, note: str = "") -> None:
        """Print a line if none was printed of late."""
        now = time.monotonic()
        if step != self._step or done < self._done:  # another step, or the next part of one
            self._step, self._begun = step, now
        self._done = done
        if now - self._told < LINES_EVERY_S:
            return
        self._told = now
        gone = now - self._begun
        parts = [f"{step}: {done:,} of {total:,}", f"{_clock(gone)} gone"]
        if 0 < done <= total:
            parts.append(f"about {_clock(gone / done * (total - done))} left")
        sys.stderr.write(", ".join([*parts, note] if note else parts) + "\n")
        sys.stderr.flush()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
