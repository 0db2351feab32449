"""`polyrank train first-stage-weight`: what a search's scores count for."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from polyrank.cli import screen
from polyrank.cli.config_file import read_settings, settings_options, split
from polyrank.cli.fields import settings_of, takes
from polyrank.cli.memory import row_cache_bytes
from polyrank.cli.progress import steps
from polyrank.cli.train.finetuning import sources
from polyrank.cli.train.options import DATA, MODEL
from polyrank.training.first_stage.settings import FirstStageWeightConfig, FirstStageWeightJob

COMMAND = "train first-stage-weight"


@dataclass(frozen=True, slots=True)
class FirstStageWeightRun:
    """What a run is told beside its `FirstStageWeightConfig`.

    Attributes:
        model: Folder of a checkpoint that reranks. With --dry-run also a Hub id, or left out: the
            default model.
        data: Training data, PATH or PATH:WEIGHT; may be given several times. WEIGHT is what a
            source counts for.
        retriever_model: Embedding checkpoint of the dense first stage. Left out: the folder's own
            embed head, if it has one.
        threads: Threads. Left out: all that this process may use.
    """

    model: str | None = field(default=None, metadata=MODEL)
    data: tuple[str, ...] = field(default=(), metadata=DATA)
    retriever_model: str | None = None
    threads: int | None = None


KNOWN = settings_of(FirstStageWeightRun, FirstStageWeightConfig)
DryRun = Annotated[bool, typer.Option("--dry-run", help="Change nothing, only look.")]


@takes(*settings_options(KNOWN, ("model", "data", "queries", "compute_dtype"), COMMAND))
def first_stage_weight(dry_run: DryRun = False, **options: Any) -> None:
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
    from polyrank.training.first_stage.learn import (
        WEIGHTS_RECORD_FILE,
        learn_first_stage_weights,
    )

    quiet = options["quiet"]
    values = read_settings(KNOWN, options, COMMAND)
    (run,), (config,) = split(values, FirstStageWeightRun), split(values, FirstStageWeightConfig)
    job = FirstStageWeightJob(
        run.model,
        sources(run.data),
        config,
        run.retriever_model,
        run.threads,
        row_cache_bytes(None),
        dry_run,
    )
    with steps(quiet=quiet) as progress:
        record = learn_first_stage_weights(job, progress=progress)
    if screen.is_table_wanted(False, None):
        _show(record)
    else:
        sys.stdout.write(json.dumps(record, ensure_ascii=False) + "\n")
    for kind, reason in record["not_learnt"].items():
        screen.remark(f"no weight for {kind} first stages: {reason}", quiet=quiet)
    wrote = (
        f"wrote what was learnt into {run.model}; {WEIGHTS_RECORD_FILE} there tells how they were "
        "found"
    )
    screen.remark("a dry run: nothing was written" if dry_run else wrote, quiet=quiet)


def _show(record: Mapping[str, Any]) -> None:
    console = Console(highlight=False)
    for kind, learnt in record["first_stages"].items():
        table = Table(box=None, pad_edge=False, title=f"{kind} first stage, {learnt['measure']}")
        table.add_column("")
        for title in ("questions", "first stage", "reranked", "both", "weight"):
            table.add_column(title, justify="right")
        for row in (*learnt["groups"], {"source": "mean", **learnt["mean"]}):
            weight = row.get("held_out_weight")
            table.add_row(
                " ".join(filter(None, (row["source"], row.get("language")))),
                str(row.get("num_questions", "")),
                *(f"{row[stage]:.4f}" for stage in ("first_stage", "reranked", "blended")),
                "" if weight is None else f"{weight:.3f}",
            )
        console.print(table)
        console.print(
            f"weight {learnt['weight']:.3f}, learnt on all; those above without the row's "
            f"{learnt['held_out_by']}\n",
            style="dim",
        )
