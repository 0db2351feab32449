"""How many replicas there should be: by the tokens that wait, not by requests.

A request may hold one word or ten thousand documents, so that counts of requests tell little of
the work. Ray pickles this module by value: it imports nothing of polyrank.
"""

import math
from typing import Any

QUEUED_TOKENS = "queued_tokens"
BUSY_SHARE = "busy_share"
FULL = 0.8  # busy share from which on a replica's work is not given to the others


class QueuedTokensPolicy:
    """Wants as many replicas as keep the queue of each within a number of tokens."""

    def __init__(self, queued_tokens: int) -> None:
        """Take the limit.

        Args:
            queued_tokens: Tokens that may wait for each replica on average.
        """
        self._queued_tokens = queued_tokens

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        """Return how many replicas there should be; Ray applies bounds and delays.

        An empty queue alone takes no replica away: the others must have the time for its work.

        Args:
            context: Ray's `AutoscalingContext`, with what replicas report.

        Returns:
            The number, and no state.
        """
        reported = context.aggregated_metrics or {}
        waiting = sum(reported.get(QUEUED_TOKENS, {}).values())
        busy = sum(reported.get(BUSY_SHARE, {}).values())
        needed_for_queue = math.ceil(waiting / self._queued_tokens)
        needed_for_work = min(context.current_num_replicas, math.ceil(busy / FULL))
        return max(needed_for_queue, needed_for_work, 1), {}
