"""One thread that runs the sequences of many requests in shared batches, for any number of engines.

Requests come in at any time from any thread and get a future. The next batch is made when the one
before has ended, of whatever waits then, in fair shares (`fair_queue`). A request of thousands of
sequences is served a batch at a time among the others. Cancelling a future takes what still waits
of it out of the queue, and so does a deadline that cannot be kept. Like the engine, it knows
nothing of text or tasks.
"""

import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from math import inf

import numpy as np
from numpy.typing import NDArray

from polyrank.engine.engine import Engine
from polyrank.engine.fair_queue import FairQueue, Flow, QueuedJob
from polyrank.engine.pace import Pace
from polyrank.engine.packing import plan_batches
from polyrank.errors import (
    DeadlineExceededError,
    EncoderError,
    PolyrankError,
    UnavailableError,
)
from polyrank.types import Float32Array, PackedBatch, PoolingMode

SMALLEST_BUDGET = 256  # tokens: below this the kernels lose efficiency
FIRST_BUDGET = 1024  # tokens, until the first batches have shown how fast the engine is
TARGET_BATCH_S = 0.1


@dataclass(frozen=True, slots=True)
class Ran:
    """What became of submitted sequences.

    Attributes:
        rows: One array per sequence, in input order: shape (width,), or (seq_len, width) where
            token rows were asked for.
        submitted: When they were submitted, on the monotonic clock.
        begun: When their first batch began.
        ended: When their last batch ended.
        num_known: Sequences of which the engine had token rows, so that they did not run.
    """

    rows: list[Float32Array]
    submitted: float
    begun: float
    ended: float
    num_known: int = 0


@dataclass(frozen=True, slots=True)
class BatchReport:
    """One forward pass, for metrics.

    Attributes:
        num_sequences: Sequences in it.
        num_tokens: Their tokens.
        num_padding_tokens: Tokens computed beyond those, where the encoder pads.
        seconds: Time it took.
    """

    num_sequences: int
    num_tokens: int
    num_padding_tokens: int
    seconds: float


class _Work:
    """What the scheduler keeps with a job: the sequences that must run, and rows of the others."""

    def __init__(
        self,
        engine: Engine,
        batch: PackedBatch,
        pooling: tuple[PoolingMode, ...],
        width: int,
        known: list[Float32Array | None],
    ) -> None:
        self.engine = engine
        self.rows = known
        self.places = [i for i, rows in enumerate(known) if rows is None]
        self.num_left = len(self.places)
        self.num_known = len(batch) - self.num_left
        self.batch = batch.select(np.array(self.places, np.intp)) if self.num_known else batch
        self.pooling = pooling
        self.width = width
        self.future: Future[Ran] = Future()
        self.submitted = time.monotonic()
        self.begun: float | None = None

    def fail(self, error: BaseException) -> None:
        if self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)

    def give(self, indices: list[int], rows: list[Float32Array]) -> None:
        for index, row in zip(indices, rows, strict=True):
            self.rows[self.places[index]] = row
        self.num_left -= len(indices)
        if self.num_left or self.future.cancelled():
            return
        assert self.begun is not None
        ran = self.ran(self.begun, time.monotonic())
        if self.future.set_running_or_notify_cancel():
            self.future.set_result(ran)

    def ran(self, begun: float, ended: float) -> Ran:
        whole = [row for row in self.rows if row is not None]
        return Ran(whole, self.submitted, begun, ended, self.num_known)


Share = tuple[_Work, list[int]]


