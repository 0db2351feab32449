"""Vectors of texts of any length: the mean over windows, each weighted by its tokens.

For a checkpoint that takes the mean over tokens this is the mean over all tokens of the text, each
read with those of its own window. Texts that fit are read as without this module, to the bit.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from polyrank.engine.engine import Engine
from polyrank.errors import InputError
from polyrank.inference.computations import Item, Prepared, RunHead
from polyrank.progress import Progress
from polyrank.tasks.heads import Head
from polyrank.text.pairs import SequenceBuilder
from polyrank.text.passages import split_passages
from polyrank.types import Float32Array, PoolingMode

_LEAST_ROOM = 8  # tokens beside a prompt; with fewer a text is cut


@dataclass(frozen=True, slots=True)
class WindowPlan:
    """What windows some texts were made into.

    Attributes:
        inner: The windows, ready to run.
        starts: Where the windows of each text begin among them, shape (num_texts + 1,).
    """

    inner: Prepared
    starts: NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class WindowMeans:
    """Vectors of texts that may be longer than the window.

    Attributes:
        vectors: What makes the vector of a window.
        before: The prompt that stands before each text, and is put before each window.
        max_tokens: Tokens of a text that are read, from its start; None reads all.
    """

    vectors: RunHead
    before: str = ""
    max_tokens: int | None = None

    @property
    def engine(self) -> Engine:
        """What runs the sequences."""
        return self.vectors.engine

    @property
    def builder(self) -> SequenceBuilder:
        """What makes sequences."""
        return self.vectors.builder

    @property
    def head(self) -> Head:
        """The head that makes vectors."""
        return self.vectors.head

    @property
    def pooling(self) -> tuple[PoolingMode, ...]:
        """Pooling modes of the head."""
        return self.vectors.pooling

    @property
    def width(self) -> int:
        """Values in a pooled row."""
        return self.vectors.width

    @property
    def num_values(self) -> int:
        """Values of a vector."""
        return self.vectors.num_values

    @property
    def settings(self) -> str:
        """All that changes a text's vector."""
        return f"{self.vectors.settings}:mean:{len(self.before)}:{self.max_tokens or ''}"

    @property
    def longest(self) -> int:
        """Tokens that are read of one item, at most."""
        return self.max_tokens or self.vectors.longest

    def prepare(self, items: Sequence[Item]) -> Prepared:
        """Return the sequences of some texts, one a window where a text does not fit."""
        texts = [_text(item) for item in items]
        whole = self.vectors.prepare(texts)
        if not whole.is_truncated.any():
            return replace(whole, plan=WindowPlan(whole, np.arange(len(texts) + 1)))
        windows: list[str] = []
        starts, is_cut = [0], []
        for text, is_long in zip(texts, whole.is_truncated, strict=True):
            found, was_cut = self._windows(text) if is_long else ([text], False)
            windows += found
            starts.append(len(windows))
            is_cut.append(was_cut)
        inner = self.vectors.prepare(windows)
        plan = WindowPlan(inner, np.array(starts, np.intp))
        return inner.grouped(plan.starts, np.array(is_cut, bool), plan)

    def finish(self, prepared: Prepared, rows: list[Float32Array]) -> list[Float32Array]:
        """Return the vector of each text, as the head gives it."""
        plan: WindowPlan = prepared.plan
        made = self.vectors.finish(plan.inner, rows)
        return list(self.means(plan, np.stack(made))) if made else []

    def means(self, plan: WindowPlan, rows: Float32Array) -> Float32Array:
        """Return the vector of each text.

        Args:
            plan: What was run.
            rows: The head's vectors of the windows, shape (num_windows, dim).

        Returns:
            Shape (num_texts, dim); of a text in one window that window's, to the bit.
        """
        num_texts = len(plan.starts) - 1
        if num_texts == len(rows):
            return rows
        found = np.empty((num_texts, rows.shape[1]), np.float32)
        for i in range(num_texts):
            start, end = plan.starts[i], plan.starts[i + 1]
            own, sizes = rows[start:end], plan.inner.num_tokens[start:end]
            found[i] = own[0] if len(own) == 1 else np.average(own, axis=0, weights=sizes)
        return found

    def _windows(self, text: str) -> tuple[list[str], bool]:
        """Return the windows of a text that does not fit, and whether a cap left some of it out."""
        tokenizer, before = self.builder.tokenizer, self.before
        own = text[len(before) :]
        most = self.max_tokens
        end = len(own) if most is None else tokenizer.end_within(own, most)
        room = self.builder.max_length - tokenizer.single.num_special_tokens
        room -= tokenizer.count_prompt(before)
        if room < _LEAST_ROOM:
            return [text], False
        spans = split_passages(own[:end], tokenizer, max_tokens=room)
        return [before + own[span.start : span.end] for span in spans], end < len(own)


def run_vectors(
    computation: RunHead | WindowMeans, texts: Sequence[str], progress: Progress | None = None
) -> tuple[Prepared, Float32Array]:
    """Make vectors and wait for them.

    Args:
        computation: What makes them.
        texts: Texts that were checked, prompts before them. Any number.
        progress: Called with tokens done and tokens in all.

    Returns:
        What was read, and the vectors as the head gives them, shape (num_texts, dim).

    Raises:
        EncoderError: If the encoder fails.
    """
    prepared = computation.prepare(texts)
    rows = computation.engine.run(prepared.batch, computation.pooling, computation.width, progress)
    vectors = computation.head(rows)
    if isinstance(computation, WindowMeans):
        vectors = computation.means(prepared.plan, vectors)
    return prepared, vectors


def _text(item: Item) -> str:
    if isinstance(item, str):
        return item
    raise InputError(f"vectors are made of single texts, not of pairs: {item!r:.80}")
