"""`polyrank train first-stage-weight`: what a search's scores count for."""

import json
import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from polyrank.cli import options, screen
from polyrank.cli.progress import steps


def first_stage_weight(
    data: Annotated[
        list[str],
        typer.Option(
            "--data",
            "-d",
            metavar="PATH[:WEIGHT]",
            help="Training data; may be given several times. WEIGHT is what a source counts for.",
        ),
    ],
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[FOLDER]",
            help="Folder of a checkpoint that reranks. With --dry-run also a Hub id, or left out: "
            "the default model.",
            show_default=False,
        ),
    ] = None,
    queries: Annotated[
        int, typer.Option(help="Questions of each source in each language.", min=1)
    ] = 100,
    candidates: Annotated[
        int, typer.Option(help="Passages that a first stage hands on.", min=2)
    ] = 50,
    passages: Annotated[
        int, typer.Option(help="Passages of each source and language to search.", min=2)
    ] = 1_500,
    retriever_model: Annotated[
        str | None,
        typer.Option(
            help="Embedding checkpoint of the dense first stage. Left out: the folder's own embed "
            "head, if it has one.",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing, only look.")] = False,
    compute_dtype: options.ComputeDtype = "auto",
    seed: Annotated[int, typer.Option(help="Of the choice of questions.", min=0)] = 0,
    threads: options.Threads = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Learn how much a first stage's scores should count beside a reranker's.

    Where the search that finds documents is strong, reranking should add to it, not replace it.
    Questions of your data are searched by words (BM25) and by vectors, what is found is scored,
    and one weight for each goes into FOLDER/config.json; `polyrank rerank --first-stage-field`,
    `polyrank eval --first-stage-weight` and Reranker.rank(first_stage_scores=...) use it. Shows
    nDCG@10 of each source with weights learnt on the others.

    For example:

        polyrank train first-stage-weight mine -d qa -d more.jsonl:2
        polyrank train first-stage-weight -d qa --dry-run --queries 60
    """
    from polyrank.cli.memory import row_cache_bytes
    from polyrank.training.config import DataSource
    from polyrank.training.first_stage.learn import (
        WEIGHTS_RECORD_FILE,
        FirstStageWeightConfig,
        FirstStageWeightJob,
        learn_first_stage_weights,
    )

    job = FirstStageWeightJob(
        model,
        tuple(DataSource.parse(text) for text in data),
        FirstStageWeightConfig(
            queries, candidates, passages, compute_dtype=compute_dtype, seed=seed
        ),
        retriever_model,
        threads,
        row_cache_bytes(None),
        dry_run,
    )
    with steps(quiet=quiet) as progress:
        record = learn_first_stage_weights(job, progress=progress)
    if screen.is_table_wanted(as_json, None):
        _show_first_stage_weight(record)
    else:
        sys.stdout.write(json.dumps(record, ensure_ascii=False) + "\n")
    for kind, reason in record["not_learnt"].items():
        screen.remark(f"no weight for {kind} first stages: {reason}", quiet=quiet)
    wrote = (
        f"wrote what was learnt into {model}; {WEIGHTS_RECORD_FILE} there tells how they were found"
    )
    screen.remark("a dry run: nothing was written" if dry_run else wrote, quiet=quiet)


def _show_first_stage_weight(record: Mapping[str, Any]) -> None:
    console = Console(highlight=False)
    for kind, found in record["first_stages"].items():
        table = Table(box=None, pad_edge=False, title=f"{kind} first stage, {found['measure']}")
        table.add_column("")
        for title in ("questions", "first stage", "reranked", "both", "weight"):
            table.add_column(title, justify="right")
        for row in (*found["groups"], {"source": "mean", **found["mean"]}):
            weight = row.get("held_out_weight")
            table.add_row(
                " ".join(filter(None, (row["source"], row.get("language")))),
                str(row.get("num_questions", "")),
                *(f"{row[stage]:.4f}" for stage in ("first_stage", "reranked", "blended")),
                "" if weight is None else f"{weight:.3f}",
            )
        console.print(table)
        console.print(
            f"weight {found['weight']:.3f}, learnt on all; those above without the row's "
            f"{found['held_out_by']}\n",
            style="dim",
        )
