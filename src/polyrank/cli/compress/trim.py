"""`polyrank compress trim`: a smaller vocabulary, measured language by language."""

import json
import sys
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from polyrank._files import replacing
from polyrank.checkpoint.hub import resolve
from polyrank.checkpoint.reader import read_checkpoint
from polyrank.cli import measuring, options, screen
from polyrank.cli.outputs import check_folder
from polyrank.cli.progress import steps

if TYPE_CHECKING:
    from polyrank.compress.trim.check import TrimCheck
    from polyrank.compress.trim.record import CheckRecord, TrimRecord
    from polyrank.compress.trim.run import TrimOutcome
    from polyrank.progress import StepProgress

_MOST_ROWS = 30


class Balance(StrEnum):
    """Rules by which languages share the room."""

    BALANCED = "balanced"
    MEAN = "mean"
    POOLED = "pooled"


def trim(
    model: Annotated[str, typer.Argument(help="Folder or Hub id of a float checkpoint.")],
    output: Annotated[Path, typer.Argument(help="Folder to make.")],
    text: measuring.Texts,
    keep: Annotated[
        int | None,
        typer.Option(help="Pieces to keep, special tokens included.", min=1, show_default=False),
    ] = None,
    coverage: Annotated[
        float | None,
        typer.Option(
            help="Or: the fewest pieces that make this share of the tokens of every language.",
            min=0.0,
            max=1.0,
            show_default=False,
        ),
    ] = None,
    text_field: measuring.TextFields = None,
    balance: Annotated[
        Balance,
        typer.Option(
            help="balanced spares the languages that lose most; mean minimises the mean loss; "
            "pooled counts all texts alike."
        ),
    ] = Balance.BALANCED,
    held_out: Annotated[
        float, typer.Option(help="Share of the texts kept for measuring.", min=0.0, max=0.5)
    ] = 0.1,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Evaluation set in BEIR form: measure nDCG@10 before and after, and refuse a "
            "loss beyond the tolerance.",
            show_default=False,
        ),
    ] = None,
    tolerance: Annotated[
        float, typer.Option(help="How much nDCG@10 of any language may fall.", min=0.0, max=1.0)
    ] = 0.003,
    retriever: measuring.RetrieverName = measuring.BM25,
    languages: Annotated[
        str | None,
        typer.Option(help="Evaluate only these, as in en,de,th.", show_default=False),
    ] = None,
    max_queries: Annotated[
        int | None,
        typer.Option(
            help="Evaluate a random sample of N queries a language.", min=1, show_default=False
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the samples.", min=0)] = 0,
    threads: options.Threads = None,
    revision: options.Revision = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Keep the pieces of the vocabulary that texts use.

    The table of pieces is most of a small multilingual model. Pieces are chosen so that small
    languages keep their share; characters and special tokens all stay, so no text becomes
    unreadable. Texts held out show what changed: polyrank_trim.json and polyrank_trim.png in
    OUTPUT. A text whose pieces are all kept gets the same vector, to the bit. With --data, a
    loss beyond the tolerance in any language ends the command with exit code 3 and no folder.

    For example:

        polyrank compress trim intfloat/multilingual-e5-small e5-80k --text texts/ --keep 80000
        polyrank compress trim FOLDER trimmed --text a.jsonl.gz --coverage 0.99 --data data/mine
    """
    check_folder(output)
    from polyrank.compress.trim.run import TrimConfig, trim_vocabulary
    from polyrank.compress.vocabulary.choice import ChoiceConfig
    from polyrank.compress.vocabulary.corpus import TEXT_FIELDS, CorpusConfig

    config = TrimConfig(
        ChoiceConfig(keep, coverage, balance.value),
        CorpusConfig(tuple(text_field or TEXT_FIELDS), held_out, seed),
        datetime.now(UTC).date().isoformat(),
    )
    folder, name = resolve(model, revision=revision)
    with steps(quiet=quiet) as progress:
        check = None
        if data is not None:
            asked = (measuring.codes(languages), max_queries, seed, threads)
            check = _check(folder, data, tolerance, retriever, asked, progress)
        outcome = trim_vocabulary(
            read_checkpoint(folder, name), output, text, config, check=check, progress=progress
        )
    _show(outcome, as_json=as_json, quiet=quiet)
    if outcome.folder is None:
        raise typer.Exit(measuring.REFUSED)


def _check(
    folder: Path,
    data: Path,
    tolerance: float,
    stage: str,
    asked: tuple[tuple[str, ...] | None, int | None, int, int | None],
    progress: "StepProgress | None",
) -> "TrimCheck":
    from polyrank.compress.trim.check import TrimCheck
    from polyrank.evaluation import EvaluationConfig, load_dataset

    languages, max_queries, seed, threads = asked
    return TrimCheck(
        folder,
        load_dataset(data),
        EvaluationConfig(
            query_languages=languages,
            document_languages=languages,
            max_queries=max_queries,
            seed=seed,
        ),
        measuring.retriever(stage, threads),
        tolerance,
        threads,
        progress,
    )


def _show(outcome: "TrimOutcome", *, as_json: bool, quiet: bool) -> None:
    record = outcome.record
    plot = _write_plot(record, outcome.record_path.with_suffix(".png"))
    if screen.is_table_wanted(as_json, None):
        console = Console(highlight=False)
        console.print(_coverage_table(record))
        console.print(_summary(record), style="dim")
        if record.check is not None:
            console.print(_ranking_table(record.check))
    else:
        place = None if outcome.folder is None else str(outcome.folder)
        sys.stdout.write(json.dumps({**record.as_dict(), "folder": place}) + "\n")
    screen.remark(f"wrote {outcome.record_path} and {plot.name}", quiet=quiet)
    if record.check is not None and not record.passed:
        sys.stderr.write(
            f"refused: {record.pieces_after:,} pieces of {record.model} are beyond the tolerance "
            f"on {record.check.dataset}.\n"
            + "".join(f"  {reason}\n" for reason in record.check.reasons)
            + "Keep more pieces, give texts in these languages, or give --tolerance if you accept "
            "this loss.\n"
        )


def _write_plot(record: "TrimRecord", path: Path) -> Path:
    from polyrank.compress.trim.plot import draw_trim

    with replacing(path) as temporary:
        draw_trim(record).savefig(temporary, format="png")
    return path


def _coverage_table(record: "TrimRecord") -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("language")
    titles = ("held-out texts", "tokens kept", "texts unchanged", "tokens a text", "after")
    for title in (*titles, "unknown", "after"):
        table.add_column(title, justify="right")
    ranked = sorted(record.languages.items(), key=lambda item: -item[1].num_tokens)
    for language, figures in sorted(ranked[:_MOST_ROWS], key=lambda item: item[1].kept):
        table.add_row(
            language,
            f"{figures.num_texts:,}",
            f"{figures.kept:.2%}",
            f"{figures.unchanged:.1%}",
            f"{figures.tokens_per_text:.1f}",
            f"{figures.tokens_per_text_after:.1f}",
            f"{figures.unknown:.3%}",
            f"{figures.unknown_after:.3%}",
        )
    return table


def _summary(record: "TrimRecord") -> str:
    hidden = max(0, len(record.languages) - _MOST_ROWS)
    more = f"{hidden} languages with fewer texts are in the record; " if hidden else ""
    weights, tokenizer = (
        " → ".join(f"{size / 1e6:.1f}" for size in sizes)
        for sizes in (record.weights_bytes, record.tokenizer_bytes)
    )
    return (
        f"{more}{record.pieces:,} → {record.pieces_after:,} pieces, weights {weights} MB, "
        f"tokenizer.json {tokenizer} MB"
    )


def _ranking_table(check: "CheckRecord") -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column(f"nDCG@10 on {check.dataset}")
    for title in ("queries", "before", "after", "change"):
        table.add_column(title, justify="right")
    for task, languages in check.tasks.items():
        for label, figures in languages.items():
            shown = [f"{value:.4f}" for value in (figures.before, figures.after)]
            table.add_row(
                f"{task} {label}", str(figures.num_queries), *shown, f"{figures.change:+.4f}"
            )
    return table
