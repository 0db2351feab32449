"""Which sequences of which requests run next: fair shares by tokens. No clock, no threads, no text.

Every request is a `Flow` with a tag: the tokens it was served, counted from where the queue's
virtual time stood when it came. The lowest tag is served first, a quantum at a time. Virtual time
moves on by the tokens served divided by the flows that waited, so that a short request overtakes a
long one, and the long one goes on beside it. One batch in sixteen goes to the oldest flow first,
whatever its tag: more short requests than can be served must not stop it altogether.

Reference: Demers, Keshav and Shenker, SIGCOMM 1989 (fair queueing); Goyal, Vin and Cheng,
SIGCOMM 1996 (start-time fair queueing).
"""

import heapq
import itertools
from collections import deque
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyrank.types import Int32Array

QUANTA_A_BATCH = 16
BATCHES_A_TURN_OF_THE_OLDEST = 16


class Flow:
    """A request, whose jobs share one place in the queue: the tokens it was served."""

    def __init__(self, *, is_urgent: bool = False) -> None:
        """Make a request that has no place yet.

        Args:
            is_urgent: Whether it goes before all others, as a health probe does.
        """
        self.is_urgent = is_urgent
        self.tag: float | None = None


@dataclass(slots=True, eq=False, weakref_slot=True)
class Job:
    """Sequences of one flow that run under the same key.

    Attributes:
        flow: The request they belong to.
        key: Only jobs of equal keys can share a batch.
        lengths: Tokens of each sequence, shape (num_sequences,).
        work: What the caller keeps with it.
    """

    flow: Flow
    key: Hashable
    lengths: Int32Array
    work: Any
    _order: NDArray[np.intp] = field(init=False)
    _next: int = field(init=False, default=0)
    num_waiting_tokens: int = field(init=False)

    def __post_init__(self) -> None:
        # longest first, so that neighbours are alike and padding, where there is any, is small
        self._order = np.argsort(-self.lengths, kind="stable")
        self.num_waiting_tokens = int(self.lengths.sum())

    @property
    def num_waiting(self) -> int:
        """Sequences not yet taken."""
        return len(self._order) - self._next

    def next_length(self) -> int:
        """Return the tokens of the sequence that comes next."""
        return int(self.lengths[self._order[self._next]])

    def take(self, quantum: int, room: int) -> tuple[list[int], int]:
        """Take sequences up to a quantum of tokens, at least one if it fits the room.

        Args:
            quantum: Tokens after which to stop.
            room: Most tokens to take.

        Returns:
            Indices of the sequences, and their tokens.
        """
        taken: list[int] = []
        tokens = 0
        while self.num_waiting and tokens < quantum:
            length = self.next_length()
            if tokens + length > room:
                break
            taken.append(int(self._order[self._next]))
            self._next += 1
            tokens += length
        self.num_waiting_tokens -= tokens
        return taken, tokens


class FairQueue:
    """Jobs of many flows. Not safe to use from several threads without a lock."""

    def __init__(self) -> None:
        self._flows: dict[Flow, deque[Job]] = {}
        self._virtual_time = 0.0
        self._ties = itertools.count()
        self._num_batches = 0
        self.num_waiting_tokens = 0
        self.num_waiting_sequences = 0

    def __len__(self) -> int:
        return sum(map(len, self._flows.values()))

    def jobs(self) -> Iterator[Job]:
        """Yield every job that has sequences waiting."""
        return itertools.chain.from_iterable(self._flows.values())

    def put(self, job: Job) -> None:
        """Add a job of one sequence or more behind the other jobs of its flow."""
        assert job.num_waiting
        if job.flow.tag is None:
            job.flow.tag = self._virtual_time
        self._flows.setdefault(job.flow, deque()).append(job)
        self._count(job.num_waiting_tokens, job.num_waiting)

    def remove(self, job: Job) -> None:
        """Take a job out, if it still waits."""
        waiting = self._flows.get(job.flow)
        if waiting is not None and job in waiting:
            waiting.remove(job)
            self._count(-job.num_waiting_tokens, -job.num_waiting)
            if not waiting:
                del self._flows[job.flow]

    def key(self) -> Hashable:
        """Return the key of the job whose turn it is. The queue must not be empty."""
        return self._flows[self._first()][0].key

    def _is_turn_of_oldest(self) -> bool:
        return self._num_batches % BATCHES_A_TURN_OF_THE_OLDEST == BATCHES_A_TURN_OF_THE_OLDEST - 1

    def _first(self) -> Flow:
        if self._is_turn_of_oldest():
            return next(iter(self._flows))
        return min(self._flows, key=_turn)

    def take(self, budget: int) -> list[tuple[Job, list[int]]]:
        """Take the sequences of the next batch, all of jobs with one key.

        Args:
            budget: Most tokens of the batch. A longer single sequence is taken alone.

        Returns:
            Jobs with the indices of their sequences; a job may occur several times.
        """
        key, num_flows = self.key(), len(self._flows)
        oldest = self._first() if self._is_turn_of_oldest() else None
        quantum = max(1, budget // QUANTA_A_BATCH)
        ready = [
            (flow is not oldest, *_turn(flow), next(self._ties), flow)
            for flow, jobs in self._flows.items()
            if jobs[0].key == key
        ]
        heapq.heapify(ready)
        self._num_batches += 1
        batch: list[tuple[Job, list[int]]] = []
        used = 0
        while ready and used < budget:
            flow = heapq.heappop(ready)[-1]
            job = self._flows[flow][0]
            room = budget - used if batch else max(budget, job.next_length())
            taken, tokens = job.take(quantum, room)
            if not taken:
                continue  # its next sequence does not fit: let shorter ones of others fill up
            batch.append((job, taken))
            used += tokens
            self._serve(job, len(taken), tokens)
            if flow in self._flows and self._flows[flow][0].key == key:
                heapq.heappush(ready, (flow is not oldest, *_turn(flow), next(self._ties), flow))
        self._virtual_time += used / num_flows
        return batch

    def _serve(self, job: Job, num_sequences: int, tokens: int) -> None:
        assert job.flow.tag is not None
        job.flow.tag += tokens
        self._count(-tokens, -num_sequences)
        if not job.num_waiting:
            jobs = self._flows[job.flow]
            jobs.popleft()
            if not jobs:
                del self._flows[job.flow]

    def _count(self, tokens: int, sequences: int) -> None:
        self.num_waiting_tokens += tokens
        self.num_waiting_sequences += sequences


def _turn(flow: Flow) -> tuple[bool, float]:
    assert flow.tag is not None
    return not flow.is_urgent, flow.tag
