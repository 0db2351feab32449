"""The options of `polyrank train`, once for its three commands.

Names that `TrainingConfig` has too take their defaults from there.
"""

import inspect
from collections.abc import Mapping
from dataclasses import MISSING, fields
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from polyrank.cli import options
from polyrank.cli.evaluate import ModeName
from polyrank.training.config import TrainingConfig, TrainingDtype

DEFAULT, NONE = "default", "none"


class Head(StrEnum):
    """What a new head reads."""

    AUTO = "auto"
    MEAN = "mean"
    CLS = "cls"
    TRANSFORMERS = "transformers"


_TYPES: Mapping[str, Any] = {
    "model": Annotated[
        str | None,
        typer.Argument(
            help="Folder or Hub id of the checkpoint to start from. Left out: the base model "
            "(`make model`).",
            show_default=False,
        ),
    ],
    "data": Annotated[
        list[str],
        typer.Option(
            "--data",
            "-d",
            metavar="PATH[:WEIGHT]",
            help="Training data; may be given several times. WEIGHT is the share of the lists. "
            "Without any weight, each source counts by its number of queries.",
        ),
    ],
    "output": Annotated[
        Path, typer.Option("--output", "-o", help="Folder to make. Checkpoints lie beside it.")
    ],
    "teacher": Annotated[
        str | None,
        typer.Option(
            help="Checkpoint whose raw scores are the targets of margin-mse, mse and distill: a "
            "reranker, or an embedder with its cosines.",
            show_default=False,
        ),
    ],
    "teacher_scale": Annotated[
        float, typer.Option(help="Multiplies the teacher's raw scores; 20 suits cosines.")
    ],
    "steps": Annotated[
        int | None, typer.Option(help="Updates at most.", min=1, show_default=False)
    ],
    "epochs": Annotated[
        float | None,
        typer.Option(
            help="Passes over the queries at most. Without any limit: one.", show_default=False
        ),
    ],
    "minutes": Annotated[
        float | None,
        typer.Option(help="Time at most, evaluations included.", show_default=False),
    ],
    "batch_size": Annotated[
        int | None,
        typer.Option(
            help="Lists an update. Left out: 8 for a reranker, 16 for a classifier, 64 for an "
            "embedder; from 128 on, an embedder's contrastive loss keeps gradients instead of "
            "activations.",
            min=1,
            show_default=False,
        ),
    ],
    "max_batch_tokens": Annotated[
        int,
        typer.Option(
            "--max-batch-tokens", help="Tokens in one forward pass, padding included.", min=1
        ),
    ],
    "max_length": Annotated[
        int,
        typer.Option(
            help="Tokens of a text or pair while training. The new checkpoint keeps the old limit.",
            min=8,
        ),
    ],
    "learning_rate": Annotated[
        float | None,
        typer.Option(
            "--learning-rate",
            help="Highest rate. Left out: 5e-5 for cross-encoders, 3e-5 for embedders, 3e-4 with "
            "LoRA.",
            show_default=False,
        ),
    ],
    "head_learning_rate": Annotated[
        float | None,
        typer.Option(
            "--head-learning-rate",
            help="Left out: 1e-3 for a new head, else the same.",
            show_default=False,
        ),
    ],
    "lora_rank": Annotated[
        int,
        typer.Option(
            help="Train low-rank adapters of this rank, merged at the end. 0: all.", min=0
        ),
    ],
    "freeze_embeddings": Annotated[
        bool,
        typer.Option(
            "--freeze-embeddings/--train-embeddings",
            help="Whether the embedding tables stay: languages without training data keep theirs.",
        ),
    ],
    "compute_dtype": Annotated[
        TrainingDtype,
        typer.Option(
            help="Type of the products while training: auto is bfloat16 on GPUs that have it "
            "and on processors with AMX, float32 elsewhere."
        ),
    ],
    "dropout": Annotated[float, typer.Option(help="From 0 up to 1.")],
    "head": Annotated[
        Head,
        typer.Option(
            "--head",
            help="What a new head reads, where the checkpoint has none: auto is the checkpoint's "
            "own pooling; mean or cls; transformers makes the class for sequence classification, "
            "which transformers alone runs too.",
        ),
    ],
    "neutrals": Annotated[
        int | None,
        typer.Option(
            help="Passages of the answer's own group in a list, at most.", min=0, show_default=False
        ),
    ],
    "hard_negatives": Annotated[
        int | None,
        typer.Option(help="Given or mined negatives in a list.", min=0, show_default=False),
    ],
    "random_negatives": Annotated[
        int | None, typer.Option(help="Random negatives in a list.", min=0, show_default=False)
    ],
    "miner": Annotated[
        str,
        typer.Option(
            "--miner",
            help="Embedding checkpoint that finds hard negatives: folder, Hub id, default or none.",
        ),
    ],
    "mine_depth": Annotated[
        int, typer.Option(help="Nearest passages that hard negatives are drawn from.", min=1)
    ],
    "mine_margin": Annotated[
        float,
        typer.Option(
            help="Passages nearer to the query than this share of the answer's similarity count as "
            "false negatives and are dropped.",
            min=0.0,
            max=1.0,
        ),
    ],
    "mine_pool": Annotated[
        int, typer.Option(help="Passages of a source and language to search at most.", min=2)
    ],
    "cross_language": Annotated[
        float,
        typer.Option(
            help="Share of lists with query and passages in different languages, where the data "
            "have both.",
            min=0.0,
            max=1.0,
        ),
    ],
    "mixed_languages": Annotated[
        float,
        typer.Option(
            help="Share of lists whose negatives are in several languages, where passages have "
            "several.",
            min=0.0,
            max=1.0,
        ),
    ],
    "eval_data": Annotated[
        Path | None,
        typer.Option(
            help="BEIR folder to measure nDCG@10 on before, while and after training; the best "
            "state is kept. For classifiers also a file or folder of query, passage and label "
            "(macro-F1).",
            show_default=False,
        ),
    ],
    "eval_retriever": Annotated[
        str,
        typer.Option(
            help="What finds documents for cross-encoders: bm25, or an embedding checkpoint."
        ),
    ],
    "eval_mode": Annotated[ModeName, typer.Option(help="As `polyrank eval --mode`.")],
    "eval_languages": Annotated[
        str | None, typer.Option(help="Only these, as in en,de,th.", show_default=False)
    ],
    "eval_queries": Annotated[int, typer.Option(help="Queries of each language at most.", min=1)],
    "eval_top_k": Annotated[int, typer.Option(help="Documents a query that are scored.", min=1)],
    "evaluations": Annotated[
        int, typer.Option(help="Evaluations after the first, evenly over the run.", min=1)
    ],
    "save_minutes": Annotated[
        float,
        typer.Option(help="Minutes between checkpoints; 0 saves at evaluations alone.", min=0.0),
    ],
    "resume": Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint of the same call.")
    ],
    "cache_dir": Annotated[
        Path | None,
        typer.Option(help="Keep the miner's vectors of passages here.", show_default=False),
    ],
    "device": Annotated[
        str | None, typer.Option(help="cpu, or cuda. Left out: a GPU if any.", show_default=False)
    ],
    "seed": Annotated[int, typer.Option(help="Of draws and new heads.", min=0)],
    "threads": options.Threads,
    "revision": options.Revision,
    "as_json": options.Json,
    "quiet": options.Quiet,
}

