"""Batches of other engines' tables: the columns of a job added, in order, nulls for refused rows.

Spark and Dask hand over batches and keep what they get; they have no folder for refused rows.
"""

import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace

import pyarrow as pa

from polyrank.bulk.inputs import InputFile, Split, is_text
from polyrank.bulk.job import Job
from polyrank.bulk.partition import check_rows
from polyrank.bulk.rows import Rows
from polyrank.bulk.settings import BulkSettings, JobSettings
from polyrank.bulk.work import Work, load
from polyrank.errors import DataError

_loaded: dict[tuple[JobSettings, BulkSettings], Work] = {}
_lock = threading.Lock()


def loaded(settings: JobSettings, run: BulkSettings) -> Work:
    """Return the model of a job, loaded once in each process.

    Args:
        settings: The job's.
        run: How it is run.

    Returns:
        What computes.

    Raises:
        CheckpointError: If the checkpoint cannot be used.
    """
    with _lock:
        key = settings, run
        if key not in _loaded:
            _loaded[key] = load(settings, run)
        return _loaded[key]


def check_columns(schema: pa.Schema, settings: JobSettings) -> None:
    """Raise unless a table has the text columns of a job.

    Args:
        schema: Its columns.
        settings: The job's.

    Raises:
        DataError: If one is missing or holds no texts.
    """
    for name in settings.text_columns:
        if name not in schema.names:
            raise DataError(f"the frame has no column {name!r}; it has {', '.join(schema.names)}.")
        if not is_text(schema.field(name).type):
            raise DataError(f"column {name!r} holds {schema.field(name).type}, not texts.")


def with_columns(table: pa.Table, work: Work, settings: JobSettings) -> pa.Table:
    """Return a table with what is computed of its rows.

    Args:
        table: It.
        work: The loaded model.
        settings: The job's.

    Returns:
        The same rows in the same order, with more columns; null where a text is missing or too
        long.

    Raises:
        DataError: If a text column is missing.
        EncoderError: If the encoder fails.
    """
    check_columns(table.schema, settings)
    whole = InputFile("", "parquet", 0, "", len(table), max(len(table), 1))
    numbered = table.append_column(_PLACE, pa.array(range(len(table)), pa.int64()))
    job = Job("", replace(settings, columns=None), {}, (whole,), numbered.schema)
    sound = check_rows(Rows(numbered, range(len(table))), Split(0, whole, 0, len(table)), job)
    takes: list[int | None] = [None] * len(table)
    for at, place in enumerate(sound.table.column(_PLACE).to_pylist()):
        takes[place] = at
    for field, values in zip(work.fields, work.compute(sound.items), strict=True):
        table = table.append_column(field, values.take(pa.array(takes, pa.int64())))
    return table


_PLACE = "polyrank place"


def mapped(
    batches: Iterable[pa.RecordBatch], settings: JobSettings, run: BulkSettings
) -> Iterator[pa.RecordBatch]:
    """Yield batches with what is computed of their rows; the model is loaded once a process."""
    work = loaded(settings, run)
    for batch in batches:
        yield from with_columns(pa.Table.from_batches([batch]), work, settings).to_batches()
