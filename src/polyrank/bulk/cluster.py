"""A job on a Ray cluster: a pool of actors, each with its own encoder, does the partitions.

Only numbers of partitions and records of them travel through Ray: an actor reads its partition from
the input and writes it to the output itself. So nothing has to be kept in order, an actor or node
that dies costs what it was computing, and a partition that is done twice is written twice alike.
"""

import inspect
import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import ray
import ray.data
from ray.util.annotations import RayDeprecationWarning

from polyrank import errors
from polyrank._clusters import connect, last_line
from polyrank.bulk.inputs import Split
from polyrank.bulk.job import Job, PartitionRecord, finished, read_record
from polyrank.bulk.places import Place
from polyrank.bulk.run import BulkOutcome, Meter, PreparedJob, closed, do_partitions, resume
from polyrank.bulk.settings import BulkSettings
from polyrank.bulk.work import identity, load
from polyrank.errors import ConfigError, DataError, JobError, JobMismatchError, PolyrankError
from polyrank.progress import StepProgress, unheard

START_S = 600  # for the first actors: a model may have to be fetched from the Hub
RESTARTS = -1  # of an actor: nodes come and go
TASK_RETRIES = 8  # of a partition: one that kills every actor that takes it shall end the job
INIT_DEATHS = 3  # in a row: a node may die while an actor starts
MOST_TASKS = 10_000
MOST_IN_TASK = 4  # partitions, of which the next is read and the last written while one is computed


@dataclass(frozen=True, slots=True)
class ActorPool:
    """How many actors there are.

    Attributes:
        least: Started before the work begins.
        most: Grown to, where a cluster grows.
        num_cpus: Of each.
    """

    least: int
    most: int
    num_cpus: int


def parse_workers(text: str | None) -> tuple[int | None, int | None]:
    """Return the fewest and most actors that were asked for.

    Args:
        text: "MAX" or "MIN:MAX"; None leaves both open.

    Returns:
        The two; None where nothing was said.

    Raises:
        ConfigError: If they are no such numbers.
    """
    if text is None:
        return None, None
    low, separator, high = text.rpartition(":")
    try:
        least, most = int(low) if separator else None, int(high)
    except ValueError as exc:
        raise ConfigError(f"--workers must be a number, or two as in 1:8, not {text!r}") from exc
    if most < 1 or (least is not None and not 1 <= least <= most):
        raise ConfigError(f"--workers {text}: at least 1, and no minimum above the maximum")
    return least, most