class Scheduler:
    """A thread, a fair queue, and the engines that callers bring along."""

    def __init__(
        self,
        *,
        target_batch_s: float = TARGET_BATCH_S,
        on_batch: Callable[[BatchReport], None] | None = None,
        on_drop: Callable[[], None] | None = None,
    ) -> None:
        """Start the thread.

        Args:
            target_batch_s: Seconds that a batch should take: what a short request waits at most
                for work that has begun. Batches get as many tokens as the engine was seen to
                run in that time, up to its own budget.
            on_batch: Called after every batch, in the scheduler's thread.
            on_drop: Called there, too, for every request that is given up.
        """
        self._target_batch_s = target_batch_s
        self._on_batch = on_batch
        self._on_drop = on_drop
        self._queue = FairQueue()
        self._changed = threading.Condition()
        self._is_closing = False
        self._running_since: float | None = None
        self._busy_since = 0.0  # when the running batch was made, or the one before it ended
        self._paces: dict[int, Pace] = {}
        self._successes: dict[int, float] = {}
        self._thread = threading.Thread(target=self._loop, name="polyrank-scheduler", daemon=True)
        self._thread.start()

    @property
    def num_waiting_tokens(self) -> int:
        """Tokens in the queue, those of the running batch left out."""
        return self._queue.num_waiting_tokens

    @property
    def num_waiting_sequences(self) -> int:
        """Sequences in the queue."""
        return self._queue.num_waiting_sequences

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def running_s(self) -> float:
        """Return for how many seconds the running batch has been computed; 0 where none runs."""
        since = self._running_since
        return 0.0 if since is None else time.monotonic() - since

    def oldest_s(self) -> float:
        """Return for how many seconds the oldest job has waited; 0 where none waits."""
        with self._changed:
            submitted = [job.work.submitted for job in self._queue.jobs()]
        return time.monotonic() - min(submitted) if submitted else 0.0

    def waiting_s(self) -> float:
        """Return how many seconds of work wait or are announced, at the speeds seen."""
        with self._changed:
            return self._queue.waiting_s()

    def is_pace_known(self, engine: Engine) -> bool:
        """Return whether an engine's batches have shown how fast it is."""
        return self._pace(engine).tokens_a_second > 0

    def _pace(self, engine: Engine) -> Pace:
        return self._paces.setdefault(id(engine), Pace())

    def announce(self, flow: Flow, engine: Engine, num_tokens: int) -> float:
        """Give a request its place in the queue, if it can be done in time along with the others.

        Args:
            flow: The request. May have a place already: then its size is corrected.
            engine: What will run it.
            num_tokens: Tokens that it comes to, as far as is known.

        Returns:
            0, or in how many seconds there would be a place for it.
        """
        with self._changed:
            flow.pace = self._pace(engine)
            wait_s = self._queue.wait_for_room_s(flow, num_tokens, time.monotonic())
            if not wait_s:
                self._queue.expect(flow, num_tokens)
            return wait_s

    def expect_no_more(self, flow: Flow) -> None:
        """Forget what was announced of a request and has not been submitted."""
        with self._changed:
            self._queue.expect(flow, 0)

    def submit(
        self,
        flow: Flow,
        engine: Engine,
        batch: PackedBatch,
        pooling: tuple[PoolingMode, ...],
        width: int,
        *,
        is_fresh: bool = False,
    ) -> "Future[Ran]":
        """Queue sequences and return at once.

        Sequences of which the engine keeps the token rows are not queued.

        Args:
            flow: The request that they belong to.
            engine: What runs them.
            batch: Sequences of any number and length, none empty.
            pooling: Pooling modes; empty for token rows.
            width: Values in a row.
            is_fresh: Whether all must run, whatever is kept.

        Returns:
            A future of the rows; cancelling it takes what waits out of the queue.

        Raises:
            UnavailableError: If the scheduler was closed.
            DeadlineExceededError: If the request was given up meanwhile.
        """
        known: list[Float32Array | None] = [None] * len(batch)
        if not pooling and not is_fresh:
            known = engine.find_rows(batch)
        work = _Work(engine, batch, pooling, width, known)
        if not work.num_left:
            work.future.set_result(work.ran(work.submitted, work.submitted))
            return work.future
        job = QueuedJob(flow, (id(engine), pooling, width), work.batch.lengths, work)
        with self._changed:
            if self._is_closing or not self._thread.is_alive():
                raise UnavailableError("the server is stopping and takes no more work")
            if flow.is_dropped:
                raise _too_late()
            flow.pace = self._pace(engine)
            self._queue.put(job)
            self._changed.notify()
        # held by its future, the job would keep itself and its rows until a garbage collection
        waiting = weakref.ref(job)
        work.future.add_done_callback(lambda future: self._forget(waiting, future))
        return work.future

    def _forget(self, waiting: "weakref.ref[QueuedJob]", future: "Future[Ran]") -> None:
        if future.cancelled() and (job := waiting()) is not None:
            with self._changed:
                self._queue.remove(job)

    def close(self) -> None:
        """Run what waits, then end the thread."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join()

    def _loop(self) -> None:
        try:
            while shares := self._wait():
                self._run(shares)
                del shares  # or an unloaded model would live until the next batch
        finally:
            # nobody must wait for a thread that died of an error of our own
            with self._changed:
                self._is_closing = True
                left = [job.work for job in self._queue.jobs()]
            for work in left:
                work.fail(EncoderError("the scheduler stopped; see the server's log"))

    def _wait(self) -> list[Share]:
        """Return the next batch as soon as there is one; nothing when closing and done."""
        while True:
            with self._changed:
                if not len(self._queue):
                    while not len(self._queue) and not self._is_closing:
                        self._changed.wait()
                    self._busy_since = time.monotonic()
                dropped = self._queue.drop_hopeless(time.monotonic())
                shares = self._take() if len(self._queue) else []
                is_done = self._is_closing and not len(self._queue)
            for flow in {job.flow for job in dropped}:
                self._give_up([job.work for job in dropped if job.flow is flow])
            if shares or is_done:
                return shares

    def _give_up(self, works: list[_Work]) -> None:
        for work in works:
            work.fail(_too_late())
        if self._on_drop is not None:
            self._on_drop()

    def _take(self) -> list[Share]:
        now = time.monotonic()
        engine = self._queue.next_job(now).work.engine
        return [(job.work, indices) for job, indices in self._queue.take(self._budget(engine), now)]

    def _budget(self, engine: Engine) -> int:
        speed = self._pace(engine).tokens_a_second
        wanted = int(speed * self._target_batch_s) if speed else FIRST_BUDGET
        return min(max(wanted, SMALLEST_BUDGET), engine.max_batch_tokens)

    def _run(self, shares: list[Share]) -> None:
        begin = time.monotonic()
        busy_since = self._busy_since
        for work, _ in shares:
            work.begun = work.begun or begin
        self._running_since = begin
        try:
            rows = _compute(shares)
        except Exception as exc:  # noqa: BLE001 - whatever happens, somebody waits for an answer
            self._running_since, self._busy_since = None, time.monotonic()
            self._isolate(shares, exc)
            return
        end = self._busy_since = time.monotonic()
        self._running_since = None
        self._report(shares, end - begin, end - busy_since)
        at = 0
        for work, indices in shares:
            work.give(indices, rows[at : at + len(indices)])
            at += len(indices)

    def _isolate(self, shares: list[Share], error: Exception) -> None:
        """Run each request's share alone, so that one cannot spoil the others."""
        if len(shares) > 1:
            for share in shares:
                self._run([share])
            return
        work = shares[0][0]
        if not isinstance(error, PolyrankError):
            name = work.engine.encoder.capabilities.name
            reason = f"the {name} encoder failed: {type(error).__name__}: {error}"
            wrapped = EncoderError(reason)
            wrapped.__cause__ = error
            error = wrapped
        work.fail(error)
        with self._changed:
            for job in [job for job in self._queue.jobs() if job.work is work]:
                self._queue.remove(job)

    def _report(self, shares: list[Share], seconds: float, busy_s: float) -> None:
        engine = shares[0][0].engine
        lengths = np.concatenate([work.batch.lengths[indices] for work, indices in shares])
        num_tokens = int(lengths.sum())
        # what passed between two batches while work waited counts: tokens are promised by it
        self._pace(engine).note(num_tokens, busy_s, self._budget(engine))
        self._successes[id(engine)] = time.monotonic()
        if self._on_batch is not None:
            padding = _padding(engine, lengths)
            self._on_batch(BatchReport(len(lengths), num_tokens, padding, seconds))

    def since_success_s(self, engine: Engine) -> float:
        """Return how many seconds ago an engine last ran a batch; infinity if it never did."""
        return time.monotonic() - self._successes.get(id(engine), -inf)

    def forget_engine(self, engine: Engine) -> None:
        """Drop what was learnt of an engine that is unloaded."""
        self._paces.pop(id(engine), None)
        self._successes.pop(id(engine), None)


def _too_late() -> DeadlineExceededError:
    return DeadlineExceededError(
        "the request would not have been done in its time, so that it was not computed. Ask for "
        "less at once, or give it more time."
    )


def _compute(shares: list[Share]) -> list[Float32Array]:
    first = shares[0][0]
    batch = PackedBatch.join([work.batch.select(np.asarray(indices)) for work, indices in shares])
    if first.pooling:
        return list(first.engine.run(batch, first.pooling, first.width))
    return first.engine.token_rows(batch)


def _padding(engine: Engine, lengths: NDArray[np.int32]) -> int:
    if not engine.encoder.capabilities.is_padding:
        return 0
    batches = plan_batches(lengths, engine.max_batch_tokens, is_padding=True)
    return sum(int(lengths[part].max()) * len(part) - int(lengths[part].sum()) for part in batches)
