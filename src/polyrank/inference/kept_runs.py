"""Scoring pairs by documents' rows made small, of which those that were kept need not run."""

from itertools import pairwise
from typing import TypeGuard

import numpy as np
from numpy.typing import NDArray

from polyrank.engine.engine import Engine
from polyrank.errors import CapabilityError
from polyrank.progress import Progress
from polyrank.tasks.kept_rows import KeepsRows, KeptRows, RowFormat, compare_joined
from polyrank.tasks.late_interaction import LateInteractionScorer
from polyrank.tasks.multi_vector import MultiVectorScorer
from polyrank.tasks.scoring import PairPlan, PairScorer
from polyrank.types import Float32Array, PackedBatch

# 25 MB of rows of 384 values, and as much for their clean form: few enough that glibc hands the
# same memory out again, where new pages would take longer than the arithmetic on them
PART_TOKENS = 16_384
_PART_DOCUMENTS = 4_096  # whose small rows are held at once: 160 MB of 40 KB

Sequences = NDArray[np.intp]


def compares_rows(
    scorer: PairScorer,
) -> TypeGuard[LateInteractionScorer | MultiVectorScorer]:
    """Return whether a scorer compares texts by their token rows."""
    return isinstance(scorer, LateInteractionScorer | MultiVectorScorer)


def keeps_small_rows(
    scorer: PairScorer,
) -> TypeGuard[LateInteractionScorer | MultiVectorScorer]:
    """Return whether a scorer compares documents by rows made small."""
    return compares_rows(scorer) and not scorer.row_format.is_plain


def check_row_format(scorer: PairScorer, row_format: RowFormat) -> None:
    """Raise unless a scorer can make documents' rows as small as a setting wants them.

    Args:
        scorer: What scores pairs.
        row_format: How small.

    Raises:
        CapabilityError: If it compares no rows, and they are to be made small.
    """
    if not row_format.is_plain and not compares_rows(scorer):
        raise CapabilityError(
            f"row_pooling is {row_format.pooling} and row_dtype {row_format.dtype}, but this "
            "checkpoint does not compare texts token by token, so it has no rows to make small. "
            "Leave both settings out, or take the default model or a ColBERT-like one."
        )


def row_format_notes(scorer: PairScorer) -> tuple[str, ...]:
    """Return how far scores depart from the checkpoint's for rows made small, in a sentence."""
    if not keeps_small_rows(scorer):
        return ()
    small = scorer.row_format
    joined = f"joined {small.pooling} to one on average" if small.pooling > 1 else ""
    rounded = "rounded to 8 bits" if small.dtype == "int8" else ""
    how = " and ".join(part for part in (joined, rounded) if part)
    return (f"Rows of documents are {how} before they are compared.",)


def kept_logits(
    engine: Engine,
    scorer: LateInteractionScorer | MultiVectorScorer,
    plan: PairPlan,
    progress: Progress | None = None,
) -> Float32Array:
    """Run what is not kept of some pairs and return their logits.

    Pairs come in the order of their documents, so many at once as have `_PART_DOCUMENTS`
    different ones. Queries always run.

    Args:
        engine: What runs the sequences, and where small rows are kept.
        scorer: What planned them.
        plan: The plan.
        progress: Called with tokens done and tokens in all.

    Returns:
        In the order of the plan, shape (num_pairs, num_outputs).

    Raises:
        EncoderError: If the encoder fails.
    """
    order = np.argsort(plan.members[:, 1], kind="stable")
    documents, places = np.unique(plan.members[order, 1], return_inverse=True)
    edges = range(_PART_DOCUMENTS, len(documents), _PART_DOCUMENTS)
    parts = np.split(order, np.searchsorted(places, edges))
    run = _Run(engine, scorer, plan.batch, progress)
    run.expect(plan, parts)
    logits = np.concatenate([run.logits(plan.members[pairs]) for pairs in parts])
    return logits[np.argsort(order)]


