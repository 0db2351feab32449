"""How much a search may spend, and who gets how much of it.

A stage gets an equal share of the milliseconds that are left, for itself and the stages after it;
what it leaves goes on to them. It reads its candidates in parts that grow, each no larger than fits
into its share at the pace seen last, and ends before the part that would not.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass

from polyrank.config import check_whole
from polyrank.errors import ConfigError

Clock = Callable[[], float]

FIRST_PART = 8  # candidates of the first part: some may be kept, others have to be read
_GROWTH = 4  # a part is at most so many times as large as the one before
_SAFETY = 1.25  # a candidate of the next part may take so much longer than one of the last
_FORGETTING = 0.9  # what a stage that gets no turn keeps of its pace, or a slow start would bar it


@dataclass(frozen=True, slots=True)
class Budget:
    """What a search may spend at most.

    Attributes:
        milliseconds: Of the clock, from the query to the result; None sets no limit. A stage ends
            before the part of its candidates that would not be done in time, as far as its pace is
            known.
        pairs: Pairs of the query and a candidate that are scored, in all stages together, the
            first ones first; None sets no limit.

    Raises:
        ConfigError: If a limit is 0 or less.
    """

    milliseconds: float | None = None
    pairs: int | None = None

    def __post_init__(self) -> None:
        limit = self.milliseconds
        if limit is not None and not 0 < limit < float("inf"):
            raise ConfigError(
                f"budget_ms must be a finite number above 0, not {limit!r}: nothing can be "
                "searched in no time. Leave it out for no limit."
            )
        if self.pairs is not None:
            try:
                check_whole("budget_pairs", self.pairs)
            except ConfigError as exc:
                raise ConfigError(f"{exc}. Leave it out for no limit.") from exc


class Paces:
    """Seconds that each stage took for a candidate, so far. Safe for threads."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._lock = threading.Lock()

    def of(self, name: str) -> float | None:
        """Return the seconds for a candidate; None where nothing is known."""
        return self._seconds.get(name)

    def forget(self, name: str) -> None:
        """Take a stage that got no turn for a little faster."""
        with self._lock:
            if name in self._seconds:
                self._seconds[name] *= _FORGETTING

    def note(self, name: str, number: int, seconds: float) -> None:
        """Learn from candidates that were read; the latest count half."""
        with self._lock:
            fresh, known = seconds / max(1, number), self._seconds.get(name)
            self._seconds[name] = fresh if known is None else (fresh + known) / 2


class Spending:
    """What one search has spent."""

    def __init__(self, budget: Budget, clock: Clock, paces: Paces) -> None:
        self._budget, self._clock, self._paces = budget, clock, paces
        self.begin = clock()
        self.num_pairs = 0
        self._last: dict[str, tuple[int, float]] = {}  # candidates of a part, seconds for each

    def spent_s(self) -> float:
        """Return the seconds since the search began."""
        return self._clock() - self.begin

    def deadline(self, stages_left: int) -> float | None:
        """Return until when a stage may run, if it has to share with those after it."""
        if self._budget.milliseconds is None:
            return None
        left = self.begin + self._budget.milliseconds / 1000 - self._clock()
        return self._clock() + max(0.0, left) / stages_left

    def part(self, name: str, left: int, deadline: float | None) -> int:
        """Return how many of a stage's candidates come next; 0 where the budget is spent.

        Args:
            name: The stage.
            left: Candidates that it has not read.
            deadline: Until when it may run.

        Returns:
            At most `left`.
        """
        if self._budget.pairs is not None:
            left = min(left, self._budget.pairs - self.num_pairs)
        if deadline is None or not left:
            return left
        most, pace = FIRST_PART, self._paces.of(name)
        if name in self._last:
            most, pace = self._last[name][0] * _GROWTH, self._last[name][1]
        time_left = deadline - self._clock()
        if pace:
            fitting = int(max(0.0, time_left) / (pace * _SAFETY))
            if not fitting:
                self._paces.forget(name)
            return min(left, most, fitting)
        return min(left, most) if time_left > 0 else 0

    def note(self, name: str, number: int, seconds: float) -> None:
        """Learn from a part that was read."""
        self.num_pairs += number
        self._last[name] = number, seconds / number
        self._paces.note(name, number, seconds)
