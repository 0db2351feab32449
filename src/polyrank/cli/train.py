"""`polyrank train`: fine-tuning of rerankers, classifiers and embedders."""

import inspect
import json
import sys
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from polyrank.cli import options, screen
from polyrank.cli.evaluate import ModeName
from polyrank.cli.outputs import check_folder
from polyrank.cli.progress import steps
from polyrank.cli.train_options import (
    CLASSIFIER_LACKS,
    DEFAULT,
    EMBEDDER_LACKS,
    NONE,
    SETTINGS,
    parameters,
)

if TYPE_CHECKING:
    from polyrank.training.config import TrainTask
    from polyrank.training.finetune.monitor import MonitorConfig
    from polyrank.training.finetune.run import Job, Outcome

INTERRUPTED = 130

train_app = typer.Typer(name="train", no_args_is_help=True)


class RerankerLoss(StrEnum):
    """Losses of a reranker."""

    LISTNET = "listnet"
    LAMBDA = "lambda"
    BCE = "bce"
    MARGIN_MSE = "margin-mse"
    MSE = "mse"
    DISTILL = "distill"


class EmbedderLoss(StrEnum):
    """Losses of an embedder."""

    CONTRASTIVE = "contrastive"
    MARGIN_MSE = "margin-mse"
    DISTILL = "distill"


_RERANKER: Mapping[str, tuple[Any, Any]] = {
    "loss": (
        Annotated[
            RerankerLoss,
            typer.Option(
                help="listnet and lambda look at whole lists, bce at each pair. margin-mse, mse "
                "and distill (a list's distribution) learn a --teacher's scores, or those of the "
                "rows."
            ),
        ],
        RerankerLoss.LISTNET,
    ),
    "second_weight": (
        Annotated[
            float | None,
            typer.Option(
                "--bce-weight",
                help="BCE added to the loss, which makes scores comparable across queries. Left "
                "out: 0.3 beside listnet and lambda.",
                min=0.0,
                show_default=False,
            ),
        ],
        None,
    ),
}
_EMBEDDER: Mapping[str, tuple[Any, Any]] = {
    "loss": (
        Annotated[
            EmbedderLoss,
            typer.Option(
                help="contrastive ranks each answer above all others of the batch; margin-mse "
                "and distill learn a --teacher's scores, or those of the rows."
            ),
        ],
        EmbedderLoss.CONTRASTIVE,
    ),
    "second_weight": (
        Annotated[
            float | None,
            typer.Option(
                "--contrastive-weight",
                help="Contrastive loss added to margin-mse or distill.",
                min=0.0,
                show_default=False,
            ),
        ],
        None,
    ),
}


@train_app.callback()
def _train() -> None:
    """Fine-tune a checkpoint on your data.

    Data are read by what they hold: a BEIR folder (corpus.jsonl, queries.jsonl, qrels.tsv); a
    JSONL file of {"query", "positives", "negatives", "neutrals"}; questions with their passages,
    sections in several languages, or translations, as the manual describes.
    """


def _command(
    task: "TrainTask",
    summary: str,
    own: Mapping[str, tuple[Any, Any]],
    lacking: frozenset[str] = frozenset(),
) -> Callable[..., None]:
    """Return a command whose options come from the shared table and its own."""

    def command(**given: Any) -> None:
        _run(task, given)

    found = parameters(own, lacking)
    command.__signature__ = inspect.Signature(found)  # type: ignore[attr-defined]  # typer reads it
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in found}
    command.__name__ = task
    command.__doc__ = summary
    return command


