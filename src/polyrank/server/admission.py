"""Who gets in: bounds on requests, bytes and tokens, checked before memory grows."""

from collections.abc import Iterator
from contextlib import contextmanager

from polyrank.engine.scheduler import Scheduler
from polyrank.errors import OverloadedError, PayloadTooLargeError
from polyrank.server.settings import Limits

LONGEST_RETRY_S = 60.0


class Admission:
    """Counts what is under way. Used from the event loop alone."""

    def __init__(self, limits: Limits, scheduler: Scheduler) -> None:
        self.limits = limits
        self._scheduler = scheduler
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
            raise OverloadedError(
                f"{self.num_requests:,} requests are under way, as many as this server takes",
                retry_after_s=self.retry_after_s(),
            )
        self.num_requests += 1
        permit = Permit(self)
        try:
            yield permit
        finally:
            self.num_requests -= 1
            self.num_bytes -= permit.num_bytes

    def check_tokens(self, num_tokens: int) -> None:
        """Raise if a request's tokens do not fit the queue.

        Args:
            num_tokens: Tokens that the request comes to, as far as is known.

        Raises:
            OverloadedError: If something waits already and the sum is above the limit.
        """
        waiting = self._scheduler.num_waiting_tokens
        if waiting and waiting + num_tokens > self.limits.max_queued_tokens:
            raise OverloadedError(
                f"{waiting:,} tokens wait and this request has about {num_tokens:,}; "
                f"this server queues at most {self.limits.max_queued_tokens:,}",
                retry_after_s=self.retry_after_s(),
            )

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
        speed = self._scheduler.tokens_a_second
        wait = self._scheduler.num_waiting_tokens / 2 / speed if speed else 1.0
        return min(max(wait, 1.0), LONGEST_RETRY_S)


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
            raise OverloadedError(
                f"the requests under way hold {admission.num_bytes:,} bytes already",
                retry_after_s=admission.retry_after_s(),
            )
        self.num_bytes += count
        admission.num_bytes += count
