"""`polyrank calibrate`: probabilities for a checkpoint's scores, from labelled data."""

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from polyrank.cli import options, screen
from polyrank.cli.progress import steps

if TYPE_CHECKING:
    from polyrank.training.calibration.learn import CalibrationOutcome


class CalibrationTask(StrEnum):
    """What is calibrated."""

    RERANK = "rerank"
    CLASSIFY = "classify"


CalibratedModel = Annotated[
    str | None,
    typer.Argument(
        metavar="[MODEL]",
        help="Folder of a checkpoint. Left out: the default model, with --output or --check.",
        show_default=False,
    ),
]
Data = Annotated[
    list[Path] | None,
    typer.Option(
        help="A folder in BEIR form, or JSON lines of query, passage and label (1 or 0, or a "
        "label of the model). Repeat it for more.",
        show_default=False,
    ),
]
Task = Annotated[CalibrationTask, typer.Option(help="Scores of rankings, or labels.")]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="Folder for polyrank_calibration.json. Left out: the checkpoint's own.",
        show_default=False,
    ),
]
Report = Annotated[
    Path | None,
    typer.Option(
        help="Write figures and diagrams before and after: .html, .md, .json or .svg.",
        show_default=False,
    ),
]
Check = Annotated[
    bool,
    typer.Option("--check", help="Measure the calibration that is there; fit and write none."),
]
Reorder = Annotated[
    bool,
    typer.Option(
        "--reorder",
        help="Let the length of documents count too. Rankings then go by probability, not by "
        "score.",
    ),
]
CandidateRun = Annotated[
    Path | None,
    typer.Option(
        help="Candidates of each query as a run of TREC's form. Left out: the model's own "
        "vectors find them, or BM25.",
        show_default=False,
    ),
]
TopK = Annotated[int, typer.Option(help="Candidates of each query.", min=2)]
MaxQueries = Annotated[int, typer.Option(help="Queries of a set in a language, at random.", min=1)]
Languages = Annotated[
    list[str] | None,
    typer.Option(help="Take this language alone. Repeat it for more.", show_default=False),
]
Seed = Annotated[int, typer.Option(help="Of all choices.", min=0)]
RowCacheMb = Annotated[int, typer.Option(help="Token rows to keep, in megabytes.", min=0)]


def calibrate_command(
    model: CalibratedModel = None,
    data: Data = None,
    task: Task = CalibrationTask.RERANK,
    output: Output = None,
    report: Report = None,
    check: Check = False,
    reorder: Reorder = False,
    run: CandidateRun = None,
    top_k: TopK = 50,
    max_queries: MaxQueries = 300,
    language: Languages = None,
    seed: Seed = 0,
    threads: options.Threads = None,
    compute_dtype: options.ComputeDtype = "auto",
    row_cache_mb: RowCacheMb = 1_000,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Fit probabilities to a checkpoint's scores, and write them beside its weights.

    Scores say what is better, not how probable it is that a document answers. From labelled data
    the map to probabilities is fitted: Platt's, beta or isotonic, whichever errs least on
    queries held out. It never changes scores, nor, without --reorder, the order.

    For example:

        polyrank calibrate FOLDER --data beir/scifact --report calibration.html
        polyrank calibrate FOLDER --data pairs.jsonl --task classify
        polyrank calibrate FOLDER --data other-set --check --json
    """
    from polyrank.training.calibration.job import CalibrateJob
    from polyrank.training.calibration.learn import calibrate
    from polyrank.training.calibration.report import check_report, write_report

    check_report(report)
    job = CalibrateJob(
        model,
        tuple(data or ()),
        "classify" if task is CalibrationTask.CLASSIFY else "rerank",
        output,
        run,
        top_k,
        max_queries,
        tuple(language or ()),
        reorder,
        check,
        seed,
        threads,
        compute_dtype,
        row_cache_mb * 1_000_000,
    )
    with steps(quiet=quiet) as progress:
        outcome = calibrate(job, progress=progress)
    if report is not None:
        write_report(outcome.record, report)
    _show(outcome, report, as_json=as_json, quiet=quiet)


def _show(
    outcome: "CalibrationOutcome", report: Path | None, *, as_json: bool, quiet: bool
) -> None:
    from polyrank.training.calibration.report import table

    console = Console()
    if screen.is_table_wanted(as_json, None):
        head, rows = table(outcome.record)
        shown = Table(box=None, pad_edge=False, header_style="dim")
        for i, name in enumerate(head):
            shown.add_column(name, justify="right" if i else "left")
        for row in rows:
            shown.add_row(*row)
        console.print(shown)
    else:
        typer.echo(json.dumps(outcome.record, ensure_ascii=False))
    for note in outcome.notes:
        screen.remark(note, quiet=quiet)
    written = [str(path) for path in (outcome.path, report) if path is not None]
    if written:
        screen.remark(f"written: {', '.join(written)}", quiet=quiet)
