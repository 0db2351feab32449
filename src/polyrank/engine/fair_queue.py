"""Which sequences of which requests run next: fair shares, one request at a time. No clock.

Every request is a `Flow` with a tag: the point of virtual time at which it would be done if all
that wait shared the engine alike. The lowest tag is served first, to its end. So every request is
done no later than by equal shares, and most much sooner: a short request overtakes a long one, the
long one is not overtaken for ever, and what has begun is finished. Virtual time moves on by the
tokens served divided by the flows that would share them. One batch in sixteen goes to the oldest
flow first, whatever its tag: more short requests than can be served must not stop it altogether.

A request with a deadline goes before the order of tags once it has little time to spare, and
leaves once it cannot be done in time (`deadlines`).

References: Demers, Keshav and Shenker, SIGCOMM 1989 (fair queueing); Friedman and Henderson,
SIGMETRICS 2003 (the fair sojourn protocol).
"""

import itertools
from collections import deque
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from math import inf
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyrank.engine.deadlines import Claim, hopeless, num_pressing, wait_for_room_s
from polyrank.engine.pace import Pace
from polyrank.types import Int32Array

BATCHES_A_TURN_OF_THE_OLDEST = 16


class Flow:
    """A request, whose jobs share one place in the queue.

    Attributes:
        is_urgent: Whether it goes before all others.
        deadline: When its time ends, on the caller's clock.
        patience_s: The time that it had.
        pace: Speed of its engine.
        tag: When it would be done by equal shares, in virtual time.
        num_waiting: Tokens of its jobs that wait.
        num_coming: Tokens announced of which there is no job yet.
        has_begun: Whether some of it was taken.
        is_dropped: Whether it was given up.
    """

    def __init__(self, *, is_urgent: bool = False) -> None:
        """Make a request that has no place yet.

        Args:
            is_urgent: Whether it goes before all others, as a health probe does.
        """
        self.is_urgent = is_urgent
        self.deadline = inf
        self.patience_s = inf
        self.pace = Pace()  # until its engine's is known
        self.tag: float | None = None
        self.num_waiting = 0
        self.num_coming = 0
        self.has_begun = False
        self.is_dropped = False

    def must_end(self, now: float, patience_s: float) -> None:
        """Set how much time the request has from now on."""
        self.deadline, self.patience_s = now + patience_s, patience_s

    def claim(self) -> Claim:
        """Return what it still needs."""
        seconds = self.pace.seconds(self.num_waiting + self.num_coming)
        return Claim(self.deadline, seconds, self.patience_s, self.has_begun)


@dataclass(slots=True, eq=False, weakref_slot=True)
class QueuedJob:
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

    def take(self, room: int) -> tuple[list[int], int]:
        """Take as many sequences as fit.

        Args:
            room: Most tokens to take.

        Returns:
            Indices of the sequences, and their tokens.
        """
        ends = np.cumsum(self.lengths[self._order[self._next :]])
        num_taken = int(np.searchsorted(ends, room, side="right"))
        taken = self._order[self._next : self._next + num_taken].tolist()
        tokens = int(ends[num_taken - 1]) if num_taken else 0
        self._next += num_taken
        self.num_waiting_tokens -= tokens
        return taken, tokens


