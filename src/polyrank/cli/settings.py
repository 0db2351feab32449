"""`polyrank settings`: a configuration file of everything that a command can be told."""

import sys
from collections.abc import Mapping
from typing import Annotated

import typer

from polyrank.cli.compress.quantize import KNOWN as QUANTIZE
from polyrank.cli.compress.trim import KNOWN as TRIM
from polyrank.cli.config_file import commented
from polyrank.cli.fields import Setting
from polyrank.cli.train.first_stage_weight import KNOWN as FIRST_STAGE_WEIGHT
from polyrank.cli.train.late_interaction import KNOWN as LATE_INTERACTION
from polyrank.cli.train.options import finetuning_settings
from polyrank.cli.train.pruning import KNOWN as PRUNING
from polyrank.errors import ConfigError
from polyrank.training.config import TrainingConfig, TrainTask

FINETUNING: Mapping[str, TrainTask] = {
    "train reranker": "reranker",
    "train classifier": "classifier",
    "train embedder": "embedder",
}
OTHERS: Mapping[str, Mapping[str, Setting]] = {
    "train late-interaction": LATE_INTERACTION,
    "train first-stage-weight": FIRST_STAGE_WEIGHT,
    "train pruning": PRUNING,
    "compress quantize": QUANTIZE,
    "compress trim": TRIM,
}


def settings(
    command: Annotated[
        list[str], typer.Argument(metavar="COMMAND", help="Such as: train reranker.")
    ],
) -> None:
    """Print every setting of a command with its default, as a file for --config.

    For example:

        polyrank settings train reranker > run.toml
        polyrank train reranker --config run.toml
    """
    name = " ".join(command)
    if name in FINETUNING:
        task = FINETUNING[name]
        stand_ins = TrainingConfig(task).settled
        sys.stdout.write(commented(finetuning_settings(task).values(), name, stand_ins))
    elif name in OTHERS:
        sys.stdout.write(commented(OTHERS[name].values(), name))
    else:
        raise ConfigError(
            f"{name!r} takes no settings. Those that do: {', '.join([*FINETUNING, *OTHERS])}."
        )
