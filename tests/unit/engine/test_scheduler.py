"""Fair shares between requests, and the thread that runs them in shared batches."""

import gc
import threading
import time
import weakref
from concurrent.futures import CancelledError

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyrank.encoder.base import Capabilities
from polyrank.engine.engine import Engine
from polyrank.engine.fair_queue import FairQueue, Flow, QueuedJob
from polyrank.engine.row_cache import RowCache
from polyrank.engine.scheduler import BatchReport, Scheduler
from polyrank.errors import EncoderError, UnavailableError
from polyrank.types import Float32Array, PackedBatch

POOLING = ("mean",)


class Encoder:
    """Row of a sequence: sum of its ids. Can be held up, and fails on an id of 666."""

    capabilities = Capabilities("sums", False, "float32", "cpu", 0.0)

    def __init__(self) -> None:
        self.go = threading.Event()
        self.go.set()
        self.begun = threading.Event()
        self.batches: list[list[int]] = []

    def run(self, batch: PackedBatch, pooling: tuple[str, ...]) -> Float32Array:
        self.begun.set()
        assert self.go.wait(10)
        if 666 in batch.input_ids:
            raise EncoderError("six hundred and sixty-six")
        self.batches.append(batch.lengths.tolist())
        if not pooling:
            return batch.input_ids[:, None].astype(np.float32)
        sums = np.add.reduceat(batch.input_ids, batch.cu_seqlens[:-1])
        return sums[:, None].astype(np.float32)

    def close(self) -> None:
        pass


def batch_of(*sequences: list[int]) -> PackedBatch:
    ends = np.cumsum([0, *map(len, sequences)]).astype(np.int32)
    return PackedBatch(np.concatenate(sequences).astype(np.int32), ends)


def job(lengths: list[int], flow: Flow | None = None, key: str = "a") -> QueuedJob:
    return QueuedJob(flow or Flow(), key, np.array(lengths, np.int32), None)


def drain(queue: FairQueue, budget: int) -> list[list[tuple[QueuedJob, list[int]]]]:
    batches = []
    while len(queue):
        batches.append(queue.take(budget))
    return batches


@given(
    st.lists(st.lists(st.integers(1, 50), min_size=1, max_size=30), min_size=1, max_size=8),
    st.integers(1, 200),
)
def test_every_sequence_is_taken_once_and_budgets_hold(
    lengths: list[list[int]], budget: int
) -> None:
    queue = FairQueue()
    jobs = [job(each, key="ab"[i % 2]) for i, each in enumerate(lengths)]
    for each in jobs:
        queue.put(each)
    seen: dict[int, list[int]] = {id(each): [] for each in jobs}
    for taken in drain(queue, budget):
        assert len({each.key for each, _ in taken}) == 1
        tokens = [int(each.lengths[i]) for each, indices in taken for i in indices]
        assert sum(tokens) <= budget or len(tokens) == 1
        for each, indices in taken:
            seen[id(each)] += indices
    assert all(sorted(seen[id(each)]) == list(range(len(each.lengths))) for each in jobs)
    assert queue.num_waiting_tokens == queue.num_waiting_sequences == 0


def test_a_short_request_overtakes_a_long_one() -> None:
    queue = FairQueue()
    long, short = job([100] * 1000), job([100])
    queue.put(long)
    queue.take(1000)
    queue.put(short)
    assert short in [each for each, _ in queue.take(1000)]


def test_short_requests_cannot_starve_a_long_one() -> None:
    queue = FairQueue()
    long = job([100] * 40)
    queue.put(long)
    for _ in range(640):  # two new ones before every batch, which has room for one
        queue.put(job([100]))
        queue.put(job([100]))
        queue.take(100)
    assert long.num_waiting == 0


def test_urgent_flows_go_first() -> None:
    queue = FairQueue()
    queue.put(job([10] * 10))
    probe = job([10], Flow(is_urgent=True), key="b")
    queue.put(probe)
    assert queue.take(10)[0][0] is probe


def test_requests_share_batches_and_get_their_own_rows() -> None:
    encoder = Encoder()
    engine, reports = Engine(encoder, 1000), []
    scheduler = Scheduler(on_batch=reports.append)
    encoder.go.clear()
    first = scheduler.submit(Flow(), engine, batch_of([1]), POOLING, 1)
    assert encoder.begun.wait(5)
    later = [
        scheduler.submit(Flow(), engine, batch_of([i, i], [i], [1, 2, i]), POOLING, 1)
        for i in range(20)
    ]
    assert scheduler.num_waiting_sequences == 60
    assert scheduler.oldest_s() >= 0
    encoder.go.set()
    assert first.result(5).rows[0] == [1]
    for i, future in enumerate(later):
        assert [float(row[0]) for row in future.result(5).rows] == [2 * i, i, 3 + i]
    assert len(encoder.batches) == 2  # the sixty ran together
    scheduler.close()
    assert sum(report.num_tokens for report in reports) == 1 + 20 * 6
    assert isinstance(reports[0], BatchReport)
    assert scheduler.since_success_s(engine) < 60


def test_token_rows_come_back_by_sequence() -> None:
    scheduler = Scheduler()
    future = scheduler.submit(Flow(), Engine(Encoder(), 4), batch_of([1, 2, 3], [4], [5, 6]), (), 1)
    assert [row[:, 0].tolist() for row in future.result(5).rows] == [[1, 2, 3], [4], [5, 6]]
    scheduler.close()


