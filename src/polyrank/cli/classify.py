"""`polyrank classify`: labels with probabilities."""

from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from polyrank.cli import options, screen
from polyrank.cli.fields import takes
from polyrank.cli.inputs import STDIN, InputFormat, TextRecord, TextSource
from polyrank.cli.outputs import ROW_SUFFIXES, check_output, write_rows
from polyrank.cli.progress import tokens
from polyrank.errors import ConfigError, DataError
from polyrank.types import Classification

QUERY = "query"

PairQuery = Annotated[
    str | None,
    typer.Option(
        "--query", help="Pair every text with this query (relevance).", show_default=False
    ),
]
QueryField = Annotated[
    str | None,
    typer.Option(
        help='Field that holds each text\'s own query. Left out: "query", where every row has '
        'one. "": texts alone.',
        show_default=False,
    ),
]


@takes(*options.ENGINE)
def classify(
    file: options.File = STDIN,
    query: PairQuery = None,
    query_field: QueryField = None,
    model: options.Model = None,
    input_format: options.Format = InputFormat.AUTO,
    text_field: options.TextField = "text",
    output: options.Output = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    **engine: Any,
) -> None:
    """Label texts, or pairs of query and text, with a probability for each label.

    Rows with a "query" beside their text are labelled as pairs. A pipe gets every field of the text
    with "label", "label_score" and "probabilities" added, and where the model is calibrated
    "probability" and "calibrated_probabilities". With --output the name's ending decides:
    .jsonl, .ndjson, .json, .csv, .tsv or .parquet.

    For example:

        polyrank classify --model FOLDER reviews.txt
        polyrank classify --query "How long do cats live?" passages.jsonl
        polyrank classify pairs.jsonl --output labelled.csv
        polyrank classify --query-field question pairs.jsonl
    """
    source = TextSource(file, input_format, text_field)
    source.check()
    check_output(output, ROW_SUFFIXES)
    from polyrank.inference.classifier import Classifier

    screen.note_empty_query(query, quiet=quiet)
    timer = screen.Timer()
    with screen.loading(model, quiet=quiet):
        classifier = Classifier(model, **engine)
    timer.lap()
    records = list(source.records())
    inputs = _inputs(records, query, query_field)
    with tokens("classifying", quiet=quiet) as progress:
        results = classifier.classify(inputs, progress=progress)
    timer.lap()
    if screen.is_table_wanted(as_json, output):
        console = Console()
        console.print(_table(results, records, console.width))
        timer.note(f"{len(records):,} texts labelled", classifier.info.name, quiet=quiet)
    else:
        write_rows(_rows(results, records), output)
    screen.note_truncated(classifier, len(records), quiet=quiet)


def _inputs(
    records: Sequence[TextRecord], query: str | None, field: str | None
) -> list[str] | list[tuple[str, str]]:
    """Return what to label: texts alone, or each with the query of all or of its row."""
    if query is not None and field:
        raise ConfigError("--query and --query-field contradict each other. Give one of them.")
    if query is not None:
        return [(query, record.text) for record in records]
    if field is None and any(isinstance(record.fields.get(QUERY), str) for record in records):
        field = QUERY
    if not field:
        return [record.text for record in records]
    return [(_query(record, field), record.text) for record in records]


def _query(record: TextRecord, field: str) -> str:
    value = record.fields.get(field)
    if not isinstance(value, str):
        raise DataError(
            f"{record.where}: no text in the field {field!r} (--query-field); it has "
            f"{', '.join(map(str, record.fields))}. To label texts alone: --query-field ''"
        )
    return value


def _rows(results: Sequence[Classification], records: Sequence[TextRecord]) -> list[dict[str, Any]]:
    return [
        {
            **record.fields,
            "label": result.label,
            "label_score": result.score,
            "probabilities": dict(result.probabilities),
            **_calibrated(result),
            **({"is_truncated": True} if result.is_truncated else {}),
        }
        for record, result in zip(records, results, strict=True)
    ]


def _calibrated(result: Classification) -> dict[str, Any]:
    if result.calibrated_probabilities is None:
        return {}
    named = dict(result.calibrated_probabilities)
    return {"probability": result.probability, "calibrated_probabilities": named}


def _table(results: Sequence[Classification], records: Sequence[TextRecord], width: int) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("label", style="bold")
    table.add_column("", justify="right", min_width=6)
    table.add_column("", min_width=screen.BAR_WIDTH)
    is_calibrated = any(result.probability is not None for result in results)
    if is_calibrated:
        table.add_column("probability", justify="right", min_width=6)
    table.add_column("text")
    longest = max((len(result.label) for result in results), default=0)
    for result, record in zip(results, records, strict=True):
        shown = screen.one_line(record.text, width - longest - (43 if is_calibrated else 30))
        likely = [] if result.probability is None else [f"{result.probability:.3f}"]
        table.add_row(result.label, f"{result.score:.4f}", screen.bar(result.score), *likely, shown)
    return table
