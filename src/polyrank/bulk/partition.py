"""One partition: its rows are read, checked, computed and written. The same on every machine."""

import io
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from polyrank.bulk.inputs import InputFile, Split, open_slices, reading
from polyrank.bulk.job import (
    Job,
    PartitionRecord,
    content_hash,
    part_name,
    poison_name,
    record_name,
)
from polyrank.bulk.places import Place
from polyrank.bulk.rows import PoisonRow, Rows, shown
from polyrank.bulk.settings import JobSettings
from polyrank.bulk.work import Item, Work
from polyrank.errors import InputError
from polyrank.progress import Progress
from polyrank.text.inputs import check_text

if TYPE_CHECKING:
    from polyrank.bulk.formats import Slices

ROW_GROUP_ROWS = 4096


@dataclass(frozen=True, slots=True)
class Sound:
    """The rows of a slice that can be computed.

    Attributes:
        split: The slice.
        table: The rows, with the columns that pass through.
        items: Their texts, or pairs of query and text.
        poison: The other rows.
    """

    split: Split
    table: pa.Table
    items: Sequence[Item]
    poison: Sequence[PoisonRow]


class Reader:
    """Reads slices of a job's input; in a row, each file once."""

    def __init__(self, source: Place, job: Job) -> None:
        self._source, self._job = source, job
        self._names = list(job.columns.names)
        self._open: tuple[InputFile, Slices] | None = None

    def read(self, split: Split) -> Sound:
        """Return the rows of a slice.

        Args:
            split: The slice.

        Returns:
            Sound rows and refused ones.

        Raises:
            DataError: If the file cannot be read.
            StorageError: If its file system does not answer.
        """
        rows = reading(self._source, split.file.path, lambda: self._attempt(split))
        return check_rows(rows, split, self._job)

    def _attempt(self, split: Split) -> Rows:
        try:
            if self._open is None or self._open[0] != split.file:
                self.close()
                names = self._names if self._job.is_selective else None
                slices = open_slices(self._source, split.file, self._job.columns, names)
                self._open = split.file, slices
            return self._open[1].read(split.start, split.stop)
        except BaseException:
            self._open = None  # where it stands in its file is not known any more
            raise

    def close(self) -> None:
        """Close the file that is open."""
        if self._open is not None:
            self._open[1].close()
        self._open = None


def check_rows(rows: Rows, split: Split, job: Job) -> Sound:
    """Return which rows of a slice can be computed.

    Args:
        rows: What was read.
        split: The slice.
        job: The job.

    Returns:
        Sound rows and refused ones.
    """
    table = _conformed(rows.table, job.columns)
    settings = job.settings
    names, limit = settings.text_columns, settings.max_text_bytes
    columns = [_texts(table, name) for name in names]
    unit = "byte" if split.file.kind == "lines" else "row"
    kept: list[int] = []
    poison = list(rows.poison)
    for i, (place, *texts) in enumerate(zip(rows.places, *columns, strict=True)):
        given = dict(zip(names, texts, strict=True))
        reason = next((r for name in names if (r := _reason(name, given[name], limit))), None)
        if reason is None:
            kept.append(i)
        else:
            content = {name: shown(text) for name, text in given.items()}
            poison.append(PoisonRow(split.file.path, place, unit, reason, shown(content)))
    if len(kept) < len(table):
        table = table.take(pa.array(kept, pa.int64()))
        columns = [[texts[i] for i in kept] for texts in columns]
    poison.sort(key=lambda row: row.place)
    return Sound(split, table.select(job.passed_on), _items(columns, settings), poison)


def _reason(name: str, text: object, limit: int) -> str | None:
    """Return what is wrong with a text; None where nothing is."""
    if text is None:
        return f"{name} is missing"
    try:
        size = len(check_text(text, name).encode())
    except InputError as exc:
        return str(exc)
    if size > limit:
        return f"{name} has {size:,} bytes, and {limit:,} are taken (--max-text-bytes)"
    return None


def _texts(table: pa.Table, name: str) -> list[object]:
    column = table.column(name)
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:  # bytes that claim to be UTF-8
        return [_decoded(value) for value in column]


def _decoded(value: pa.Scalar) -> object:
    try:
        return value.as_py()
    except UnicodeDecodeError as exc:
        return exc.object


def _items(columns: Sequence[Sequence[object]], settings: JobSettings) -> list[Item]:
    texts = [str(text) for text in columns[0]]
    if settings.query is not None:
        return [(settings.query, text) for text in texts]
    if settings.query_field is not None:
        return [(str(query), text) for query, text in zip(columns[1], texts, strict=True)]
    return list(texts)


def _conformed(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return a table with the columns of the job: others dropped, absent ones empty."""
    if table.schema.equals(schema):
        return table
    columns = [
        table.column(each.name).cast(each.type)
        if each.name in table.schema.names
        else pa.nulls(len(table), each.type)
        for each in schema
    ]
    return pa.table(columns, schema=schema)


@dataclass(frozen=True, slots=True)
class Computed:
    """A partition that is ready to be written.

    Attributes:
        sound: Its rows.
        columns: What was computed of them.
        truncated: Rows longer than the model reads.
        tokens: Tokens run.
        seconds: How long that took.
    """

    sound: Sound
    columns: Sequence[pa.Array]
    truncated: int
    tokens: int
    seconds: float


def compute(work: Work, sound: Sound, progress: Progress | None = None) -> Computed:
    """Compute a partition.

    Args:
        work: The loaded model.
        sound: Rows that were checked.
        progress: Called with tokens done and tokens in all.

    Returns:
        What is to be written.

    Raises:
        EncoderError: If the encoder fails.
    """
    begun, front = time.perf_counter(), work.front
    tokens, truncated = front.usage.num_tokens, front.num_truncated
    columns = work.compute(sound.items, progress)
    return Computed(
        sound,
        columns,
        front.num_truncated - truncated,
        front.usage.num_tokens - tokens,
        time.perf_counter() - begun,
    )


def write(output: Place, work: Work, computed: Computed) -> PartitionRecord:
    """Write a partition: refused rows, then the table, then the record that it is there.

    Args:
        output: The folder.
        work: The loaded model.
        computed: The partition.

    Returns:
        The record.

    Raises:
        StorageError: If the folder cannot be written.
    """
    sound, index = computed.sound, computed.sound.split.index
    table = sound.table
    for column, values in zip(work.fields, computed.columns, strict=True):
        table = table.append_column(column, values)
    buffer = io.BytesIO()
    pq.write_table(
        table,
        buffer,
        row_group_size=ROW_GROUP_ROWS,
        compression="zstd",
        use_dictionary=sound.table.column_names,
    )
    content = buffer.getvalue()
    if sound.poison:
        lines = "".join(f"{row.line()}\n" for row in sound.poison)
        output.write(poison_name(index), lines.encode())
    else:
        output.remove(poison_name(index))
    output.write(part_name(index), content)
    record = PartitionRecord(
        index,
        len(table),
        len(sound.poison),
        computed.truncated,
        computed.tokens,
        round(computed.seconds, 4),
        len(content),
        content_hash(content),
    )
    output.write(record_name(index), json.dumps(asdict(record)).encode())
    return record