class FairQueue:
    """Jobs of many flows. Not safe to use from several threads without a lock."""

    def __init__(self) -> None:
        # in the order in which they came; a flow of which all is yet to come has no job
        self._flows: dict[Flow, deque[QueuedJob]] = {}
        self._virtual_time = 0.0
        self._sharing: dict[Flow, float] = {}  # tags of those not yet done by equal shares
        self._num_batches = 0
        self.num_waiting_tokens = 0
        self.num_waiting_sequences = 0

    def __len__(self) -> int:
        return sum(map(len, self._flows.values()))

    def jobs(self) -> Iterator[QueuedJob]:
        """Yield every job that has sequences waiting."""
        return itertools.chain.from_iterable(self._flows.values())

    def waiting_s(self) -> float:
        """Return how long all that waits, and is announced, should take."""
        return sum(flow.claim().seconds for flow in self._flows)

    def wait_for_room_s(self, flow: Flow, num_tokens: int, now: float) -> float:
        """Return in how many seconds a request would be admitted; 0 for at once.

        Args:
            flow: The request.
            num_tokens: Tokens that it comes to.
            now: The time, on the clock of the deadlines.

        Returns:
            Seconds, if nothing else comes.
        """
        if flow.is_urgent:
            return 0.0
        others = [claim for claim, owner in self._claims() if owner is not flow]
        new = Claim(flow.deadline, flow.pace.seconds(num_tokens), flow.patience_s)
        return wait_for_room_s(others, new, now, is_held=flow in self._flows)

    def _claims(self) -> list[tuple[Claim, Flow]]:
        pairs = [(flow.claim(), flow) for flow in self._flows]
        return sorted(pairs, key=lambda pair: pair[0].deadline)

    def expect(self, flow: Flow, num_tokens: int) -> None:
        """Set how many tokens of a flow are still to come, and give it its place by them."""
        more = num_tokens - flow.num_coming
        flow.num_coming = num_tokens
        if num_tokens:
            self._flows.setdefault(flow, deque())
        self._move_tag(flow, more)
        self._tidy(flow)

    def put(self, job: QueuedJob) -> None:
        """Add a job of one sequence or more behind the other jobs of its flow."""
        assert job.num_waiting
        flow, num_tokens = job.flow, job.num_waiting_tokens
        num_known = min(flow.num_coming, num_tokens)
        flow.num_coming -= num_known
        self._flows.setdefault(flow, deque()).append(job)
        self._move_tag(flow, num_tokens - num_known)
        self._count(flow, num_tokens, job.num_waiting)

    def _move_tag(self, flow: Flow, num_tokens: int) -> None:
        if num_tokens > 0 and (flow.tag is None or flow.tag < self._virtual_time):
            flow.tag = self._virtual_time  # it is new, or by equal shares it had been done
        if flow.tag is not None and num_tokens:
            flow.tag += num_tokens
            self._sharing[flow] = flow.tag

    def remove(self, job: QueuedJob) -> None:
        """Take a job out, if it still waits."""
        flow = job.flow
        if job in self._flows.get(flow, ()):
            self._flows[flow].remove(job)
            self._count(flow, -job.num_waiting_tokens, -job.num_waiting)
            if not flow.num_waiting + flow.num_coming:
                self._sharing.pop(flow, None)
            self._tidy(flow)

    def drop_hopeless(self, now: float) -> list[QueuedJob]:
        """Take out what cannot be done in time.

        Args:
            now: The time, on the clock of the deadlines.

        Returns:
            The jobs; their flows are marked.
        """
        claims = self._claims()
        dropped: list[QueuedJob] = []
        for place in hopeless([claim for claim, _ in claims], now):
            flow = claims[place][1]
            flow.is_dropped, flow.num_coming = True, 0
            dropped += self._flows[flow]
            self._sharing.pop(flow, None)
            self._tidy(flow)
        for job in dropped:
            self.remove(job)
        return dropped

    def next_job(self, now: float = 0.0) -> QueuedJob:
        """Return the job whose turn it is. There must be one."""
        return self._flows[self._order(now)[0]][0]

    def _order(self, now: float) -> list[Flow]:
        """Return the flows that have jobs, as they are to be served."""
        ready = [flow for flow, jobs in self._flows.items() if jobs]
        last = BATCHES_A_TURN_OF_THE_OLDEST - 1
        is_turn = self._num_batches % BATCHES_A_TURN_OF_THE_OLDEST == last
        oldest = ready[0] if is_turn else None
        claims = self._claims()
        count = num_pressing([claim for claim, _ in claims], now)
        pressing = {flow for _, flow in claims[:count]}

        def turn(flow: Flow) -> tuple[bool, bool, bool, float]:
            assert flow.tag is not None
            return not flow.is_urgent, flow not in pressing, flow is not oldest, flow.tag

        return sorted(ready, key=turn)

    def take(self, budget: int, now: float = 0.0) -> list[tuple[QueuedJob, list[int]]]:
        """Take the sequences of the next batch, all of jobs with one key.

        Args:
            budget: Most tokens of the batch. A longer single sequence is taken alone.
            now: The time, on the clock of the deadlines.

        Returns:
            Jobs with the indices of their sequences, each job once.
        """
        order = self._order(now)
        key = self._flows[order[0]][0].key
        self._num_batches += 1
        batch: list[tuple[QueuedJob, list[int]]] = []
        used = 0
        for flow in order:
            while (jobs := self._flows.get(flow)) and jobs[0].key == key and used < budget:
                job = jobs[0]
                taken, tokens = job.take(budget - used if batch else max(budget, job.next_length()))
                if not taken:
                    break  # its next sequence does not fit: let shorter ones of others fill up
                batch.append((job, taken))
                used += tokens
                self._serve(job, len(taken), tokens)
        self._advance(used)
        return batch

    def _serve(self, job: QueuedJob, num_sequences: int, tokens: int) -> None:
        job.flow.has_begun = True
        self._count(job.flow, -tokens, -num_sequences)
        if not job.num_waiting:
            self._flows[job.flow].popleft()
            self._tidy(job.flow)

    def _advance(self, tokens: float) -> None:
        """Move virtual time on by tokens that the flows would have shared."""
        for flow, tag in sorted(self._sharing.items(), key=itemgetter(1)):
            num_flows = len(self._sharing)
            needed = max(tag - self._virtual_time, 0.0) * num_flows
            if needed > tokens:
                self._virtual_time += tokens / num_flows
                return
            tokens -= needed
            self._virtual_time = max(self._virtual_time, tag)
            del self._sharing[flow]

    def _tidy(self, flow: Flow) -> None:
        if not self._flows.get(flow) and not flow.num_coming:
            self._flows.pop(flow, None)
        if not self._flows:
            self._sharing.clear()

    def _count(self, flow: Flow, tokens: int, sequences: int) -> None:
        flow.num_waiting += tokens
        self.num_waiting_tokens += tokens
        self.num_waiting_sequences += sequences