def pool_size(
    node_cpus: Sequence[float],
    free_cpus: float,
    asked: tuple[int | None, int | None],
    num_cpus: int,
    num_tasks: int,
) -> ActorPool:
    """Return a pool whose first actors the cluster can start now, so that no job waits for ever.

    Args:
        node_cpus: Processors of each node.
        free_cpus: Processors that no other job holds.
        asked: As `parse_workers` gives them.
        num_cpus: Processors of an actor.
        num_tasks: More actors than that would have nothing to do.

    Returns:
        The pool.

    Raises:
        ConfigError: If no node is large enough for an actor.
    """
    fitting = sum(int(cpus // num_cpus) for cpus in node_cpus)
    if not fitting:
        largest = max(node_cpus, default=0)
        raise ConfigError(
            f"an actor asks for {num_cpus} processors (--threads), and the largest node of the "
            f"cluster has {largest:.0f}: it would never start. Ask for fewer."
        )
    most = min(asked[1] or fitting, num_tasks)
    free = max(int(free_cpus // num_cpus), 1)
    return ActorPool(max(min(asked[0] or most, most, fitting, free), 1), max(most, 1), num_cpus)


def run_on_cluster(
    prepared: PreparedJob, address: str, workers: str | None = None, report: StepProgress = unheard
) -> BulkOutcome:
    """Do a job on a Ray cluster, from where an earlier run of it stopped.

    Args:
        prepared: The job, with a model of the driver's own.
        address: "auto" or HOST:PORT of a cluster; "local" starts one on this machine.
        workers: "MAX" or "MIN:MAX" actors; None takes as many as fit.
        report: Called with bytes of input done and in all.

    Returns:
        What became of its partitions.

    Raises:
        ConfigError: If the actors would not fit on the cluster.
        ClusterError: If the cluster cannot be reached.
        JobError: If it fails.
        JobMismatchError: If the folder holds another job, or a node another model.
        StorageError: If a file system fails.
    """
    asked = parse_workers(workers)
    with prepared.output.held():
        todo, there = resume(prepared)
        outcome = BulkOutcome(dict(there), len(there))
        if todo:
            is_ours = connect(address)
            try:
                meter = Meter(prepared.job, todo, report)
                _collect(prepared, todo, asked, outcome, meter)
            finally:
                if is_ours:
                    ray.shutdown()
        _check_seen(prepared, outcome)
        return closed(prepared, outcome)


def _collect(
    prepared: PreparedJob,
    todo: Sequence[Split],
    asked: tuple[int | None, int | None],
    outcome: BulkOutcome,
    meter: Meter,
) -> None:
    """Let the actors do partitions, and take what they tell."""
    num_cpus = prepared.run.num_threads or 1
    nodes = [node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]]
    free = ray.available_resources().get("CPU", 0.0)
    pool = pool_size(nodes, free, asked, num_cpus, len(todo))
    try:
        for row in _told(prepared, todo, pool):
            index = int(row["index"])
            if row["kind"]:
                _take_failure(outcome, index, row["kind"], row["text"])
            else:
                record = PartitionRecord(**json.loads(row["text"]))
                outcome.records[index] = record
                meter.add(record)
    except ray.exceptions.GetTimeoutError as exc:
        raise JobError(
            f"{pool.least} actors of {num_cpus} processors did not start within {START_S} s; "
            f"{free:.0f} processors were free. Ask for fewer with --workers, or wait until other "
            "jobs are done."
        ) from exc
    except (ray.exceptions.RayError, ray.data.exceptions.SystemException) as exc:
        raise JobError(
            f"the Ray cluster failed: {last_line(exc)}. What is written stays; run the same "
            "command again."
        ) from exc


def _told(
    prepared: PreparedJob, todo: Sequence[Split], pool: ActorPool
) -> Iterator[Mapping[str, Any]]:
    """Yield what actors tell of each partition."""
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.wait_for_min_actors_s = START_S
    context.max_consecutive_actor_init_deaths = INIT_DEATHS
    in_task = min(max(len(todo) // (8 * pool.most), len(todo) // MOST_TASKS, 1), MOST_IN_TASK)
    numbers = ray.data.from_items(
        [{"index": split.index} for split in todo],
        override_num_blocks=-(-len(todo) // in_task),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RayDeprecationWarning)
        told = _mapped(numbers, prepared, pool, in_task)
    yield from told.iter_rows()


def _mapped(
    numbers: ray.data.Dataset, prepared: PreparedJob, pool: ActorPool, in_task: int
) -> ray.data.Dataset:
    return numbers.map_batches(
        PartitionWorker,
        batch_size=in_task,
        compute=ray.data.ActorPoolStrategy(
            min_size=pool.least, max_size=pool.most, initial_size=pool.least
        ),
        num_cpus=pool.num_cpus,
        fn_constructor_args=(
            json.dumps(prepared.job.as_json()),
            prepared.output.url,
            json.dumps(asdict(replace(prepared.run, num_threads=pool.num_cpus))),
        ),
        **_limits_of_retries(numbers),
    )


def _limits_of_retries(numbers: ray.data.Dataset) -> dict[str, int]:
    """Return how often actors and partitions are tried again, where Ray can still be told.

    From 2.64 on it takes no such limits and tries for ever, which is its default before.
    """
    kinds = [each.kind for each in inspect.signature(numbers.map_batches).parameters.values()]
    if inspect.Parameter.VAR_KEYWORD not in kinds:
        return {}
    return {"max_restarts": RESTARTS, "max_task_retries": TASK_RETRIES}


def _take_failure(outcome: BulkOutcome, index: int, kind: str, text: str) -> None:
    cls = getattr(errors, kind)
    if not issubclass(cls, DataError):
        raise cls(text)
    outcome.failures[index] = text


def _check_seen(prepared: PreparedJob, outcome: BulkOutcome) -> None:
    """Raise where nodes wrote to disks of their own."""
    seen = finished(prepared.output, prepared.job, is_verifying=False)
    unseen = outcome.records.keys() - seen.keys()
    if unseen:
        raise JobError(
            f"{len(unseen):,} partitions were written, but {prepared.output.url} on this machine "
            "lacks them. Name a folder that all nodes share, or an object store."
        )


class PartitionWorker:
    """What an actor of the pool is: a model that is loaded once, and partitions that come."""

    def __init__(self, job: str, output: str, run: str) -> None:
        """Load the model.

        Args:
            job: As `Job.as_json` gives it.
            output: URL of the folder.
            run: How it is run.
        """
        self._failure: PolyrankError | None = None
        try:
            self._prepared = _prepared(job, output, run)
        except PolyrankError as exc:  # told with the first partition: an actor's end says less
            self._failure = exc
            return
        self._splits = {split.index: split for split in self._prepared.job.splits}

    def __call__(self, batch: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        """Do partitions.

        Args:
            batch: Their numbers.

        Yields:
            For each its record, or the class and text of an error.
        """
        numbers = [int(index) for index in batch["index"]]
        if self._failure is not None:
            yield _row(numbers[0], self._failure)
            return
        todo = []
        for index in numbers:
            # an actor that died may have written it
            there = read_record(self._prepared.output, index)
            if there is not None:
                yield _row(index, there)
            else:
                todo.append(self._splits[index])
        try:
            for index, found in do_partitions(self._prepared, todo):
                yield _row(index, found)
        except PolyrankError as exc:
            yield _row(todo[0].index, exc)


def _row(index: int, found: PartitionRecord | PolyrankError) -> Mapping[str, Any]:
    is_record = isinstance(found, PartitionRecord)
    text = json.dumps(asdict(found)) if isinstance(found, PartitionRecord) else str(found)
    return {"index": [index], "kind": ["" if is_record else type(found).__name__], "text": [text]}


def _prepared(job: str, output: str, run: str) -> PreparedJob:
    known, settings = Job.from_json(json.loads(job)), BulkSettings(**json.loads(run))
    work = load(known.settings, settings)
    own = identity(work)
    changed = [name for name in own if own[name] != known.identity.get(name)]
    if changed:
        raise JobMismatchError(
            f"a node has another model than the job: its {changed[0]} differs. Install the same "
            "polyrank and checkpoint on all nodes."
        )
    source = Place(known.source, patience_s=settings.patience_s)
    target = Place(output, patience_s=settings.patience_s)
    return PreparedJob(known, source, target, work, settings)
