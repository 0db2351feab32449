"""What the commands share that fine-tune: options, the run, what is shown of it."""

import inspect
import json
import sys
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table

from polyrank.cli import screen
from polyrank.cli.evaluate import ModeName
from polyrank.cli.outputs import check_folder
from polyrank.cli.progress import steps
from polyrank.cli.train.options import DEFAULT, NONE, SETTINGS, parameters

if TYPE_CHECKING:
    from polyrank.training.config import TrainTask
    from polyrank.training.finetune.monitor import MonitorConfig
    from polyrank.training.finetune.run import Job, Outcome

INTERRUPTED = 130


def finetuning(
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
