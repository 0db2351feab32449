"""What a model computes for texts: sequences to run, and results out of their rows.

A `Computation` is a task of one model under one window. It is pure. The library runs its sequences
and waits (`run`); the server hands them to the scheduler and awaits them. Both plan and finish
here, so that they give the same bits. Knows nothing of HTTP.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from polyrank.checkpoint.reader import Checkpoint
from polyrank.config import TruncationConfig
from polyrank.engine.engine import Engine
from polyrank.errors import InputError
from polyrank.inference.pair_runs import pair_logits
from polyrank.progress import Progress
from polyrank.tasks.choose import pair_scorer
from polyrank.tasks.heads import Head
from polyrank.tasks.kept_rows import AS_READ, RowFormat
from polyrank.tasks.scoring import PairPlan, PairScorer
from polyrank.text.pairs import SequenceBuilder
from polyrank.text.token_cache import TokenCache
from polyrank.text.tokenizer import Tokenizer
from polyrank.types import Float32Array, Int32Array, PackedBatch, PoolingMode, Side, TaskName

MOST_SCORERS = 64  # kept of a model: one for each window that requests ask for

Item = str | tuple[str, str]


@dataclass(frozen=True, slots=True)
class Window:
    """How much of texts is read.

    Attributes:
        truncation: What is cut, and how much is left.
        side: Where single texts and documents are cut: at their end, or at their start.
        max_characters: Of a text that has to be tokenised whole; None sets no bound.
    """

    truncation: TruncationConfig = field(default_factory=TruncationConfig)
    side: Side = "right"
    max_characters: int | None = None

    @property
    def key(self) -> str:
        """What of it changes the tokens that are read, as a part of keys."""
        cut = self.truncation
        return f"{self.side}:{cut.max_length or ''}:{cut.strategy}:{cut.max_query_length or ''}"


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

    def grouped(self, starts: NDArray[np.intp], is_cut: NDArray[np.bool_], plan: Any) -> "Prepared":
        """Return the same sequences as those of fewer items, each read in several of these.

        Args:
            starts: Where the parts of each item begin, and the end of the last, shape
                (num_items + 1,); an item has one part or more.
            is_cut: Whether something of an item is in no part, shape (num_items,).
            plan: What the computation of the items needs to finish.

        Returns:
            The items, ready to run; a query counts once for all parts of its document.
        """
        first, queries = starts[:-1], self.num_query_tokens
        return Prepared(
            self.batch,
            np.logical_or.reduceat(self.is_truncated, first) | is_cut,
            np.add.reduceat(self.num_tokens, first).astype(np.int32),
            None if queries is None else queries[first],
            plan,
        )


class Computation(Protocol):
    """A task of one model under one window."""

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

    @property
    def longest(self) -> int:
        """Tokens that are read of one item, at most."""
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
    builder: SequenceBuilder
    scorer: PairScorer
    settings: str

    @property
    def head(self) -> Head:
        """The head that gives the logits."""
        return self.scorer.head

    @property
    def num_values(self) -> int:
        """Logits of a pair; one where vectors are compared."""
        return self.head.out_features if self.head.spec.labels else 1

    @property
    def pooling(self) -> tuple[PoolingMode, ...]:
        """Pooling modes of the scorer; empty where it compares token rows."""
        return self.scorer.pooling

    @property
    def width(self) -> int:
        """Values in a row."""
        return self.scorer.width

    @property
    def longest(self) -> int:
        """Tokens that are read of one item, at most."""
        return self.builder.max_length

    def prepare(self, items: Sequence[Item]) -> Prepared:
        """Return what the scorer runs."""
        plan = self.scorer.prepare([as_pair(item) for item in items])
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

    @property
    def longest(self) -> int:
        """Tokens that are read of one item, at most."""
        return self.builder.max_length

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

    @property
    def longest(self) -> int:
        """Tokens that are read of one item, at most."""
        return self.builder.max_length

    def prepare(self, items: Sequence[Item]) -> Prepared:
        """Return one sequence per text."""
        return _sequences(self.builder, items)

    def finish(self, prepared: Prepared, rows: list[Float32Array]) -> list[Float32Array]:
        """Return the rows as they are."""
        return rows


class Computations:
    """The computations of one model: heads are loaded, and scorers made, once. Safe for threads."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        tokenizer: Tokenizer,
        engine: Callable[[], Engine],
        row_format: RowFormat = AS_READ,
        token_cache: TokenCache | None = None,
    ) -> None:
        """Take a model's parts.

        Args:
            checkpoint: Specification and weights.
            tokenizer: The checkpoint's.
            engine: Gives the engine; called when heads are known to be sound.
            row_format: How small rankings make documents' rows; labels are always given by rows
                as they were read.
            token_cache: Where ids of texts are kept; None keeps none.
        """
        self._checkpoint = checkpoint
        self._tokenizer = tokenizer
        self._engine = engine
        self._row_format = row_format
        self._token_cache = token_cache
        self._heads: dict[TaskName, Head] = {}
        self._made: dict[tuple[str, TaskName, Window], ScorePairs | RunHead] = {}
        self._lock = threading.Lock()

    def head(self, task: TaskName) -> Head:
        """Return the head of a task, loaded when first asked for.

        Args:
            task: What is to be done.

        Returns:
            The head.

        Raises:
            CapabilityError: If the checkpoint has none.
        """
        with self._lock:
            if task not in self._heads:
                spec = self._checkpoint.spec.head(task)
                self._heads[task] = Head.load(self._checkpoint, spec)
            return self._heads[task]

    def builder(self, window: Window) -> SequenceBuilder:
        """Return what makes sequences of texts within a window."""
        spec = self._checkpoint.spec
        return SequenceBuilder(
            self._tokenizer,
            window.truncation,
            model_limit=spec.max_length,
            has_segments=spec.body.type_vocab_size > 1,
            side=window.side,
            max_characters=window.max_characters,
            token_cache=self._token_cache,
        )

    def ranking(self, window: Window) -> "ScorePairs":
        """Return what scores pairs: a cross-encoder, late interaction, or cosines of vectors.

        Args:
            window: How much is read.

        Returns:
            The computation.

        Raises:
            CapabilityError: If the checkpoint can neither score pairs nor make vectors.
        """
        heads = self._checkpoint.spec.heads
        is_embedder = "embed" in heads and "rerank" not in heads
        return self.pairs("embed" if is_embedder else "rerank", window)

    def pairs(self, task: TaskName, window: Window) -> "ScorePairs":
        """Return what scores pairs by the head of one task.

        Args:
            task: Whose head.
            window: How much is read.

        Returns:
            The computation.

        Raises:
            CapabilityError: If the checkpoint has no such head.
        """
        made = self._once("pairs", task, window, lambda: self._make_pairs(task, window))
        assert isinstance(made, ScorePairs)
        return made

    def labels(self, task: TaskName, window: Window) -> "ScorePairs | RunHead":
        """Return what labels texts or pairs by the head of one task.

        Args:
            task: Whose head.
            window: How much is read.

        Returns:
            The computation.

        Raises:
            CapabilityError: If the checkpoint has no such head.
        """
        if self.head(task).late_interaction is not None:
            return self.pairs(task, window)
        return self._once("head", task, window, lambda: self._make_head(task, window))

    def vectors(self, window: Window) -> "RunHead":
        """Return what makes vectors.

        Args:
            window: How much is read.

        Returns:
            The computation.

        Raises:
            CapabilityError: If the checkpoint makes none.
        """
        made = self._once("head", "embed", window, lambda: self._make_head("embed", window))
        assert isinstance(made, RunHead)
        return made

    def token_rows(self, window: Window) -> "TokenRows":
        """Return what makes one row for each token.

        Args:
            window: How much is read.

        Returns:
            The computation.

        Raises:
            CapabilityError: If the checkpoint is not an embedder.
        """
        self.head("embed")
        hidden_size = self._checkpoint.spec.body.hidden_size
        return TokenRows(self._engine(), self.builder(window), hidden_size, f"rows:{window.key}")

    def _once(
        self, kind: str, task: TaskName, window: Window, make: Callable[[], "ScorePairs | RunHead"]
    ) -> "ScorePairs | RunHead":
        key = (kind, task, window)
        made = self._made.get(key) or make()  # made twice by two threads, they are alike
        with self._lock:
            self._made[key] = made
            if len(self._made) > MOST_SCORERS:
                del self._made[next(iter(self._made))]
        return made

    def _make_pairs(self, task: TaskName, window: Window) -> "ScorePairs":
        heads = {task: self.head(task)}
        if heads[task].late_interaction is not None:
            heads["embed"] = self.head("embed")
        builder = self.builder(window)
        row_format = self._row_format if task == "rerank" else AS_READ
        scorer = pair_scorer(heads, builder, self._checkpoint.spec.prompts, row_format)
        settings = f"{task}-pairs:{window.key}"
        if not row_format.is_plain:
            settings += f":{row_format.key}"
        return ScorePairs(self._engine(), builder, scorer, settings)

    def _make_head(self, task: TaskName, window: Window) -> "RunHead":
        head = self.head(task)
        return RunHead(self._engine(), self.builder(window), head, f"{task}-head:{window.key}")


