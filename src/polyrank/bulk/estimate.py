"""What a job will take, by a few of its rows: time, money and storage."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from polyrank.bulk.inputs import Split
from polyrank.bulk.partition import Reader, Sound
from polyrank.bulk.run import PreparedJob

SAMPLED_SPLITS, SAMPLED_ROWS = 4, 256
WARM_UP_ROWS = 8


@dataclass(frozen=True, slots=True)
class JobEstimate:
    """What a job will take.

    Attributes:
        rows: Rows of the input, about.
        tokens: Tokens to run, about.
        tokens_per_s: Speed of one worker on this machine.
        seconds: Time on so many workers.
        workers: Workers.
        price: Money, in the unit of the price an hour; None where no price was given.
        output_bytes: Size of the output before compression, about.
        partitions: Partitions to do.
        sampled_rows: Rows that this goes by.
    """

    rows: int
    tokens: int
    tokens_per_s: float
    seconds: float
    workers: int
    price: float | None
    output_bytes: int
    partitions: int
    sampled_rows: int

    def text(self) -> str:
        """Return it as lines for people."""
        hours = self.seconds / 3600
        took = f"{hours:,.1f} h" if hours >= 1 else f"{self.seconds:,.0f} s"
        workers = "1 worker" if self.workers == 1 else f"{self.workers} workers"
        money = "" if self.price is None else f", {self.price:,.2f} in money"
        return (
            f"about {self.rows:,} rows in {self.partitions:,} partitions, {self.tokens:,} tokens; "
            f"{self.tokens_per_s:,.0f} tokens/s a worker: {took} on {workers}{money}; output "
            f"{self.output_bytes / 1e6:,.1f} MB before compression "
            f"(by {self.sampled_rows} rows of the input)"
        )


def estimate(
    prepared: PreparedJob,
    todo: Sequence[Split],
    *,
    workers: int = 1,
    price_per_hour: float | None = None,
) -> JobEstimate:
    """Return what some partitions will take, by computing a few of their rows.

    Args:
        prepared: The job.
        todo: The partitions.
        workers: How many machines, or actors as fast as this process, share them.
        price_per_hour: Of one worker.

    Returns:
        The estimate.

    Raises:
        DataError: If the input cannot be read.
        EncoderError: If the encoder fails.
    """
    reader = Reader(prepared.source, prepared.job)
    step = max(len(todo) // SAMPLED_SPLITS, 1)
    chosen = [reader.read(split) for split in todo[::step][:SAMPLED_SPLITS]]
    reader.close()
    items = [item for part in chosen for item in part.items[: SAMPLED_ROWS // len(chosen)]]
    front, work = prepared.work.front, prepared.work
    work.compute(items[:WARM_UP_ROWS])
    begun, before = time.perf_counter(), front.usage.num_tokens
    columns = work.compute(items)
    gone = max(time.perf_counter() - begun, 1e-6)
    tokens = front.usage.num_tokens - before
    rows = _rows(chosen, todo)
    whole = round(tokens / max(len(items), 1) * rows)
    seconds = whole * gone / max(tokens, 1) / workers
    made = sum(column.nbytes for column in columns) / max(len(items), 1)
    return JobEstimate(
        rows,
        whole,
        tokens / gone,
        seconds,
        workers,
        None if price_per_hour is None else seconds * workers / 3600 * price_per_hour,
        round(rows * (made + _row_bytes([part.table for part in chosen]))),
        len(todo),
        len(items),
    )


def _rows(chosen: Sequence[Sound], todo: Sequence[Split]) -> int:
    """Return how many rows all partitions hold, if they are as dense as the chosen ones."""
    share = sum(part.split.size_bytes for part in chosen)
    return round(sum(map(len, (part.items for part in chosen))) / max(share, 1) * _size(todo))


def _size(todo: Sequence[Split]) -> float:
    return sum(split.size_bytes for split in todo)


def _row_bytes(tables: Sequence[pa.Table]) -> float:
    return sum(table.nbytes for table in tables) / max(sum(map(len, tables)), 1)
