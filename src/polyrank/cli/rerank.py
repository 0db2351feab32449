"""`polyrank rerank`: documents by relevance to a query."""

from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from polyrank.cli import options, screen
from polyrank.cli.inputs import STDIN, InputFormat, Record, Source
from polyrank.types import RankedDocument, TruncationStrategy


def rerank(
    query: Annotated[str, typer.Argument(help="What is looked for, in any language.")],
    file: options.File = STDIN,
    top_n: Annotated[
        int | None,
        typer.Option("--top-n", "-n", help="Show only the best N.", min=1, show_default=False),
    ] = None,
    model: options.Model = None,
    input_format: options.Format = InputFormat.AUTO,
    text_field: options.TextField = "text",
    max_length: options.MaxLength = None,
    truncation: Annotated[
        TruncationStrategy,
        typer.Option(
            help="longest_first cuts the longer of query and document; only_second cuts "
            "the document alone."
        ),
    ] = "longest_first",
    encoder: options.Encoder = "auto",
    threads: options.Threads = None,
    device: options.Device = "cpu",
    compute: options.ComputePrecision = "auto",
    max_batch_tokens: options.MaxBatchTokens = options.MAX_BATCH_TOKENS,
    revision: options.Revision = None,
    output: options.Output = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Rank documents by relevance to a query.

    A terminal gets a table; a pipe gets one JSON object a line, best first, with "rank",
    "index", "score" and every field of the document.

    For example:

        polyrank rerank "How long do cats live?" articles.txt --top-n 5
        cat answers.jsonl | polyrank rerank "猫の寿命" -m BAAI/bge-reranker-v2-m3 > best.jsonl
        polyrank rerank "capital of France" pages.csv --text-field body
    """
    from polyrank.inference.reranker import Reranker

    records = list(Source(file, input_format, text_field).records())
    timer = screen.Timer()
    with screen.loading(model, quiet=quiet):
        reranker = Reranker(
            model,
            max_length=max_length,
            truncation=truncation,
            encoder=encoder,
            num_threads=threads,
            device=device,
            precision=compute,
            max_batch_tokens=max_batch_tokens,
            revision=revision,
        )
    timer.lap()
    texts = [record.text for record in records]
    with screen.progress_bar("ranking", quiet=quiet) as progress:
        ranked = reranker.rank(query, texts, top_n=top_n, progress=progress)
    timer.lap()
    if screen.is_table_wanted(as_json, output):
        console = Console()
        is_probability = reranker.info.activation == "sigmoid"
        console.print(_table(ranked, console.width, is_probability=is_probability))
        timer.note(f"{len(records):,} documents ranked", reranker.info.name, quiet=quiet)
    else:
        with screen.text_output(output) as out:
            screen.write_lines(_rows(ranked, records), out)
    limit = reranker.info.max_length
    screen.note_truncated(reranker.num_truncated, len(records), limit, quiet=quiet)


def _rows(ranked: Sequence[RankedDocument], records: Sequence[Record]) -> list[dict[str, Any]]:
    return [
        {
            **records[hit.index].fields,
            "rank": rank,
            "index": hit.index,
            "score": hit.score,
            **({"is_truncated": True} if hit.is_truncated else {}),
        }
        for rank, hit in enumerate(ranked, start=1)
    ]


def _table(ranked: Sequence[RankedDocument], width: int, *, is_probability: bool) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("rank", justify="right", min_width=4)
    table.add_column("score", justify="right", style="bold", min_width=7)
    table.add_column("", min_width=screen.BAR_WIDTH)
    table.add_column("document")
    bars = screen.shares([hit.score for hit in ranked], is_probability=is_probability)
    for rank, (hit, share) in enumerate(zip(ranked, bars, strict=True), start=1):
        shown = screen.one_line(str(hit.document), width - 30)
        table.add_row(str(rank), f"{hit.score:.4f}", screen.bar(share), shown)
    return table
