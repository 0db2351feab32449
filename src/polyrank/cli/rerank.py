"""`polyrank rerank`: documents by relevance to a query."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from polyrank.cli import options, screen
from polyrank.cli.fields import takes
from polyrank.cli.inputs import STDIN, InputFormat, TextRecord, TextSource
from polyrank.cli.outputs import ROW_SUFFIXES, check_output, write_rows
from polyrank.cli.progress import tokens
from polyrank.config import PassageConfig
from polyrank.errors import ConfigError, DataError
from polyrank.types import Aggregation, Passage, RankedDocument, TruncationStrategy

if TYPE_CHECKING:
    from polyrank.inference.reranker import Reranker

ReadingRule = Literal[Aggregation, "truncate"]

Query = Annotated[str, typer.Argument(help="What is looked for, in any language.")]
TopN = Annotated[
    int | None,
    typer.Option(
        "--top-n", "--top-k", "-n", help="Show only the best N.", min=1, show_default=False
    ),
]
FirstStageField = Annotated[
    str | None,
    typer.Option(
        help="Field or column that holds what a search gave each document: such scores then "
        "count beside the model's.",
        show_default=False,
    ),
]
Truncation = Annotated[
    TruncationStrategy,
    typer.Option(
        help="longest_first cuts the longer of query and document; only_second cuts "
        "the document alone."
    ),
]
AggregationOption = Annotated[
    ReadingRule,
    typer.Option(
        help="How a document is read that is longer than the model's window: in passages, of "
        "which the best counts (max_p), the first (first_p), the mean of the best three "
        "(top_k_mean), all with falling weights (decayed_sum), or the token rows of all as one "
        "text's (joint_maxsim; late interaction alone); or cut (truncate)."
    ),
]
MaxPassages = Annotated[
    int | None,
    typer.Option(
        help="Passages of a document to read, at most. Left out: all.",
        min=1,
        show_default=False,
    ),
]


_NOTHING = "nothing answers: no document reaches --min-probability"


@takes(*options.ENGINE)
def rerank(
    query: Query,
    file: options.File = STDIN,
    top_n: TopN = None,
    model: options.Model = None,
    input_format: options.Format = InputFormat.AUTO,
    text_field: options.TextField = "text",
    first_stage_field: FirstStageField = None,
    first_stage: options.FirstStage = "lexical",
    min_probability: options.MinProbability = None,
    truncation: Truncation = "longest_first",
    aggregation: AggregationOption = "max_p",
    max_passages: MaxPassages = None,
    output: options.Output = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    **engine: Any,
) -> None:
    """Rank documents by relevance to a query.

    A terminal gets a table; a pipe gets one JSON object a line, best first, with "rank",
    "index", "score", "probability" (where the model is calibrated) and every field of the document.
    With --output the name's ending decides: .jsonl, .ndjson, .json, .csv, .tsv or .parquet. A
    document that is longer than the model's window is read in passages; the table shows its best
    one, and rows have "passages" with offsets.

    For example:

        polyrank rerank "How long do cats live?" articles.txt --top-n 5
        cat answers.jsonl | polyrank rerank "猫の寿命" -m BAAI/bge-reranker-v2-m3 > best.jsonl
        polyrank rerank "capital of France" pages.csv --text-field body --output best.csv
        polyrank rerank "termination clause" contracts.jsonl --aggregation top_k_mean
        polyrank rerank "cats" hits.jsonl --first-stage-field bm25 --first-stage lexical
        polyrank rerank "Who painted it?" pages.txt --min-probability 0.5
    """
    source = TextSource(file, input_format, text_field)
    source.check()
    check_output(output, ROW_SUFFIXES)
    from polyrank.inference.reranker import Reranker

    screen.note_empty_query(query, quiet=quiet)
    records, kind = list(source.records()), options.first_stage(first_stage)
    scores = _scores(records, first_stage_field)
    passages, timer = _passages(aggregation, max_passages), screen.Timer()
    with screen.loading(model, quiet=quiet):
        reranker = Reranker(model, truncation=truncation, passages=passages, **engine)
    if scores is not None:
        kind = reranker.first_stage_weight(kind)  # fails before the work where there is none
    timer.lap()
    with tokens("ranking", quiet=quiet) as progress:
        ranked = reranker.rank(
            query,
            [record.text for record in records],
            top_n=top_n,
            first_stage_scores=scores,
            first_stage=kind,
            min_probability=min_probability,
            progress=progress,
        )
    _show(ranked, records, reranker, timer, output=output, as_json=as_json, quiet=quiet)
    if records and not ranked:
        screen.remark(f"{_NOTHING} {min_probability}", quiet=quiet)


def _show(
    ranked: Sequence[RankedDocument],
    records: Sequence[TextRecord],
    reranker: "Reranker",
    timer: screen.Timer,
    *,
    output: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    timer.lap()
    if screen.is_table_wanted(as_json, output):
        _print(ranked, is_probability=reranker.info.activation == "sigmoid")
        timer.note(f"{len(records):,} documents ranked", reranker.info.name, quiet=quiet)
    else:
        write_rows(_rows(ranked, records), output)
    screen.note_truncated(reranker, len(records), quiet=quiet)


def _scores(records: Sequence[TextRecord], field: str | None) -> list[float] | None:
    """Return the number that each document has in a field; cells of CSV files hold texts."""
    if field is None:
        return None
    scores = []
    for record in records:
        value = record.fields.get(field)
        try:
            if isinstance(value, bool) or not isinstance(value, int | float | str):
                raise ValueError("no number")
            score = float(value)
            if not math.isfinite(score):
                raise ValueError("not finite")
        except (ValueError, OverflowError) as exc:
            raise DataError(
                f"{record.where}: field {field!r} holds {value!r}, where the score of a first "
                f"stage should be ({exc}). The row has {', '.join(map(str, record.fields))}."
            ) from exc
        scores.append(score)
    return scores


def _passages(rule: ReadingRule, most: int | None) -> PassageConfig | None:
    if rule != "truncate":
        return PassageConfig(rule, max_passages_per_document=most)
    if most is not None:
        raise ConfigError("--max-passages reads passages; leave out --aggregation truncate")
    return None


def _is_split(hit: RankedDocument) -> bool:
    return len(hit.passages) > 1


def _passage_row(passage: Passage) -> dict[str, Any]:
    row = {"start": passage.start, "end": passage.end, "score": passage.score}
    return row if passage.probability is None else row | {"probability": passage.probability}


def _rows(ranked: Sequence[RankedDocument], records: Sequence[TextRecord]) -> list[dict[str, Any]]:
    return [
        {
            **records[hit.index].fields,
            "rank": rank,
            "index": hit.index,
            "score": hit.score,
            **({} if hit.probability is None else {"probability": hit.probability}),
            **({"is_truncated": True} if hit.is_truncated else {}),
            **({"passages": [_passage_row(p) for p in hit.passages]} if _is_split(hit) else {}),
        }
        for rank, hit in enumerate(ranked, start=1)
    ]


def _print(ranked: Sequence[RankedDocument], *, is_probability: bool) -> None:
    console = Console()
    width = console.width
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("rank", justify="right", min_width=4)
    table.add_column("score", justify="right", style="bold", min_width=7)
    table.add_column("", min_width=screen.BAR_WIDTH)
    is_calibrated = any(hit.probability is not None for hit in ranked)
    if is_calibrated:
        table.add_column("probability", justify="right", min_width=6)
    table.add_column("document")
    bars = screen.shares([hit.score for hit in ranked], is_probability=is_probability)
    for rank, (hit, share) in enumerate(zip(ranked, bars, strict=True), start=1):
        whole = hit.passage.text if _is_split(hit) else str(hit.document)
        shown = screen.one_line(whole, width - (43 if is_calibrated else 30))
        likely = [] if hit.probability is None else [f"{hit.probability:.3f}"]
        table.add_row(str(rank), f"{hit.score:.4f}", screen.bar(share), *likely, shown)
    console.print(table)