reranker = _command(
    "reranker",
    """Train a cross-encoder to order passages by relevance.

    The output folder runs with `polyrank rerank --model OUTPUT`, and in sentence-transformers as
    a CrossEncoder. training.json and training.png in it tell what happened. Ctrl-C saves what is
    there; the same call with --resume goes on.

    For example:

        polyrank train reranker BAAI/bge-reranker-base --data rows.jsonl -o mine --epochs 2
        polyrank train reranker -d beir -d parallel:2 -o mine --minutes 90 --eval-data dev
        polyrank train reranker -d beir -o small --loss distill --teacher BAAI/bge-reranker-v2-m3
    """,
    _RERANKER,
)
classifier = _command(
    "classifier",
    """Train a cross-encoder to tell relevant, neutral and irrelevant passages apart.

    Labels come from structure: the passage that answers is relevant, others of its article or
    page are neutral, passages from elsewhere irrelevant. Queries without any answer take part.
    JSONL rows name their neutrals.

    For example:

        polyrank train classifier intfloat/multilingual-e5-small -d qa -o three --minutes 60
    """,
    {},
    CLASSIFIER_LACKS,
)
embedder = _command(
    "embedder",
    """Train an embedder: queries near to what answers them.

    Modules, pooling and prompts stay those of the start checkpoint; its prompts are used.

    For example:

        polyrank train embedder intfloat/multilingual-e5-small -d beir -o mine --epochs 1
        polyrank train embedder FOLDER -d parallel -o mine --batch-size 256 --lora-rank 16
    """,
    _EMBEDDER,
    EMBEDDER_LACKS,
)
for _made in (reranker, classifier, embedder):
    train_app.command(_made.__name__)(_made)


