"""How fast an engine is, as its batches have shown. No clock: the caller tells what it measured."""

FEWEST_TOKENS = 128  # a smaller batch tells of the way to the engine, not of its speed
_NUM_FIRST = 4  # batches that count alike: the first may have read the weights from disk
_WEIGHT = 0.25
_LARGEST_STEP = 2.0  # a batch that stood still moves the speed by a sixth, not to nothing


class Pace:
    """The speed of one engine."""

    def __init__(self) -> None:
        self.tokens_a_second = 0.0
        self._num_seen = 0

    def note(self, num_tokens: int, seconds: float, usual_tokens: int) -> None:
        """Learn from a batch: the mean of logarithms, the last ones counting most.

        Args:
            num_tokens: Its tokens.
            seconds: Time that it took, with what was lost before it while work waited.
            usual_tokens: Tokens of a full batch; a smaller one counts for less.
        """
        if num_tokens < FEWEST_TOKENS:
            return
        seen = num_tokens / max(seconds, 1e-6)
        self._num_seen += 1
        if self._num_seen <= _NUM_FIRST:
            known = self.tokens_a_second or seen
            self.tokens_a_second = known * (seen / known) ** (1 / self._num_seen)
            return
        step = min(max(seen / self.tokens_a_second, 1 / _LARGEST_STEP), _LARGEST_STEP)
        weight = _WEIGHT * min(1.0, num_tokens / usual_tokens)
        self.tokens_a_second *= step**weight

    def seconds(self, num_tokens: int) -> float:
        """Return how long tokens should take; 0 where nothing is known yet."""
        return num_tokens / self.tokens_a_second if self.tokens_a_second else 0.0