def run(
    computation: ScorePairs | RunHead, items: Sequence[Item], progress: Progress | None = None
) -> tuple[Prepared, Float32Array]:
    """Run a computation and wait for it.

    Args:
        computation: What to compute.
        items: Texts or pairs that were checked. Any number.
        progress: Called with tokens done and tokens in all.

    Returns:
        What was read, and one result for each item: logits, or vectors as the head gives them.

    Raises:
        EncoderError: If the encoder fails.
    """
    prepared = computation.prepare(items)
    if isinstance(computation, ScorePairs):
        return prepared, pair_logits(
            computation.engine, computation.scorer, prepared.plan, progress
        )
    rows = computation.engine.run(prepared.batch, computation.pooling, computation.width, progress)
    return prepared, computation.head(rows)


def as_pair(item: Item) -> tuple[str, str]:
    """Return an item that must be a pair.

    Args:
        item: A pair, or a text.

    Returns:
        The pair.

    Raises:
        InputError: If it is a text.
    """
    if isinstance(item, str):
        raise InputError(
            "inputs must be pairs of texts, such as (query, passage): this model labels pairs of "
            "texts, since its head compares the tokens of two"
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
        builder.pairs([as_pair(item) for item in items])
        if pairs
        else builder.texts([item for item in items if isinstance(item, str)])
    )
    return Prepared(made.batch, made.is_truncated, made.batch.lengths)


def _mixed(
    builder: SequenceBuilder, items: Sequence[Item], texts: list[int], pairs: list[int]
) -> Prepared:
    parts = [_sequences(builder, [items[i] for i in group]) for group in (texts, pairs)]
    back = np.argsort(np.array(texts + pairs))
    batch = PackedBatch.join([part.batch for part in parts]).select(back)
    is_truncated = np.concatenate([part.is_truncated for part in parts])[back]
    return Prepared(batch, is_truncated, batch.lengths)