def test_token_rows_that_are_kept_are_not_queued() -> None:
    encoder = Encoder()
    engine, scheduler = Engine(encoder, 100, RowCache(1_000_000)), Scheduler()
    batch = batch_of([1, 2, 3], [4], [5, 6])
    assert scheduler.submit(Flow(), engine, batch, (), 1).result(5).num_known == 0
    encoder.go.clear()  # what is known needs no encoder
    encoder.begun.clear()
    known = scheduler.submit(Flow(), engine, batch_of([4], [1, 2, 3]), (), 1).result(5)
    assert [row[:, 0].tolist() for row in known.rows] == [[4], [1, 2, 3]]
    assert (known.num_known, known.begun, known.ended) == (2, *[known.submitted] * 2)
    first = scheduler.submit(Flow(), engine, batch_of([9]), (), 1)
    assert encoder.begun.wait(5)
    some = scheduler.submit(Flow(), engine, batch_of([5, 6], [7, 7, 7], [4], [8]), (), 1)
    assert (scheduler.num_waiting_sequences, scheduler.num_waiting_tokens) == (2, 4)
    encoder.go.set()
    rows = [row[:, 0].tolist() for row in some.result(5).rows]
    assert rows == [[5, 6], [7, 7, 7], [4], [8]]
    assert some.result().num_known == 2
    fresh = scheduler.submit(Flow(), engine, batch_of([4], [8]), (), 1, is_fresh=True)
    assert [row[:, 0].tolist() for row in fresh.result(5).rows] == [[4], [8]]
    assert encoder.batches == [[3, 2, 1], [1], [3, 1], [1, 1]]
    assert first.result(5).num_known == fresh.result().num_known == 0
    scheduler.submit(Flow(), engine, batch, POOLING, 1).result(5)  # of pooled rows nothing is kept
    assert encoder.batches[-1] == [3, 2, 1]
    scheduler.close()


def test_batches_keep_their_segments_when_they_are_joined() -> None:
    plain, pair = batch_of([1, 2]), batch_of([3, 4, 5])
    typed = PackedBatch(pair.input_ids, pair.cu_seqlens, np.array([0, 1, 1], np.int32))
    for parts, wanted in (
        ([plain, typed], [0, 0, 0, 1, 1]),
        ([typed, plain], [0, 1, 1, 0, 0]),
        ([typed, typed], [0, 1, 1, 0, 1, 1]),
    ):
        made = PackedBatch.join(parts)
        assert made.token_type_ids is not None
        assert made.token_type_ids.tolist() == wanted
        assert made.input_ids.tolist() == [i for part in parts for i in part.input_ids]
    assert PackedBatch.join([plain, plain]).token_type_ids is None


def test_cancelled_work_leaves_the_queue() -> None:
    encoder = Encoder()
    engine, scheduler = Engine(encoder, 100), Scheduler()
    encoder.go.clear()
    first = scheduler.submit(Flow(), engine, batch_of([1]), POOLING, 1)
    assert encoder.begun.wait(5)
    waiting = scheduler.submit(Flow(), engine, batch_of([7] * 50, [8]), POOLING, 1)
    assert waiting.cancel()
    assert scheduler.num_waiting_tokens == 0
    encoder.go.set()
    assert first.result(5)
    with pytest.raises(CancelledError):
        waiting.result(0)
    scheduler.close()
    assert encoder.batches == [[1]]


def test_what_was_answered_goes_without_a_garbage_collection() -> None:
    scheduler = Scheduler()
    future = scheduler.submit(Flow(), Engine(Encoder(), 100), batch_of([1, 2]), (), 1)
    future.result(5)
    scheduler.close()
    rows = weakref.ref(future)
    gc.disable()
    try:
        del future
        assert rows() is None
    finally:
        gc.enable()


def test_one_request_cannot_spoil_the_others_of_its_batch() -> None:
    encoder = Encoder()
    engine, scheduler = Engine(encoder, 100), Scheduler()
    encoder.go.clear()
    scheduler.submit(Flow(), engine, batch_of([1]), POOLING, 1)
    assert encoder.begun.wait(5)
    good, bad = (scheduler.submit(Flow(), engine, batch_of([i], [1]), POOLING, 1) for i in (5, 666))
    encoder.go.set()
    assert [float(row[0]) for row in good.result(5).rows] == [5, 1]
    with pytest.raises(EncoderError, match="sixty"):
        bad.result(5)
    assert scheduler.is_alive
    scheduler.close()


def test_closing_runs_what_waits_and_takes_no_more() -> None:
    encoder = Encoder()
    engine, scheduler = Engine(encoder, 100), Scheduler()
    encoder.go.clear()
    futures = [scheduler.submit(Flow(), engine, batch_of([i]), POOLING, 1) for i in range(5)]
    threading.Timer(0.05, encoder.go.set).start()
    scheduler.close()
    assert all(future.done() for future in futures)
    with pytest.raises(UnavailableError):
        scheduler.submit(Flow(), engine, batch_of([1]), POOLING, 1)


def test_batches_shrink_to_what_the_engine_does_in_the_target_time() -> None:
    class Slow(Encoder):
        def run(self, batch: PackedBatch, pooling: tuple[str, ...]) -> Float32Array:
            time.sleep(batch.total_tokens / 20_000)  # 20,000 tokens a second
            return super().run(batch, pooling)

    encoder = Slow()
    scheduler = Scheduler(target_batch_s=0.02)
    long = batch_of(*[[1] * 50 for _ in range(100)])
    scheduler.submit(Flow(), Engine(encoder, 10_000), long, POOLING, 1).result(10)
    scheduler.close()
    assert sum(encoder.batches[-2]) <= 600
