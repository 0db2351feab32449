"""`polyrank search`: a question to a store that `polyrank index` has filled."""

import os
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from polyrank.cli import options, screen
from polyrank.cli.fields import takes
from polyrank.cli.index import ENGINE, StoreKey, StoreUrl
from polyrank.cli.outputs import write_rows
from polyrank.config import DEFAULT_STORE
from polyrank.errors import ConfigError

if TYPE_CHECKING:
    from polyrank.pipeline.searching import Answer

_LINES = 4  # of a passage, on a terminal
_NUMBERS = frozenset({"page", "row", "passage", "start", "end"})


@takes(*ENGINE)
def search(
    query: Annotated[str, typer.Argument(help="What is looked for, in any language.")],
    store: StoreUrl = DEFAULT_STORE,
    top_k: Annotated[
        int, typer.Option("--top-k", "--top-n", "-n", help="Show only the best N.", min=1)
    ] = 5,
    candidates: Annotated[
        int, typer.Option(help="Passages to find by vectors, and as many by words.", min=1)
    ] = 50,
    filter: Annotated[
        list[str] | None,
        typer.Option(
            "--filter",
            metavar="KEY=VALUE",
            help="Only passages of this path, title, language, page, row or field that was kept; "
            "may be given again.",
            show_default=False,
        ),
    ] = None,
    rerank: Annotated[
        bool, typer.Option("--rerank/--no-rerank", help="Whether to rerank what was found.")
    ] = True,
    reranker: Annotated[
        str | None,
        typer.Option(
            help="Folder or Hub id of another model to rerank with. Left out: the one that embeds.",
            show_default=False,
        ),
    ] = None,
    api_key: StoreKey = None,
    model: options.Model = None,
    output: options.Output = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    **engine: Any,
) -> None:
    """Find the passages that answer a question, in files that were indexed.

    Passages are found by vectors and by words, the two are joined by rank, and the best are
    reranked. A terminal shows the passages; a pipe gets one JSON object a line, best first, with
    "path", "start" and "end" (characters in the text of the file), "score", "probability" (where
    the model is calibrated) and "text".

    For example:

        polyrank search "How do I reset my password?"
        polyrank search "パスワードを忘れた" --store sqlite://articles.db --filter lang=ja
    """
    from polyrank.pipeline.models import ModelSettings
    from polyrank.pipeline.searching import Searcher

    wanted = dict(map(_pair, filter or ()))
    models = ModelSettings(model, **engine)
    screen.note_empty_query(query, quiet=quiet)
    timer = screen.Timer()
    with screen.loading(model, quiet=quiet):
        searcher = Searcher(store, models=models, reranker=reranker, api_key=api_key)
    timer.lap()
    with searcher:
        answers = searcher.search(
            query, top_k=top_k, candidates=candidates, filter=wanted or None, rerank=rerank
        )
    timer.lap()
    if screen.is_table_wanted(as_json, output):
        _show(answers, Console(highlight=False))
        timer.note(f"{len(answers):,} passages found", searcher.model_name, quiet=quiet)
    else:
        write_rows(_rows(answers), output)


def _pair(text: str) -> tuple[str, str | int]:
    """Return a key and the value it must have, as typed."""
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise ConfigError(f"--filter must be KEY=VALUE, as in language=de, not {text!r:.80}")
    if key == "path":
        return key, os.path.abspath(value)
    if key not in _NUMBERS:
        return key, value
    try:
        return key, int(value)
    except ValueError as exc:
        raise ConfigError(f"--filter {key} must be a whole number, not {value!r:.40}") from exc


def _rows(answers: "Sequence[Answer]") -> list[dict[str, Any]]:
    rows = []
    for rank, answer in enumerate(answers, start=1):
        row = {key: value for key, value in asdict(answer).items() if value is not None}
        rows.append({"rank": rank, **row, "metadata": dict(answer.metadata)})
    return rows


def _show(answers: "Sequence[Answer]", console: Console) -> None:
    if not answers:
        console.print("nothing was found")
    for rank, answer in enumerate(answers, start=1):
        likely = "" if answer.probability is None else f"  probability {answer.probability:.3f}"
        head = Text.assemble(
            (f"{rank:>2}  ", "dim"), (f"{answer.score:.4f}", "bold"), likely, "  ", _place(answer)
        )
        console.print(head, soft_wrap=True)
        above = answer.heading or answer.title
        if above:
            console.print(Text(f"    {_clean(above)}", "cyan"), soft_wrap=True)
        console.print(_passage(answer.text, console))
        console.print()


def _passage(text: str, console: Console) -> Text:
    """Return the first lines of a passage, indented, as wide as the terminal."""
    width = max(console.width - 6, 20)
    lines = Text(_clean(text)).wrap(console, width)
    shown = Text("\n").join(Text("    ") + line for line in lines[:_LINES])
    return shown.append(" …") if len(lines) > _LINES else shown


def _place(answer: "Answer") -> Text:
    path = answer.path or answer.id
    near = os.path.relpath(path) if answer.path else path
    parts = [min(path, near, key=len)]
    if answer.page is not None:
        parts.append(f"page {answer.page}")
    if answer.row is not None:
        parts.append(f"row {answer.row}")
    parts.append(f"characters {answer.start:,}–{answer.end:,}")
    return Text(", ".join(map(_clean, parts)), "green")


def _clean(text: str) -> str:
    """Return a text in one line, without what would steer a terminal."""
    return "".join(char if char.isprintable() else "\ufffd" for char in " ".join(text.split()))