def joined_logits(
    engine: Engine,
    scorer: LateInteractionScorer | MultiVectorScorer,
    plan: PairPlan,
    starts: Sequences,
    progress: Progress | None = None,
) -> tuple[Float32Array, Float32Array]:
    """Run some pairs and return their logits, and those of groups of them.

    Groups come in parts of about `PART_TOKENS` tokens, or of one group: all rows of a group are
    held at once.

    Args:
        engine: What runs the sequences, and where small rows are kept.
        scorer: What planned them.
        plan: The plan.
        starts: Where the pairs of each group begin, and the end of the last, shape
            (num_groups + 1,); no group is empty, and its pairs share their query.
        progress: Called with tokens done and tokens in all.

    Returns:
        As `polyrank.tasks.kept_rows.compare_joined`.

    Raises:
        EncoderError: If the encoder fails.
    """
    sizes = np.add.reduceat(plan.batch.lengths[plan.members[:, 1]], starts[:-1])
    edges = [0, *(int(part[-1]) + 1 for part in _in_parts(sizes))]
    spans = [(starts[first], starts[last]) for first, last in pairwise(edges)]
    run = _Run(engine, scorer, plan.batch, progress)
    run.expect(plan, [np.arange(*span) for span in spans])
    parts = [
        run.joined(plan.members[slice(*span)], starts[first : last + 1] - starts[first])
        for span, (first, last) in zip(spans, pairwise(edges), strict=True)
    ]
    return np.concatenate([own for own, _ in parts]), np.concatenate([each for _, each in parts])


class _Run:
    """One call: what it runs, and how far it is."""

    def __init__(
        self, engine: Engine, scorer: KeepsRows, batch: PackedBatch, progress: Progress | None
    ) -> None:
        self._engine, self._scorer, self._batch = engine, scorer, batch
        self._progress = progress
        self._done = self._whole = 0

    def expect(self, plan: PairPlan, parts: list[Sequences]) -> None:
        lengths = plan.batch.lengths
        self._whole = int(lengths[np.unique(plan.members[:, 1])].sum())
        queries = [np.unique(plan.members[pairs, 0]) for pairs in parts]
        self._whole += sum(int(lengths[own].sum()) for own in queries)

    def logits(self, members: Sequences) -> Float32Array:
        sequences, second = np.unique(members[:, 1], return_inverse=True)
        documents = self._documents(sequences)
        queries, first = np.unique(members[:, 0], return_inverse=True)
        places = np.stack([first, second], axis=1)
        found: list[tuple[Sequences, Float32Array]] = []
        for part in _cut(self._batch, queries):
            pairs = np.flatnonzero((first >= part[0]) & (first <= part[-1]))
            own = places[pairs] - np.array([part[0], 0])
            batch = self._batch.select(queries[part])
            logits = self._scorer.kept_logits(batch, self._rows(batch), documents, own)
            found.append((pairs, logits))
        if not found:
            nothing = self._batch.select(np.empty(0, np.intp))
            rows = np.empty((0, self._width), np.float32)
            return self._scorer.kept_logits(nothing, rows, [], places)
        together = np.concatenate([own for _, own in found])
        return together[np.argsort(np.concatenate([pairs for pairs, _ in found]))]

    def joined(self, members: Sequences, starts: Sequences) -> tuple[Float32Array, Float32Array]:
        sequences, second = np.unique(members[:, 1], return_inverse=True)
        documents = self._documents(sequences)
        queries, first = np.unique(members[:, 0], return_inverse=True)
        batch = self._batch.select(queries)
        places = np.stack([first, second], axis=1)
        return compare_joined(self._scorer, batch, self._rows(batch), documents, places, starts)

    def _documents(self, sequences: Sequences) -> list[KeptRows]:
        cache = self._engine.small_rows
        batch = self._batch.select(sequences)
        kept: list[KeptRows | None] = [None] * len(batch) if cache is None else cache.find(batch)
        missing = np.array([i for i, own in enumerate(kept) if own is None], np.intp)
        self._report(batch.total_tokens - int(batch.lengths[missing].sum()))
        for part in _cut(batch, missing):
            fresh = batch.select(missing[part])
            made = self._scorer.keep(fresh, self._rows(fresh))
            if cache is not None:
                cache.keep(fresh, made)
            for i, own in zip(missing[part].tolist(), made, strict=True):
                kept[i] = own
        return [own for own in kept if own is not None]

    @property
    def _width(self) -> int:
        return self._scorer.width

    def _rows(self, batch: PackedBatch) -> Float32Array:
        rows = self._engine.run(batch, (), self._width)
        self._report(batch.total_tokens)
        return rows

    def _report(self, num_tokens: int) -> None:
        self._done += num_tokens
        if self._progress is not None and num_tokens:
            self._progress(self._done, self._whole)


def _cut(batch: PackedBatch, sequences: Sequences) -> list[Sequences]:
    """Return places of some sequences in parts of about `PART_TOKENS` tokens."""
    if not len(sequences):
        return []
    return _in_parts(batch.lengths[sequences])


def _in_parts(sizes: NDArray[np.int32]) -> list[Sequences]:
    """Return places of things of some tokens each, in parts of about `PART_TOKENS` tokens."""
    before = np.cumsum(sizes) - sizes
    edges = np.flatnonzero(np.diff(before // PART_TOKENS)) + 1
    return np.split(np.arange(len(sizes)), edges)
