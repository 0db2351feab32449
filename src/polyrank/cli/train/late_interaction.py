"""`polyrank train late-interaction`: small heads that compare the tokens of two texts."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from polyrank.cli import options, screen
from polyrank.cli.outputs import check_folder
from polyrank.cli.progress import steps


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
    query's token, and small layers on a few features. Minutes, not hours. With --compute-dtype int8
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
