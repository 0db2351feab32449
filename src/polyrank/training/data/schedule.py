"""Which example of which source is drawn when: fixed by the seed before the first step.

Every draw knows its own randomness, so a run that is resumed draws what the uninterrupted run
would have drawn.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from polyrank.errors import DataError
from polyrank.training.config import TrainingConfig
from polyrank.training.data.source import Example, TrainingSource

MAX_DRAWS = 2_000_000
"""Lists that a run without a number of steps or epochs can draw."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """The draws of a run, in order.

    Attributes:
        source_of: Source of each draw, shape (num_draws,).
        example_of: Example within the source, shape (num_draws,). A source's examples all come
            once before any comes again.
        num_usable: Examples of each source that the task can use.
    """

    source_of: NDArray[np.int32]
    example_of: NDArray[np.int32]
    num_usable: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.source_of)


def plan_draws(sources: Sequence[TrainingSource], config: TrainingConfig) -> Schedule:
    """Plan the draws of a run.

    Args:
        sources: The training data.
        config: The settings.

    Returns:
        The draws; as many as the smaller of steps and epochs ask for.

    Raises:
        DataError: If no example can be used.
    """
    usable = [_usable(source, config) for source in sources]
    counts = np.array([len(rows) for rows in usable])
    if not counts.sum():
        raise DataError(
            f"none of the {sum(len(source.examples) for source in sources):,} queries can be used "
            f"for a {config.task} with the loss {config.main_loss!r}: each needs a passage that "
            "answers it, in a language other than its own where the two are translations"
            + (", and scores or a --teacher." if config.needs_scores else ".")
        )
    weights = np.array(
        [count if s.weight is None else s.weight for s, count in zip(sources, counts, strict=True)],
        np.float64,
    )
    weights *= counts > 0
    generator = np.random.default_rng((config.seed, 1))
    total = _num_draws(int(counts.sum()), config)
    source_of = generator.choice(len(sources), total, p=weights / weights.sum()).astype(np.int32)
    example_of = np.zeros(total, np.int32)
    for i, rows in enumerate(usable):
        drawn = np.flatnonzero(source_of == i)
        if len(drawn):
            rounds = -(-len(drawn) // len(rows))
            orders = [generator.permutation(rows) for _ in range(rounds)]
            example_of[drawn] = np.concatenate(orders)[: len(drawn)]
    return Schedule(source_of, example_of, tuple(int(count) for count in counts))


def _num_draws(num_examples: int, config: TrainingConfig) -> int:
    batch = config.lists_per_step
    limits = []
    if config.steps is not None:
        limits.append(config.steps * batch)
    epochs = config.epochs
    if epochs is None and config.steps is None and config.minutes is None:
        epochs = 1
    if epochs is not None:
        limits.append(max(batch, round(epochs * num_examples)))
    total = min(limits, default=MAX_DRAWS)
    return max(1, total // batch) * batch


def _usable(source: TrainingSource, config: TrainingConfig) -> NDArray[np.int32]:
    rows = [i for i, example in enumerate(source.examples) if _is_usable(source, example, config)]
    return np.array(rows, np.int32)


def _is_usable(source: TrainingSource, example: Example, config: TrainingConfig) -> bool:
    if source.is_translation and len(example.queries) < 2:
        return False
    if example.positives:
        return True
    # a query without an answer teaches what not to accept
    takes_none = config.has_classes or config.main_loss == "bce"
    return takes_none and bool(example.neutrals or example.negatives)
