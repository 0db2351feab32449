"""Running what a scorer of pairs has planned, in parts where token rows would fill the memory."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from polyrank.engine.engine import Engine
from polyrank.tasks.scoring import PairPlan, PairScorer
from polyrank.types import Float32Array, Progress

# 25 MB of rows of 384 values, and as much for their clean form: few enough that glibc hands the
# same memory out again, where new pages would take longer than the arithmetic on them
PART_TOKENS = 16_384


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
    kept, kept_rows = nothing, np.empty((0, scorer.width), np.float32)
    for (start, end), fresh, after in zip(parts, new, [*wanted[1:], nothing], strict=True):
        sequences = np.concatenate([kept, fresh])
        part, batch = plan.part(start, end, sequences), plan.batch.select(fresh)
        rows = np.empty((part.batch.total_tokens, scorer.width), np.float32)
        rows[: len(kept_rows)] = kept_rows
        report = None if progress is None else _shifted(progress, done, whole)
        engine.run(batch, (), scorer.width, report, rows[len(kept_rows) :])
        done += batch.total_tokens
        is_kept = np.isin(sequences, after)
        kept, kept_rows = sequences[is_kept], rows[part.batch.tokens_of(np.flatnonzero(is_kept))]
        yield part, rows
        del rows


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
