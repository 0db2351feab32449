"""What the commands of `polyrank train` are told: options for every day, settings for the rest.

The settings are the fields of `TrainingConfig` and of `TrainRunSettings`; their sentences are the
options' help. What is no option stands in the file of ``--config``.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from polyrank.cli.config_file import settings_options
from polyrank.cli.fields import Setting, settings_of
from polyrank.training.config import TrainingConfig, TrainTask

DEFAULT, NONE = "default", "none"
MODEL: Mapping[str, Any] = {"is_argument": True}
DATA: Mapping[str, Any] = {"flags": ("--data", "-d"), "metavar": "PATH[:WEIGHT]"}
OUTPUT: Mapping[str, Any] = {"flags": ("--output", "-o")}

_ALWAYS = ("model", "data", "output", "steps", "epochs", "minutes", "batch_size", "learning_rate")
FLAGS: Mapping[TrainTask, tuple[str, ...]] = {
    "reranker": (*_ALWAYS, "loss", "teacher", "lora_rank", "eval_data", "seed"),
    "classifier": (*_ALWAYS, "lora_rank", "eval_data", "seed"),
    "embedder": (*_ALWAYS, "loss", "teacher", "lora_rank", "eval_data", "seed"),
}
"""Settings of each task that are options too."""

_LACKING: Mapping[TrainTask, tuple[str, ...]] = {
    "reranker": (),
    "classifier": ("loss", "second_weight", "teacher", "teacher_scale"),
    "embedder": (
        "head",
        "head_learning_rate",
        "max_batch_tokens",
        "eval_retriever",
        "eval_top_k",
    ),
}
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on from the last checkpoint of the same call.")
]


@dataclass(frozen=True, slots=True)
class TrainRunSettings:
    """What a run of fine-tuning is told beside its `TrainingConfig`.

    Attributes:
        model: Folder or Hub id of the checkpoint to start from. Left out: the base model
            (`make model`).
        data: Training data, PATH or PATH:WEIGHT; may be given several times. WEIGHT is the share
            of the lists. Without any weight, each source counts by its number of queries.
        output: Folder to make. Checkpoints lie beside it.
        teacher: Checkpoint whose raw scores are the targets of margin-mse, mse and distill: a
            reranker, or an embedder with its cosines.
        miner: Embedding checkpoint that finds hard negatives: folder, Hub id, default or none.
        cache_dir: Folder to keep the miner's vectors of passages in.
        eval_data: BEIR folder to measure nDCG@10 on before, while and after training; the best
            state is kept. For classifiers also a file or folder of query, passage and label
            (macro-F1).
        eval_retriever: What finds documents for cross-encoders: bm25, or an embedding checkpoint.
        eval_mode: Which queries meet which documents, as `polyrank eval --mode`.
        eval_languages: Only these languages, such as ["en", "de"].
        eval_queries: Queries of each language at most.
        eval_top_k: Documents a query that are scored.
        revision: Branch, tag or commit of the Hub id to start from.
        threads: Threads. Left out: what the libraries take.
    """

    model: str | None = field(default=None, metadata=MODEL)
    data: tuple[str, ...] = field(default=(), metadata=DATA)
    output: Path | None = field(default=None, metadata=OUTPUT)
    teacher: str | None = None
    miner: str = DEFAULT
    cache_dir: Path | None = None
    eval_data: Path | None = None
    eval_retriever: str = "bm25"
    eval_mode: Literal["auto", "same", "cross", "pool", "all"] = "auto"
    eval_languages: tuple[str, ...] = ()
    eval_queries: int = 100
    eval_top_k: int = 30
    revision: str | None = None
    threads: int | None = None


def finetuning_settings(task: TrainTask) -> dict[str, Setting]:
    """Return every setting of a task."""
    return settings_of(TrainRunSettings, TrainingConfig, without=("task", *_LACKING[task]))


def finetuning_options(task: TrainTask) -> list[inspect.Parameter]:
    """Return the options of a task that stand for its settings."""
    return settings_options(finetuning_settings(task), FLAGS[task], f"train {task}")
