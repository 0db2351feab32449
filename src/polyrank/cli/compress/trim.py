"""`polyrank compress trim`: a smaller vocabulary, measured language by language."""

import json
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from polyrank._files import replacing
from polyrank.checkpoint.hub import resolve
from polyrank.checkpoint.reader import read_checkpoint
from polyrank.cli import measuring, options, screen
from polyrank.cli.config_file import read_settings, settings_options, split
from polyrank.cli.fields import settings_of, takes
from polyrank.cli.outputs import check_folder
from polyrank.cli.progress import steps
from polyrank.errors import ConfigError

if TYPE_CHECKING:
    from polyrank.compress.trim.check import TrimCheck
    from polyrank.compress.trim.record import CheckRecord, TrimRecord
    from polyrank.compress.trim.run import TrimConfig, TrimOutcome
    from polyrank.progress import StepProgress

_MOST_ROWS = 30


COMMAND = "compress trim"


@dataclass(frozen=True, slots=True)
class TrimSettings:
    """What `polyrank compress trim` is told beside what it reads and makes.

    Attributes:
        keep: Pieces to keep, special tokens included.
        coverage: Or: the fewest pieces that make this share of the tokens of every language.
        data: Evaluation set in BEIR form: measure nDCG@10 before and after, and refuse a loss
            beyond the tolerance.
        tolerance: How much nDCG@10 of any language may fall.
        text_fields: Fields of JSON objects that hold texts. Left out: text, title, query, src,
            tgt and other usual ones.
        balance: balanced spares the languages that lose most; mean minimises the mean loss;
            pooled counts all texts alike.
        held_out: Share of the texts kept for measuring, 0.5 at most.
        retriever: What finds the documents that a cross-encoder orders: bm25, or an embedding
            checkpoint (folder or Hub id).
        languages: Evaluate only these languages, such as ["en", "de"].
        max_queries: Evaluate a random sample of N queries a language.
        seed: Of the samples.
        threads: Threads. Left out: all that this process may use.
        revision: Branch, tag or commit of a Hub id.
    """

    keep: int | None = field(default=None, metadata={"least": 1})
    coverage: float | None = None
    data: Path | None = None
    tolerance: float = 0.003
    text_fields: tuple[str, ...] = ()
    balance: Literal["balanced", "mean", "pooled"] = "balanced"
    held_out: float = 0.1
    retriever: str = measuring.BM25
    languages: tuple[str, ...] = ()
    max_queries: int | None = None
    seed: int = 0
    threads: int | None = None
    revision: str | None = None

    def __post_init__(self) -> None:
        for name, most in (("coverage", 1), ("tolerance", 1), ("held_out", 0.5)):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= most:
                raise ConfigError(f"{name} must be from 0 to {most}, not {value}")
        for name, least in (("max_queries", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name} must be {least} or more, not {value}")


KNOWN = settings_of(TrimSettings)


@takes(*settings_options(KNOWN, ("keep", "coverage", "data", "tolerance"), COMMAND))
def trim(
    model: Annotated[str, typer.Argument(help="Folder or Hub id of a float checkpoint.")],
    output: Annotated[Path, typer.Argument(help="Folder to make.")],
    text: measuring.Texts,
    as_json: options.Json = False,
    **typed: Any,
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
    from polyrank.compress.trim.run import trim_vocabulary

    (asked,) = split(read_settings(KNOWN, typed, COMMAND), TrimSettings)
    folder, name = resolve(model, revision=asked.revision)
    with steps(quiet=typed["quiet"]) as progress:
        check = None if asked.data is None else _check(folder, asked.data, asked, progress)
        outcome = trim_vocabulary(
            read_checkpoint(folder, name),
            output,
            text,
            _config(asked),
            check=check,
            progress=progress,
        )
    _show(outcome, as_json=as_json, quiet=typed["quiet"])
    if outcome.folder is None:
        raise typer.Exit(measuring.REFUSED)


def _config(asked: TrimSettings) -> "TrimConfig":
    from polyrank.compress.trim.run import TrimConfig
    from polyrank.compress.vocabulary.choice import ChoiceConfig
    from polyrank.compress.vocabulary.corpus import TEXT_FIELDS, CorpusConfig

    return TrimConfig(
        ChoiceConfig(asked.keep, asked.coverage, asked.balance),
        CorpusConfig(asked.text_fields or TEXT_FIELDS, asked.held_out, asked.seed),
        datetime.now(UTC).date().isoformat(),
    )


def _check(
    folder: Path, data: Path, asked: TrimSettings, progress: "StepProgress | None"
) -> "TrimCheck":
    from polyrank.compress.trim.check import TrimCheck
    from polyrank.evaluation import EvaluationConfig, load_dataset

    return TrimCheck(
        folder,
        load_dataset(data),
        EvaluationConfig(
            query_languages=asked.languages or None,
            document_languages=asked.languages or None,
            max_queries=asked.max_queries,
            seed=asked.seed,
        ),
        measuring.retriever(asked.retriever, asked.threads),
        asked.tolerance,
        asked.threads,
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
