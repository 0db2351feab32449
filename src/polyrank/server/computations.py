"""What a served model computes for texts: sequences to run, and results out of pooled rows.

A `Computation` is a task of one model under one request's settings. It is pure: the service hands
its sequences to the scheduler and its rows back. Knows nothing of HTTP.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from polyrank.engine.engine import Engine
from polyrank.engine.scheduler import join_batches
from polyrank.errors import InputError
from polyrank.tasks.heads import Head
from polyrank.tasks.scoring import PairPlan, PairScorer
from polyrank.text.pairs import SequenceBuilder
from polyrank.types import Float32Array, Int32Array, PackedBatch, PoolingMode

Item = str | tuple[str, str]


@dataclass(frozen=True, slots=True)
class Prepared:
    """Some items, ready to run.

    Attributes:
        batch: Their sequences.
        is_truncated: Whether an item lost tokens, shape (num_items,).
        num_tokens: Tokens that an item alone stands for, shape (num_items,).
        num_query_tokens: Beside them, tokens of a pair's first text that run once for all pairs
            with that text, shape (num_items,); None where a pair is read at once.
        plan: What the computation needs to finish.
    """

    batch: PackedBatch
    is_truncated: NDArray[np.bool_]
    num_tokens: Int32Array
    num_query_tokens: Int32Array | None = None
    plan: Any = None


class Computation(Protocol):
    """A task of one model under one request's settings."""

    @property
    def settings(self) -> str:
        """All that changes an item's result, the model and the item itself left out."""
        ...

    @property
    def engine(self) -> Engine:
        """What runs the sequences."""
        ...

    @property
    def pooling(self) -> tuple[PoolingMode, ...]:
        """Pooling modes; empty for token rows."""
        ...

    @property
    def width(self) -> int:
        """Values in a row."""
        ...

    @property
    def num_values(self) -> int:
        """Values in a result row."""
        ...

    def prepare(self, items: Sequence[Item]) -> Prepared:
        """Return the sequences of some items."""
        ...

    def finish(self, prepared: Prepared, rows: list[Float32Array]) -> list[Float32Array]:
        """Return one result per item from the row of each sequence, or its rows."""
        ...


@dataclass(frozen=True, slots=True)
class ScorePairs:
    """Logits of (query, document) pairs, shape (num_outputs,) each."""

    engine: Engine
    scorer: PairScorer
    settings: str
    num_values: int = 1

    @property
    def pooling(self) -> tuple[PoolingMode, ...]:
        """Pooling modes of the scorer; empty where it compares token rows."""
        return self.scorer.pooling

    @property
    def width(self) -> int:
        """Values in a row."""
        return self.scorer.width

    def prepare(self, items: Sequence[Item]) -> Prepared:
        """Return what the scorer runs."""
        plan = self.scorer.prepare([_pair(item) for item in items])
        lengths = plan.batch.lengths[plan.members]
        # of more than one sequence, the last two are the query's and the document's
        queries = lengths[:, -2] if lengths.shape[1] > 1 else None
        whole = lengths.sum(axis=1, dtype=np.int32)
        num_tokens = whole if queries is None else whole - queries
        return Prepared(plan.batch, plan.is_truncated, num_tokens, queries, plan)

    def finish(self, prepared: Prepared, rows: list[Float32Array]) -> list[Float32Array]:
        """Return the logits of each pair."""
        plan: PairPlan = prepared.plan
        together = _stack(rows, self.width) if self.pooling else np.concatenate(rows)
        return list(self.scorer.logits(plan, together))


@dataclass(frozen=True, slots=True)
class RunHead:
    """A head's outputs for texts or pairs: logits of labels, or vectors."""

    engine: Engine
    builder: SequenceBuilder
    head: Head
    settings: str

    @property
    def pooling(self) -> tuple[PoolingMode, ...]:
        """Pooling modes of the head."""
        return self.head.spec.pooling

    @property
    def width(self) -> int:
        """Values in a pooled row."""
        return self.head.in_features

    @property
    def num_values(self) -> int:
        """Outputs of the head."""
        return self.head.out_features

    def prepare(self, items: Sequence[Item]) -> Prepared:
        """Return one sequence per item; texts and pairs may be mixed."""
        return _sequences(self.builder, items)

    def finish(self, prepared: Prepared, rows: list[Float32Array]) -> list[Float32Array]:
        """Return the head's result of each row, before the activation."""
        return list(self.head(_stack(rows, self.width)))


@dataclass(frozen=True, slots=True)
class TokenRows:
    """The body's row of every token, shape (seq_len, hidden_size) for each text."""

    engine: Engine
    builder: SequenceBuilder
    width: int
    settings: str
    pooling: tuple[PoolingMode, ...] = ()

    @property
    def num_values(self) -> int:
        """Values in a token's row."""
        return self.width

    def prepare(self, items: Sequence[Item]) -> Prepared:
        """Return one sequence per text."""
        return _sequences(self.builder, items)

    def finish(self, prepared: Prepared, rows: list[Float32Array]) -> list[Float32Array]:
        """Return the rows as they are."""
        return rows


def _pair(item: Item) -> tuple[str, str]:
    if isinstance(item, str):
        raise InputError(
            "this model labels pairs of texts, such as a query and a passage: its head compares "
            "the tokens of two. Give each input as a pair."
        )
    return item


def _stack(rows: list[Float32Array], width: int) -> Float32Array:
    return np.stack(rows) if rows else np.empty((0, width), np.float32)


def _sequences(builder: SequenceBuilder, items: Sequence[Item]) -> Prepared:
    texts = [i for i, item in enumerate(items) if isinstance(item, str)]
    pairs = [i for i, item in enumerate(items) if not isinstance(item, str)]
    if texts and pairs:
        return _mixed(builder, items, texts, pairs)
    made = (
        builder.pairs([_pair(item) for item in items])
        if pairs
        else builder.texts([item for item in items if isinstance(item, str)])
    )
    return Prepared(made.batch, made.is_truncated, made.batch.lengths)


def _mixed(
    builder: SequenceBuilder, items: Sequence[Item], texts: list[int], pairs: list[int]
) -> Prepared:
    parts = [_sequences(builder, [items[i] for i in group]) for group in (texts, pairs)]
    back = np.argsort(np.array(texts + pairs))
    batch = join_batches([part.batch for part in parts]).select(back)
    is_truncated = np.concatenate([part.is_truncated for part in parts])[back]
    return Prepared(batch, is_truncated, batch.lengths)
