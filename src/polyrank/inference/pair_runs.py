"""Running what a scorer of pairs has planned, in parts where token rows would fill the memory."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from polyrank.engine.engine import Engine
from polyrank.inference.kept_runs import PART_TOKENS, keeps_small_rows, kept_logits
from polyrank.progress import Progress
from polyrank.tasks.scoring import PairPlan, PairScorer
from polyrank.types import Float32Array

Pairs = NDArray[np.intp]


def pair_logits(
    engine: Engine, scorer: PairScorer, plan: PairPlan, progress: Progress | None = None
) -> Float32Array:
    """Run the sequences of some pairs and return their logits.

    Args:
        engine: What runs them.
        scorer: What planned them.
        plan: The plan.
        progress: Called with tokens done and tokens in all.

    Returns:
        In the order of the plan, shape (num_pairs, num_outputs).

    Raises:
        EncoderError: If the encoder fails.
    """
    if keeps_small_rows(scorer):
        return kept_logits(engine, scorer, plan, progress)
    parts = [
        (pairs, scorer.logits(part, rows))
        for pairs, part, rows in run_pairs(engine, scorer, plan, progress)
    ]
    return in_order(parts)


def in_order(parts: list[tuple[Pairs, Float32Array]]) -> Float32Array:
    """Return what was found for the pairs of each part as one array, in the order of the plan.

    Args:
        parts: Pairs as `run_pairs` names them, with a row for each.

    Returns:
        Shape (num_pairs, width of the rows).
    """
    rows = np.concatenate([found for _, found in parts])
    return rows[np.argsort(np.concatenate([pairs for pairs, _ in parts]))]


def run_pairs(
    engine: Engine, scorer: PairScorer, plan: PairPlan, progress: Progress | None = None
) -> Iterator[tuple[Pairs, PairPlan, Float32Array]]:
    """Run the sequences of some pairs.

    Pooled rows come at once. Token rows come in parts of so many pairs as have at most
    `PART_TOKENS` tokens, or of one pair. Sequences that the next part needs as well, as a ranking's
    query is, are kept; a text of which pairs stand far apart runs more than once, so that pairs
    are put in another order where fewer tokens run for it.

    Args:
        engine: What runs them.
        scorer: What planned them.
        plan: The plan.
        progress: Called with tokens done and tokens in all.

    Yields:
        Which pairs come next, their plan, and the rows of its sequences as `PairScorer.logits`
        takes them; at least once, even where there are no pairs.

    Raises:
        EncoderError: If the encoder fails.
    """
    if scorer.pooling:
        rows = engine.run(plan.batch, scorer.pooling, scorer.width, progress)
        yield np.arange(len(plan.members)), plan, rows
        return
    nothing = np.empty(0, np.intp)
    parts = _parts(plan)
    wanted = [plan.sequences(pairs) for pairs in parts]
    new = _new(wanted)
    whole, done = sum(int(plan.batch.lengths[fresh].sum()) for fresh in new), 0
    kept, kept_rows = nothing, np.empty((0, scorer.width), np.float32)
    for pairs, fresh, after in zip(parts, new, [*wanted[1:], nothing], strict=True):
        sequences = np.concatenate([kept, fresh])
        part, batch = plan.part(pairs, sequences), plan.batch.select(fresh)
        rows = np.empty((part.batch.total_tokens, scorer.width), np.float32)
        rows[: len(kept_rows)] = kept_rows
        report = None if progress is None else _shifted(progress, done, whole)
        engine.run(batch, (), scorer.width, report, rows[len(kept_rows) :])
        done += batch.total_tokens
        is_kept = np.isin(sequences, after)
        kept, kept_rows = sequences[is_kept], rows[part.batch.tokens_of(np.flatnonzero(is_kept))]
        yield pairs, part, rows
        del rows


def _shifted(progress: Progress, done: int, whole: int) -> Progress:
    return lambda count, _: progress(done + count, whole)


def _new(wanted: list[NDArray[np.intp]]) -> list[NDArray[np.intp]]:
    """Return the sequences of each part that the one before it did not have."""
    return [np.setdiff1d(own, last) for last, own in pairwise([np.empty(0, np.intp), *wanted])]


def _parts(plan: PairPlan) -> list[Pairs]:
    """Return the pairs of each part; one part where there is none.

    They are in the plan's order, or in that of their first or second texts, whichever runs the
    fewest tokens.
    """
    orders = [np.arange(len(plan.members))]
    orders += [np.argsort(texts, kind="stable") for texts in plan.members.T]
    lengths, least = plan.batch.lengths, plan.batch.total_tokens
    best: tuple[int, list[Pairs]] | None = None
    for order in orders:
        parts = _cut(plan, order)
        new = _new([plan.sequences(pairs) for pairs in parts])
        num_tokens = sum(int(lengths[fresh].sum()) for fresh in new)
        if best is None or num_tokens < best[0]:
            best = num_tokens, parts
        if num_tokens == least:
            break
    assert best is not None
    return best[1]


def _cut(plan: PairPlan, order: Pairs) -> list[Pairs]:
    """Cut pairs in some order into parts."""
    lengths = plan.batch.lengths.tolist()
    parts: list[Pairs] = []
    start, held, num_tokens = 0, set[int](), 0
    for at, members in enumerate(plan.members[order].tolist()):
        fresh = set(members) - held
        count = sum(lengths[sequence] for sequence in fresh)
        if at > start and num_tokens + count > PART_TOKENS:
            parts.append(order[start:at])
            start, held, num_tokens = at, set(), 0
            fresh = set(members)
            count = sum(lengths[sequence] for sequence in fresh)
        held |= fresh
        num_tokens += count
    return [*parts, order[start:]]
