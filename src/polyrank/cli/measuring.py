"""What commands share that measure before they keep: languages, first stages, bars of steps."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from polyrank.evaluation.first_stage import FirstStage
    from polyrank.evaluation.run import EvaluationProgress

REFUSED = 3
BM25 = "bm25"

Texts = Annotated[
    list[Path],
    typer.Option(
        help="Texts to count pieces in: a file (one text a line, or .jsonl; also .gz) or a "
        "folder of such files. Repeat for several."
    ),
]
TextFields = Annotated[
    list[str] | None,
    typer.Option(
        help="Field of JSON objects that holds a text. Repeat for several. Left out: text, "
        "title, query, src, tgt and other usual ones.",
        show_default=False,
    ),
]
FirstStageName = Annotated[
    str,
    typer.Option(
        help="What finds the documents that a cross-encoder orders: bm25, or an embedding "
        "checkpoint (folder or Hub id)."
    ),
]


def codes(listed: str | None) -> tuple[str, ...] | None:
    """Return the members of a list such as "en,de,th", or None where it has none."""
    found = tuple(code.strip() for code in (listed or "").split(",") if code.strip())
    return found or None


def first_stage(name: str, num_threads: int | None) -> "FirstStage[Any, Any]":
    """Return what finds the documents that a cross-encoder orders.

    Args:
        name: "bm25", or an embedding checkpoint (folder or Hub id).
        num_threads: Threads of the embedding checkpoint's encoder.

    Returns:
        The first stage.
    """
    from polyrank.evaluation import Bm25FirstStage, EmbedderFirstStage

    if name == BM25:
        return Bm25FirstStage()
    from polyrank.inference.embedder import Embedder

    return EmbedderFirstStage(Embedder(name, num_threads=num_threads))


@contextmanager
def step_progress(*, quiet: bool) -> Iterator["EvaluationProgress | None"]:
    """Show a bar for each step on standard error, if that is a terminal."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        tasks: dict[str, Any] = {}

        def progress(step: str, done: int, total: int) -> None:
            if step not in tasks:
                tasks[step] = shown.add_task(step, total=total)
            shown.update(tasks[step], completed=done, total=total)

        yield progress