@train_app.command("late-interaction")
def late_interaction(
    data: Annotated[
        list[str],
        typer.Option(
            "--data",
            "-d",
            metavar="PATH[:WEIGHT]",
            help="Training data; may be given several times. WEIGHT is the share of the lists.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to make.")],
    model: Annotated[
        str | None,
        typer.Argument(
            help="Folder or Hub id of an embedding checkpoint with float weights. Left out: the "
            "base model (`make model`).",
            show_default=False,
        ),
    ] = None,
    lists: Annotated[
        int, typer.Option(help="Queries with their passages to learn from.", min=1)
    ] = 24_000,
    directions: Annotated[
        int,
        typer.Option(
            help="Directions in which languages differ that are taken out of token rows: more "
            "help pools of several languages, fewer the single ones.",
            min=0,
        ),
    ] = 24,
    length_weight: Annotated[
        float,
        typer.Option(
            help="What a document's match loses for each unit of the natural logarithm of its "
            "length, since long texts are easier to match. 0: nothing.",
            min=0,
        ),
    ] = 0.008,
    epochs: Annotated[int, typer.Option(help="Passes over the lists.", min=1)] = 5,
    miner: Annotated[
        str | None,
        typer.Option(
            help="Embedding checkpoint that finds hard negatives. Left out: the default model.",
            show_default=False,
        ),
    ] = None,
    cache_dir: Annotated[
        Path | None,
        typer.Option(help="Keep the miner's vectors of passages here.", show_default=False),
    ] = None,
    compute_dtype: options.ComputeDtype = "auto",
    seed: Annotated[int, typer.Option(help="Of draws and first weights.", min=0)] = 0,
    threads: options.Threads = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Teach an embedder to rerank and to classify by comparing the tokens of two texts.

    Each text is read on its own, as for its vector; the score of a pair is how well each token of
    the query is matched in the document (late interaction). The body stays as it is, and so do
    its vectors: what is learnt are the directions in which languages differ, the weight of a
    query's token, and small layers on a few features. Minutes, not hours. With --compute int8
    the body reads texts as the quantised model will.

    For example:

        polyrank train late-interaction intfloat/multilingual-e5-small -d qa -d docs:2 -o three
    """
    from polyrank.training.config import DataSource
    from polyrank.training.late_interaction.settings import (
        LateInteractionConfig,
        LateInteractionJob,
    )
    from polyrank.training.late_interaction.train import train_late_interaction

    config = LateInteractionConfig(
        lists=lists,
        directions=directions,
        length_weight=length_weight,
        epochs=epochs,
        compute_dtype=compute_dtype,
        seed=seed,
    )
    sources = tuple(DataSource.parse(text) for text in data)
    target = output.absolute()
    check_folder(target)
    job = LateInteractionJob(model, sources, target, config, miner, cache_dir, threads)
    with steps(quiet=quiet) as progress:
        record = train_late_interaction(job, progress=progress)
    last = record["evaluations"][-1]
    if screen.is_table_wanted(as_json, None):
        figures = ", ".join(f"{key} {value}" for key, value in last.items() if key != "epoch")
        console = Console(highlight=False)
        console.print(f"{record['num_pairs']:,} pairs; losses on held-out lists: {figures}")
    else:
        facts = {"folder": str(target), "num_pairs": record["num_pairs"], **last}
        sys.stdout.write(json.dumps(facts) + "\n")
    screen.remark(f"wrote {target}; training.json there tells how it went", quiet=quiet)


def _run(task: "TrainTask", given: Mapping[str, Any]) -> None:
    from polyrank.training.finetune.run import train

    quiet = given["quiet"]
    with steps(quiet=quiet) as progress:
        outcome = train(_job(task, given), progress=progress)
    _show(outcome, as_json=given["as_json"], quiet=quiet)
    if not outcome.is_complete:
        sys.stderr.write(
            f"stopped after {outcome.record['num_steps']:,} steps; what was learnt is in "
            f"{outcome.folder}. The same call with --resume goes on.\n"
        )
        raise typer.Exit(INTERRUPTED)


def _job(task: "TrainTask", given: Mapping[str, Any]) -> "Job":
    from polyrank.training.config import DataSource, TrainingConfig
    from polyrank.training.finetune.run import Job

    settings = {name: _plain(value) for name, value in given.items() if name in SETTINGS}
    miner = given["miner"]
    check_folder(given["output"])
    return Job(
        model=given["model"],
        data=tuple(DataSource.parse(text) for text in given["data"]),
        output=given["output"].absolute(),
        config=TrainingConfig(task, **settings),
        monitor=_monitor(given),
        retriever=given.get("eval_retriever", "bm25"),
        use_miner=miner != NONE,
        miner=None if miner in (NONE, DEFAULT) else miner,
        teacher=given.get("teacher"),
        cache_dir=given["cache_dir"],
        resume=given["resume"],
        revision=given["revision"],
        num_threads=given["threads"],
    )


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, StrEnum) else value


def _monitor(given: Mapping[str, Any]) -> "MonitorConfig | None":
    if given["eval_data"] is None:
        return None
    from polyrank.training.finetune.monitor import MonitorConfig

    mode = given["eval_mode"]
    languages = (code.strip() for code in (given["eval_languages"] or "").split(","))
    return MonitorConfig(
        given["eval_data"],
        mode=None if mode == ModeName.AUTO else mode.value,
        languages=tuple(code for code in languages if code) or None,
        max_queries=given["eval_queries"],
        top_k=given.get("eval_top_k", 30),
    )


def _show(outcome: "Outcome", *, as_json: bool, quiet: bool) -> None:
    if screen.is_table_wanted(as_json, None):
        _show_table(outcome.record)
    else:
        brief = {key: value for key, value in outcome.record.items() if key != "losses"}
        facts = {"folder": str(outcome.folder), **brief}
        sys.stdout.write(json.dumps(facts, ensure_ascii=False) + "\n")
    screen.remark(
        f"wrote {outcome.folder}; training.png and training.json there tell how it went",
        quiet=quiet,
    )


def _show_table(record: Mapping[str, Any]) -> None:
    console = Console(highlight=False)
    if record["evaluations"]:
        table = Table(box=None, pad_edge=False)
        for title in ("step", record["evaluations"][0]["measure"], "minutes"):
            table.add_column(title, justify="right")
        for entry in record["evaluations"]:
            style = "bold" if entry["step"] == record["best"]["step"] else None
            minutes = f"{entry['seconds'] / 60:.1f}"
            table.add_row(f"{entry['step']:,}", f"{entry['value']:.4f}", minutes, style=style)
        console.print(table)
    first, last = record["losses"][0]["loss"], record["losses"][-1]["loss"]
    console.print(
        f"{record['num_steps']:,} steps, {record['num_lists']:,} lists in "
        f"{record['seconds'] / 60:.1f} minutes; loss {first:.3f} to {last:.3f}",
        style="dim",
    )


@train_app.command("first-stage-weight")
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
