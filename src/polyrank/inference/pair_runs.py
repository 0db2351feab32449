"""Running what a scorer of pairs has planned, in parts where token rows would fill the memory."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from polyrank.engine.engine import Engine
from polyrank.tasks.scoring import PairPlan, PairScorer
from polyrank.types import Float32Array, Progress

PART_TOKENS = 32_768  # 50 MB of rows of 384 values, and as much for their clean form


def run_pairs(
    engine: Engine, scorer: PairScorer, plan: PairPlan, progress: Progress | None = None
) -> Iterator[tuple[PairPlan, Float32Array]]:
    """Run the sequences of some pairs.

    Pooled rows come at once. Token rows come in parts of so many pairs as have at most
    `PART_TOKENS` tokens, or of one pair. Sequences that the next part needs as well, as a ranking's
    query is, are kept; a text of which pairs stand far apart runs more than once.

    Args:
        engine: What runs them.
        scorer: What planned them.
        plan: The plan.
        progress: Called with tokens done and tokens in all.

    Yields:
        The plan of the next pairs, at least one such plan, and the rows of its sequences as
        `PairScorer.logits` takes them.

    Raises:
        EncoderError: If the encoder fails.
    """
    if scorer.pooling:
        yield plan, engine.run(plan.batch, scorer.pooling, scorer.width, progress)
        return
    parts = _parts(plan)
    wanted = [plan.sequences(start, end) for start, end in parts]
    nothing = np.empty(0, np.intp)
    new = [np.setdiff1d(own, last) for last, own in pairwise([nothing, *wanted])]
    whole, done = sum(int(plan.batch.lengths[fresh].sum()) for fresh in new), 0
    kept = _Rows(plan, nothing, np.empty((0, scorer.width), np.float32))
    following = [*wanted[1:], nothing]
    for (start, end), own, fresh, after in zip(parts, wanted, new, following, strict=True):
        batch = plan.batch.select(fresh)
        report = None if progress is None else _shifted(progress, done, whole)
        ran = _Rows(plan, fresh, engine.run(batch, (), scorer.width, report))
        rows = _joined(plan, own, (kept, ran))
        done += batch.total_tokens
        kept = rows.select(np.intersect1d(own, after))
        del ran  # the caller works on the rows while this waits
        yield plan.part(start, end), rows.values


class _Rows:
    """Token rows of some sequences of a plan, ascending."""

    def __init__(self, plan: PairPlan, sequences: NDArray[np.intp], values: Float32Array) -> None:
        self.plan = plan
        self.sequences = sequences
        self.values = values

    def places(self, sequences: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return where the tokens of some of the sequences lie."""
        batch = self.plan.batch.select(self.sequences)
        return batch.tokens_of(np.searchsorted(self.sequences, sequences))

    def select(self, sequences: NDArray[np.intp]) -> "_Rows":
        """Return a copy of the rows of some of the sequences."""
        return _Rows(self.plan, sequences, self.values[self.places(sequences)])


def _joined(plan: PairPlan, sequences: NDArray[np.intp], sources: tuple[_Rows, ...]) -> _Rows:
    size = (int(plan.batch.lengths[sequences].sum()), sources[0].values.shape[1])
    rows = _Rows(plan, sequences, np.empty(size, np.float32))
    for source in sources:
        shared = np.intersect1d(source.sequences, sequences)
        rows.values[rows.places(shared)] = source.select(shared).values
    return rows


def _shifted(progress: Progress, done: int, whole: int) -> Progress:
    return lambda count, _: progress(done + count, whole)


def _parts(plan: PairPlan) -> list[tuple[int, int]]:
    """Return first pair and the one after the last of each part; one part where there is none."""
    lengths = plan.batch.lengths
    parts: list[tuple[int, int]] = []
    start, held, num_tokens = 0, set[int](), 0
    for pair, members in enumerate(plan.members.tolist()):
        fresh = set(members) - held
        count = int(lengths[list(fresh)].sum())
        if pair > start and num_tokens + count > PART_TOKENS:
            parts.append((start, pair))
            start, held, num_tokens = pair, set(), 0
            fresh = set(members)
            count = int(lengths[list(fresh)].sum())
        held |= fresh
        num_tokens += count
    return [*parts, (start, len(plan.members))]
