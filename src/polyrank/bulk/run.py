"""A job on one machine: the next partition is read and the last one written while one is computed.

At most three partitions are in memory. `prepare` and `resume` belong to jobs on clusters as well.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, cast

from polyrank.bulk.inputs import Split, measure
from polyrank.bulk.job import DONE, Job, PartitionRecord, begin, end, finished, record_name
from polyrank.bulk.partition import Computed, Reader, Sound, compute, write
from polyrank.bulk.places import Place
from polyrank.bulk.settings import BulkSettings, JobSettings
from polyrank.bulk.work import Work, identity, load, running
from polyrank.errors import ConfigError, DataError
from polyrank.progress import StepProgress, unheard

DOING: Mapping[str, str] = {"embed": "embedding", "rerank": "scoring", "classify": "classifying"}


@dataclass(frozen=True, slots=True)
class PreparedJob:
    """A job that is about to run.

    Attributes:
        job: The job.
        source: Its input.
        output: Its folder.
        work: The model, loaded on this machine.
        run: How it is run.
    """

    job: Job
    source: Place
    output: Place
    work: Work
    run: BulkSettings


@dataclass(slots=True)
class BulkOutcome:
    """What became of a job's partitions.

    Attributes:
        records: Of those that are written.
        num_found: Those of them that were written before.
        failures: What was wrong, by partition.
        summary: Of the whole; empty where a partition is missing.
    """

    records: dict[int, PartitionRecord]
    num_found: int
    failures: dict[int, str] = field(default_factory=dict)
    summary: Mapping[str, object] = field(default_factory=dict)


def prepare(source: str, output: str, settings: JobSettings, run: BulkSettings) -> PreparedJob:
    """Look at a job's input and load its model; nothing is written.

    Args:
        source: Path or URL of the input.
        output: Path or URL of the folder for the output.
        settings: What is to be computed.
        run: How it is to be run.

    Returns:
        The job.

    Raises:
        ConfigError: If places or columns contradict each other.
        DataError: If the input cannot be read.
        CheckpointError: If the model cannot be used.
        StorageError: If a file system does not answer.
    """
    source_place = Place(source, patience_s=run.patience_s)
    output_place = Place(output, patience_s=run.patience_s)
    _check_apart(source_place, output_place)
    chosen = settings.columns
    wanted = None if chosen is None else {*chosen, *settings.text_columns}
    files, columns = measure(source_place, settings.text_columns, settings.partition_rows, wanted)
    absent = [name for name in chosen or () if name not in columns.names]
    if absent:
        raise ConfigError(
            f"--columns: {source} has no column {absent[0]!r}; of those asked for it has "
            f"{', '.join(columns.names)}."
        )
    work = load(settings, run)
    # other machines would choose by what they have
    settings = replace(settings, **cast(Any, running(work)))
    job = Job(source, settings, identity(work), tuple(files), columns, wanted is not None)
    taken = [each.name for each in work.fields if each.name in job.passed_on]
    if taken:
        rest = ",".join(name for name in job.passed_on if name not in taken)
        raise ConfigError(
            f"{source} has a column {taken[0]!r} already, and the output would have two. Leave it "
            f"out: --columns {rest!r}"
        )
    return PreparedJob(job, source_place, output_place, work, run)


def _check_apart(source: Place, output: Place) -> None:
    if type(source.fs) is not type(output.fs):
        return
    own, other = f"{source.path}/", f"{output.path}/"
    if own.startswith(other) or other.startswith(own):
        raise ConfigError(
            f"--output {output.url} and the input {source.url} lie in each other: the next run "
            "would take the output for input. Choose a folder beside it."
        )


def resume(prepared: PreparedJob) -> tuple[list[Split], dict[int, PartitionRecord]]:
    """Begin a job, or see what an earlier run of it has written.

    Args:
        prepared: The job.

    Returns:
        Partitions that are still to do, and records of the others.

    Raises:
        JobMismatchError: If the folder holds another job.
        StorageError: If it cannot be read or written.
    """
    begin(prepared.output, prepared.job)
    there = finished(prepared.output, prepared.job, is_verifying=prepared.run.is_verifying)
    todo = [split for split in prepared.job.splits if split.index not in there]
    # a worker takes a partition with a record for one that is done
    known = prepared.output.names(DONE)
    for split in todo:
        name = record_name(split.index)
        if name.removeprefix(f"{DONE}/") in known:
            prepared.output.remove(name)
    return todo, there


def run_job(prepared: PreparedJob, report: StepProgress = unheard) -> BulkOutcome:
    """Do a job on this machine, from where an earlier run of it stopped.

    Args:
        prepared: The job.
        report: Called with bytes of input done and in all.

    Returns:
        What became of its partitions. One whose input cannot be read does not stop the others.

    Raises:
        JobMismatchError: If the folder holds another job.
        StorageError: If a file system fails.
        EncoderError: If the encoder fails.
    """
    with prepared.output.held():
        todo, there = resume(prepared)
        outcome = BulkOutcome(dict(there), len(there))
        meter = Meter(prepared.job, todo, report)
        for index, found in do_partitions(prepared, todo, meter):
            if isinstance(found, PartitionRecord):
                outcome.records[index] = found
                meter.add(found)
            else:
                outcome.failures[index] = str(found)
        return closed(prepared, outcome)


def closed(prepared: PreparedJob, outcome: BulkOutcome) -> BulkOutcome:
    """Write the summary of a job of which no partition is missing."""
    if len(outcome.records) == len(prepared.job.splits):
        outcome.summary = end(prepared.output, prepared.job, outcome.records)
    return outcome


class Meter:
    """Tells how far a job is, how fast, and how long it will take."""

    def __init__(self, job: Job, todo: Sequence[Split], report: StepProgress) -> None:
        """Begin to count.

        Args:
            job: The job.
            todo: Its partitions that are still to do.
            report: Who is told.
        """
        self._step = f"{DOING[job.settings.task]} (bytes of input)"
        self._sizes = {split.index: split.size_bytes for split in todo}
        self._total = sum(self._sizes.values())
        self._done, self._rows, self._tokens = 0.0, 0, 0
        self._begun, self._report = time.perf_counter(), report

    def add(self, record: PartitionRecord) -> None:
        """Count a partition that is written."""
        self._done += self._sizes[record.index]
        self._rows, self._tokens = self._rows + record.rows, self._tokens + record.tokens
        self._tell(0.0)

    def within(self, index: int) -> Callable[[int, int], None]:
        """Return what takes the progress inside a partition, in tokens."""
        size = self._sizes[index]
        return lambda done, total: self._tell(size * done / max(total, 1))

    def _tell(self, more: float) -> None:
        speed = self._tokens / max(time.perf_counter() - self._begun, 1e-6)
        note = f"{self._rows:,} rows, {speed:,.0f} tokens/s" if self._tokens else ""
        at = min(self._done + more, self._total)
        self._report(self._step, round(at), round(self._total), note)


def do_partitions(
    prepared: PreparedJob, todo: Sequence[Split], meter: Meter | None = None
) -> Iterator[tuple[int, PartitionRecord | DataError]]:
    """Read, compute and write partitions, the three at the same time.

    Args:
        prepared: The job.
        todo: The partitions.
        meter: Told of progress inside a partition.

    Yields:
        The number of each partition, with its record, or with what was wrong with its input.

    Raises:
        StorageError: If a file system fails.
        EncoderError: If the encoder fails.
    """
    reader = Reader(prepared.source, prepared.job)
    with ThreadPoolExecutor(1) as reading, ThreadPoolExecutor(1) as writing:
        ahead: Future[Sound] | None = None
        behind: Future[PartitionRecord] | None = None
        for at, split in enumerate(todo):
            now = ahead or reading.submit(reader.read, split)
            try:
                sound = now.result()
            except DataError as exc:
                ahead = None
                yield split.index, exc
                continue
            following = todo[at + 1 : at + 2]
            ahead = reading.submit(reader.read, following[0]) if following else None
            progress = None if meter is None else meter.within(split.index)
            computed = compute(prepared.work, sound, progress)
            if behind is not None:
                record = behind.result()
                yield record.index, record
            behind = writing.submit(_write, prepared, computed)
        if behind is not None:
            record = behind.result()
            yield record.index, record
    reader.close()


def _write(prepared: PreparedJob, computed: Computed) -> PartitionRecord:
    return write(prepared.output, prepared.work, computed)
