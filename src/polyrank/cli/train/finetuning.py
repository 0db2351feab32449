"""What the commands share that fine-tune: the run, and what is shown of it."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table

from polyrank.cli import screen
from polyrank.cli.config_file import read_settings, split
from polyrank.cli.outputs import check_folder
from polyrank.cli.progress import steps
from polyrank.cli.train.options import DEFAULT, NONE, TrainRunSettings, finetuning_settings
from polyrank.errors import ConfigError
from polyrank.training.config import DataSource, TrainingConfig, TrainTask

if TYPE_CHECKING:
    from polyrank.training.finetune.monitor import MonitorConfig
    from polyrank.training.finetune.run import TrainingJob, TrainingOutcome

INTERRUPTED = 130


def finetune(
    task: TrainTask,
    options: Mapping[str, Any],
    *,
    resume: bool,
) -> None:
    """Fine-tune as options and files say, and tell how it went.

    Args:
        task: What is trained.
        options: What was typed, by name.
        resume: Whether to go on from the last checkpoint.

    Raises:
        Exit: If the run was stopped.
    """
    from polyrank.training.finetune.run import train

    quiet = options["quiet"]
    job = _job(task, options, resume=resume)
    with steps(quiet=quiet) as progress:
        outcome = train(job, progress=progress)
    _show(outcome, quiet=quiet)
    if not outcome.is_complete:
        sys.stderr.write(
            f"stopped after {outcome.record['num_steps']:,} steps; what was learnt is in "
            f"{outcome.folder}. The same call with --resume goes on.\n"
        )
        raise typer.Exit(INTERRUPTED)


def _job(task: TrainTask, options: Mapping[str, Any], *, resume: bool) -> "TrainingJob":
    from polyrank.training.finetune.run import TrainingJob

    values = read_settings(finetuning_settings(task), options, f"train {task}")
    (run,) = split(values, TrainRunSettings)
    (config,) = split({"task": task, **values}, TrainingConfig)
    return TrainingJob(
        model=run.model,
        data=sources(run.data),
        output=named_output(run.output).absolute(),
        config=config,
        monitor=_monitor(run),
        retriever=run.eval_retriever,
        use_miner=run.miner != NONE,
        miner=None if run.miner in (NONE, DEFAULT) else run.miner,
        teacher=run.teacher,
        cache_dir=run.cache_dir,
        resume=resume,
        revision=run.revision,
        num_threads=run.threads,
    )


def sources(data: tuple[str, ...]) -> tuple[DataSource, ...]:
    """Return training data as they were named.

    Args:
        data: What was typed.

    Returns:
        The sources.

    Raises:
        ConfigError: If there are none, or a weight is not above 0.
    """
    if not data:
        raise ConfigError("nothing to train on: name files or folders with --data.")
    return tuple(DataSource.parse(text) for text in data)


def named_output(output: Path | None) -> Path:
    """Return the folder to make.

    Args:
        output: What was named.

    Returns:
        The folder.

    Raises:
        ConfigError: If none was named, or a name is no folder's.
    """
    if output is None:
        raise ConfigError("name the folder to make with --output.")
    check_folder(output)
    return output


def _monitor(run: TrainRunSettings) -> "MonitorConfig | None":
    if run.eval_data is None:
        return None
    from polyrank.training.finetune.monitor import MonitorConfig

    return MonitorConfig(
        run.eval_data,
        mode=None if run.eval_mode == "auto" else run.eval_mode,
        languages=run.eval_languages or None,
        max_queries=run.eval_queries,
        top_k=run.eval_top_k,
    )


def _show(outcome: "TrainingOutcome", *, quiet: bool) -> None:
    if screen.is_table_wanted(False, None):
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
