"""Who gets in: bounds on requests, bytes, tokens and time, checked before memory grows."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, NoReturn
from weakref import WeakKeyDictionary

from polyrank.engine.deadlines import SHARE_OF_WAITING
from polyrank.engine.engine import Engine
from polyrank.engine.fair_queue import Flow
from polyrank.engine.scheduler import Scheduler
from polyrank.errors import OverloadedError, PayloadTooLargeError
from polyrank.server.settings import Limits

LONGEST_RETRY_S = 60.0
MOST_QUEUED_TOKENS = 2_000_000  # where nothing else was said and no speed is known yet
USUAL_TOKENS_A_CHARACTER = 0.3
_WEIGHT_OF_LAST = 0.1

Reason = Literal["requests", "bytes", "queue", "deadline"]


class Admission:
    """Counts what is under way. Used from the event loop alone."""

    def __init__(
        self,
        limits: Limits,
        scheduler: Scheduler,
        on_refusal: Callable[[Reason], None] = lambda reason: None,
    ) -> None:
        self.limits = limits
        self._scheduler = scheduler
        self._on_refusal = on_refusal
        self._tokens_a_character: WeakKeyDictionary[Engine, float] = WeakKeyDictionary()
        self.num_requests = 0
        self.num_bytes = 0

    @contextmanager
    def request(self) -> Iterator["Permit"]:
        """Let one request in for the length of the block.

        Yields:
            What its body's bytes are counted on.

        Raises:
            OverloadedError: If as many as allowed are under way.
        """
        if self.num_requests >= self.limits.max_concurrent_requests:
            self.refuse(
                "requests",
                f"{self.num_requests:,} requests are under way, as many as this server takes",
            )
        self.num_requests += 1
        permit = Permit(self)
        try:
            yield permit
        finally:
            self.num_requests -= 1
            self.num_bytes -= permit.num_bytes

    def check_time(self, flow: Flow, engine: Engine, sizes: Sequence[int], longest: int) -> None:
        """Give a request its place in the queue before its texts are tokenised.

        Args:
            flow: The request.
            engine: What will run it.
            sizes: Characters of each of its texts or pairs.
            longest: Most tokens that are read of one.

        Raises:
            OverloadedError: If it could not be answered in its time, at the speed seen.
        """
        ratio = self._tokens_a_character.get(engine, USUAL_TOKENS_A_CHARACTER)
        self._announce(flow, engine, int(sum(min(size * ratio, longest) for size in sizes)) + 1)

    def check_tokens(self, flow: Flow, engine: Engine, num_tokens: int) -> None:
        """Correct a request's size once the first of its texts are tokenised.

        Args:
            flow: The request.
            engine: What will run it.
            num_tokens: Tokens that it comes to, as far as is known.

        Raises:
            OverloadedError: If something waits already and the sum is above the limit, or if it
                could not be answered in its time.
        """
        if flow.is_urgent or not num_tokens:
            return  # probes pass, and what is known already costs nothing
        waiting, limit = self._scheduler.num_waiting_tokens, self.limits.max_queued_tokens
        if limit is None and not self._scheduler.is_pace_known(engine):
            limit = MOST_QUEUED_TOKENS
        if limit is not None and waiting and waiting + num_tokens > limit:
            self.refuse(
                "queue",
                f"{waiting:,} tokens wait and this request has about {num_tokens:,}; "
                f"this server queues at most {limit:,}",
            )
        self._announce(flow, engine, num_tokens)

    def _announce(self, flow: Flow, engine: Engine, num_tokens: int) -> None:
        if wait_s := self._scheduler.announce(flow, engine, num_tokens):
            self.refuse(
                "deadline",
                f"about {self._scheduler.waiting_s():.1f} s of work wait and this request has "
                f"about {num_tokens:,} tokens: it would not be done within its "
                f"{flow.patience_s:g} s. Try again later, or give it more time",
                wait_s,
            )

    def learn(self, engine: Engine, num_characters: int, num_tokens: int) -> None:
        """Keep how many tokens an engine's texts come to, for those not tokenised yet.

        Args:
            engine: The engine.
            num_characters: Characters of some texts.
            num_tokens: Their tokens.
        """
        seen = num_tokens / max(num_characters, 1)
        known = self._tokens_a_character.get(engine, seen)
        self._tokens_a_character[engine] = known + _WEIGHT_OF_LAST * (seen - known)

    def refuse(self, reason: Reason, message: str, retry_after_s: float | None = None) -> NoReturn:
        """Count and raise a refusal.

        Args:
            reason: What there was too much of.
            message: The same for the client.
            retry_after_s: When to try again; None asks the queue.

        Raises:
            OverloadedError: Always.
        """
        self._on_refusal(reason)
        wait_s = self.retry_after_s() if retry_after_s is None else retry_after_s
        raise OverloadedError(message, retry_after_s=min(max(wait_s, 1.0), LONGEST_RETRY_S))

    def check_batch(self, count: int, what: str) -> None:
        """Raise if a request holds more texts than allowed.

        Args:
            count: How many it holds.
            what: What they are, for the message.

        Raises:
            PayloadTooLargeError: If there are too many.
        """
        if count > self.limits.max_client_batch_size:
            raise PayloadTooLargeError(
                f"a request may hold {self.limits.max_client_batch_size:,} {what}, not {count:,}. "
                "Split it, or raise --max-client-batch-size."
            )

    def check_values(self, count: int) -> None:
        """Raise if a reply would hold more numbers than allowed.

        Args:
            count: How many it would hold, as far as is known.

        Raises:
            PayloadTooLargeError: If there would be too many.
        """
        if count > self.limits.max_reply_values:
            raise PayloadTooLargeError(
                f"the reply would hold about {count:,} numbers; this server gives at most "
                f"{self.limits.max_reply_values:,}. Ask for fewer texts at once."
            )

    def retry_after_s(self) -> float:
        """Return in how many seconds the queue should be half as long, from 1 to 60."""
        return min(max(self._scheduler.waiting_s() / 2, 1.0), LONGEST_RETRY_S)

    def fullness(self) -> float:
        """Return how full the queue is, from 0 to 1."""
        limit = self.limits.max_queued_tokens
        if limit is not None:
            return min(self._scheduler.num_waiting_tokens / limit, 1.0)
        most_s = SHARE_OF_WAITING * self.limits.request_timeout_s
        return min(self._scheduler.waiting_s() / most_s, 1.0)


class Permit:
    """One request's place."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self.num_bytes = 0

    def add_bytes(self, count: int) -> None:
        """Count bytes of the body as they come, or as they are announced.

        Args:
            count: How many more.

        Raises:
            PayloadTooLargeError: If the body is too large.
            OverloadedError: If all bodies together are.
        """
        admission, limits = self._admission, self._admission.limits
        if self.num_bytes + count > limits.max_payload_bytes:
            raise PayloadTooLargeError(
                f"a request's body may have {limits.max_payload_bytes:,} bytes; this one has "
                "more. Split it, or raise --payload-limit."
            )
        if admission.num_bytes + count > limits.max_pending_bytes:
            admission.refuse(
                "bytes", f"the requests under way hold {admission.num_bytes:,} bytes already"
            )
        self.num_bytes += count
        admission.num_bytes += count
