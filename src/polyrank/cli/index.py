"""`polyrank index`: files into a store of vectors, those that are new or changed."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from polyrank.cli import options, screen
from polyrank.cli.fields import takes
from polyrank.cli.outputs import write_lines
from polyrank.cli.progress import steps
from polyrank.config import DEFAULT_MAX_FILE_BYTES, DEFAULT_PASSAGE_TOKENS, DEFAULT_STORE

if TYPE_CHECKING:
    from polyrank.pipeline.indexing import IndexReport
    from polyrank.pipeline.listing import Remark

FAILED = 1
_SHOWN = 20  # remarks in a summary
_MEGABYTE = 1 << 20

# passages are cut to a size of their own
ENGINE = [each for each in options.ENGINE if each.name != "max_length"]

StoreUrl = Annotated[
    str,
    typer.Option(
        "--store",
        "-s",
        help="Where passages are kept: lancedb://FOLDER, sqlite://FILE, faiss://FOLDER, "
        "qdrant://HOST:PORT, chroma://FOLDER, milvus://FILE.db or postgresql://USER@HOST/DATABASE.",
    ),
]
StoreKey = Annotated[
    str | None,
    typer.Option(
        envvar="POLYRANK_STORE_API_KEY",
        help="Key of a store's server that asks for one.",
        show_default=False,
    ),
]


@takes(*ENGINE)
def index(
    places: Annotated[
        list[Path],
        typer.Argument(
            metavar="DIR|FILE…",
            help="Text, Markdown, HTML, PDF, Word (.docx), JSON lines and Parquet.",
            show_default=False,
        ),
    ],
    store: StoreUrl = DEFAULT_STORE,
    passage_tokens: Annotated[
        int | None,
        typer.Option(
            help=f"Tokens of a passage at most. Left out: {DEFAULT_PASSAGE_TOKENS}, or what the "
            "store was begun with.",
            min=16,
            show_default=False,
        ),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELD",
            help="Keep this field of rows (JSON lines, Parquet) to filter by; may be given again.",
            show_default=False,
        ),
    ] = None,
    rows: Annotated[
        bool | None,
        typer.Option(
            "--rows/--no-rows",
            help="Keep the rows of late interaction beside the vectors: a search then reranks "
            "without reading passages again, for 1.5 kB a token. Left out: as the store was begun, "
            "without them.",
            show_default=False,
        ),
    ] = None,
    max_file_size: Annotated[
        int, typer.Option(help="Megabytes; larger files are not read.", min=1)
    ] = DEFAULT_MAX_FILE_BYTES // _MEGABYTE,
    api_key: StoreKey = None,
    model: options.Model = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    **engine: Any,
) -> None:
    """Bring a store up to date with files and folders.

    Files are cut into passages by their headings, pages and sentences. Run again, it reads what is
    new or changed and removes what is gone; stopped or killed, it goes on where it was. Ends with 1
    where a file could not be read; the others are indexed all the same.

    For example:

        polyrank index handbook/ notes.pdf
        polyrank index articles.jsonl --keep lang --store sqlite://articles.db
        polyrank search "How do I reset my password?"
    """
    from polyrank.pipeline.indexing import Indexer, IndexSettings
    from polyrank.pipeline.models import ModelSettings

    models = ModelSettings(model, **engine)
    fields = None if keep is None else tuple(keep)
    settings = IndexSettings(passage_tokens, fields, max_file_size * _MEGABYTE, api_key, rows)
    indexer = Indexer(store, models=models, settings=settings)
    with screen.assumptions_as_remarks(quiet=quiet), steps(quiet=quiet) as progress:
        report = indexer.run(places) if progress is None else indexer.run(places, progress)
    if screen.is_table_wanted(as_json, None):
        _show(report, store)
    else:
        write_lines([asdict(report)], sys.stdout)
    if report.failed:
        raise typer.Exit(FAILED)


def _show(report: "IndexReport", store: str) -> None:
    console = Console(highlight=False)
    counts = (
        f"{report.added:,} new, {report.changed:,} changed, {report.unchanged:,} unchanged, "
        f"{report.deleted:,} deleted"
    )
    console.print(f"{counts}; {report.num_written:,} passages written", soft_wrap=True)
    console.print(Text(f"{report.num_passages:,} passages in {store}"), soft_wrap=True)
    if report.row_bytes:
        each = report.row_bytes / report.num_written
        size = f"{report.row_bytes / 1e6:,.1f} MB of rows written, {each / 1e3:,.1f} kB a passage"
        console.print(size, soft_wrap=True)
    _list(console, "passed over", report.skipped, "dim")
    _list(console, "failed", report.failed, "red")


def _list(console: Console, word: str, remarks: "Sequence[Remark]", style: str) -> None:
    for remark in remarks[:_SHOWN]:
        console.print(Text(f"{word}: {remark.path}: {remark.reason}", style), soft_wrap=True)
    if len(remarks) > _SHOWN:
        console.print(
            Text(f"{word}: {len(remarks) - _SHOWN:,} more; --json lists all of them", style)
        )