_DEFAULTS: Mapping[str, Any] = {
    "model": None,
    "teacher": None,
    "miner": DEFAULT,
    "head": Head.AUTO,
    "eval_data": None,
    "eval_retriever": "bm25",
    "eval_mode": ModeName.AUTO,
    "eval_languages": None,
    "eval_queries": 100,
    "eval_top_k": 30,
    "resume": False,
    "cache_dir": None,
    "threads": None,
    "revision": None,
    "as_json": False,
    "quiet": False,
}

SETTINGS = frozenset(field.name for field in fields(TrainingConfig))
"""Options that are settings of the run."""

EMBEDDER_LACKS = frozenset(
    {"head_learning_rate", "head", "max_batch_tokens", "eval_retriever", "eval_top_k"}
)
CLASSIFIER_LACKS = frozenset({"teacher", "teacher_scale"})


def parameters(
    own: Mapping[str, tuple[Any, Any]], lacking: frozenset[str]
) -> list[inspect.Parameter]:
    """Return a command's parameters as typer reads them.

    Args:
        own: Type and default of the command's own options.
        lacking: Shared options that the command does not have.

    Returns:
        The parameters; those without a default first, as Python wants it.
    """
    defaults = {field.name: field.default for field in fields(TrainingConfig)} | dict(_DEFAULTS)
    shared = {
        name: (kind, defaults.get(name, MISSING))
        for name, kind in _TYPES.items()
        if name not in lacking
    }
    found = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if default is MISSING else default,
            annotation=kind,
        )
        for name, (kind, default) in {**own, **shared}.items()
    ]
    return sorted(found, key=lambda p: (p.default is not inspect.Parameter.empty, p.name in own))
