"""From the options of `polyrank bulk` to a job that runs, and what is said of it."""

from typing import Any

import typer

from polyrank._extras import require
from polyrank.cli import screen
from polyrank.cli.bulk.shared import Shared
from polyrank.cli.progress import steps
from polyrank.errors import ConfigError, JobError
from polyrank.types import TaskName

ESTIMATED_FROM_ROWS = 20_000  # about so many are done before an estimate of them would be made
MOST_FAILURES_SAID = 3


def job_settings(task: TaskName, shared: Shared, **own: Any) -> Any:
    """Return what decides a job's output.

    Args:
        task: What is to be done.
        shared: The options.
        **own: Fields of `JobSettings` that the task alone has.

    Returns:
        The settings.

    Raises:
        MissingExtraError: If a library that the job needs is not installed.
        ConfigError: If a setting does not fit.
    """
    if shared.ray is not None:
        require("ray", purpose="--ray")
    elif shared.workers is not None:
        raise ConfigError("--workers counts actors on a Ray cluster: give --ray, too.")
    from polyrank.bulk.settings import JobSettings

    columns = None
    if shared.columns is not None:
        columns = tuple(name for name in shared.columns.split(",") if name)
    return JobSettings(
        task,
        shared.model,
        shared.revision,
        shared.text_field,
        columns=columns,
        max_length=shared.max_length,
        encoder=shared.encoder,
        compute_dtype=shared.compute_dtype,
        partition_rows=shared.partition_rows,
        max_text_bytes=shared.max_text_bytes,
        **own,
    )


def do(source: str, settings: Any, shared: Shared) -> None:
    """Run a job, or say what it will take.

    Args:
        source: The input.
        settings: What `job_settings` gave.
        shared: The options.

    Raises:
        JobError: If partitions are missing at the end, or the job cannot go on.
    """
    from polyrank.bulk.run import prepare
    from polyrank.bulk.settings import BulkSettings

    run = BulkSettings(
        shared.threads,
        shared.max_batch_tokens,
        shared.device,
        shared.patience_s,
        shared.verify,
    )
    with screen.loading(shared.model, quiet=shared.quiet):
        prepared = prepare(source, shared.output, settings, run)
    if shared.only_estimate:
        from polyrank.bulk.estimate import estimate

        workers = 1 if shared.workers is None else int(shared.workers.rpartition(":")[2])
        told = estimate(
            prepared,
            prepared.job.splits,
            workers=workers,
            price_per_hour=shared.price_per_hour,
        )
        typer.echo(told.text())
        return
    _tell_estimate(prepared, shared)
    with steps(quiet=shared.quiet) as report:
        outcome = _run(prepared, shared, report)
    _tell(outcome, prepared, shared)


def _run(prepared: Any, shared: Shared, report: Any) -> Any:
    from polyrank.progress import unheard

    if shared.ray is not None:
        from polyrank.bulk.cluster import run_on_cluster

        return run_on_cluster(prepared, shared.ray, shared.workers, report or unheard)
    from polyrank.bulk.run import run_job

    return run_job(prepared, report or unheard)


def _tell_estimate(prepared: Any, shared: Shared) -> None:
    """Say before a long job what it will take."""
    from polyrank.bulk.estimate import estimate

    if shared.quiet or len(prepared.job.splits) * shared.partition_rows < ESTIMATED_FROM_ROWS:
        return
    told = estimate(prepared, prepared.job.splits, price_per_hour=shared.price_per_hour)
    screen.remark(told.text(), quiet=False)


def _tell(outcome: Any, prepared: Any, shared: Shared) -> None:
    whole = len(prepared.job.splits)
    if outcome.num_found:
        screen.remark(
            f"{outcome.num_found:,} of {whole:,} partitions were there already.",
            quiet=shared.quiet,
        )
    if outcome.failures:
        some = list(outcome.failures.items())[:MOST_FAILURES_SAID]
        said = "; ".join(f"partition {index}: {reason}" for index, reason in some)
        raise JobError(
            f"{len(outcome.failures):,} of {whole:,} partitions could not be read: {said}. The "
            "others are written; mend the input, and run the same command again."
        )
    summary = outcome.summary
    screen.remark(
        f"{summary['rows']:,} rows written to {prepared.output.url} in {whole:,} partitions",
        quiet=shared.quiet,
    )
    if summary["poison"]:
        screen.remark(
            f"{summary['poison']:,} rows were refused; the reasons are in "
            f"{prepared.output.url}/_poison",
            quiet=shared.quiet,
        )
    if summary["truncated"]:
        screen.remark(
            f"{summary['truncated']:,} of {summary['rows']:,} were longer than the model reads; "
            "the rest of them was not read.",
            quiet=shared.quiet,
        )
