"""`polyrank train late-interaction`: small heads that compare the tokens of two texts."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from polyrank.cli import screen
from polyrank.cli.config_file import read_settings, settings_options, split
from polyrank.cli.fields import settings_of, takes
from polyrank.cli.progress import steps
from polyrank.cli.train.finetuning import named_output, sources
from polyrank.cli.train.options import DATA, MODEL, OUTPUT
from polyrank.training.late_interaction.settings import LateInteractionConfig, LateInteractionJob

COMMAND = "train late-interaction"
FLAGS = ("model", "data", "output", "epochs", "compute_dtype", "seed")


@dataclass(frozen=True, slots=True)
class LateInteractionRun:
    """What a run is told beside its `LateInteractionConfig`.

    Attributes:
        model: Folder or Hub id of an embedding checkpoint with float weights. Left out: the base
            model (`make model`).
        data: Training data, PATH or PATH:WEIGHT; may be given several times. WEIGHT is the share
            of the lists.
        output: Folder to make.
        miner: Embedding checkpoint that finds hard negatives. Left out: the default model.
        cache_dir: Folder to keep the miner's vectors of passages in.
        threads: Threads. Left out: all that this process may use.
    """

    model: str | None = field(default=None, metadata=MODEL)
    data: tuple[str, ...] = field(default=(), metadata=DATA)
    output: Path | None = field(default=None, metadata=OUTPUT)
    miner: str | None = None
    cache_dir: Path | None = None
    threads: int | None = None


KNOWN = settings_of(LateInteractionRun, LateInteractionConfig)


@takes(*settings_options(KNOWN, FLAGS, COMMAND))
def late_interaction(**options: Any) -> None:
    """Teach an embedder to rerank and to classify by comparing the tokens of two texts.

    Each text is read on its own, as for its vector; the score of a pair is how well each token of
    the query is matched in the document (late interaction). The body stays as it is, and so do
    its vectors: what is learnt are the directions in which languages differ, the weight of a
    query's token, and small layers on a few features. Minutes, not hours. With --compute-dtype int8
    the body reads texts as the quantised model will.

    For example:

        polyrank train late-interaction intfloat/multilingual-e5-small -d qa -d docs:2 -o three
    """
    from polyrank.training.late_interaction.train import train_late_interaction

    job, quiet = _job(options), options["quiet"]
    with steps(quiet=quiet) as progress:
        record = train_late_interaction(job, progress=progress)
    last = record["evaluations"][-1]
    if screen.is_table_wanted(False, None):
        figures = ", ".join(f"{key} {value}" for key, value in last.items() if key != "epoch")
        console = Console(highlight=False)
        console.print(f"{record['num_pairs']:,} pairs; losses on held-out lists: {figures}")
    else:
        facts = {"folder": str(job.output), "num_pairs": record["num_pairs"], **last}
        sys.stdout.write(json.dumps(facts) + "\n")
    screen.remark(f"wrote {job.output}; training.json there tells how it went", quiet=quiet)


def _job(options: Mapping[str, Any]) -> LateInteractionJob:
    values = read_settings(KNOWN, options, COMMAND)
    (run,), (config,) = split(values, LateInteractionRun), split(values, LateInteractionConfig)
    return LateInteractionJob(
        run.model,
        sources(run.data),
        named_output(run.output).absolute(),
        config,
        run.miner,
        run.cache_dir,
        run.threads,
    )
