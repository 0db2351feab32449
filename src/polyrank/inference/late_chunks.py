"""Late chunking: vectors of the chunks of one text, each read with those around it.

Consecutive chunks are read together, as many as the window holds, and each gets the mean of its own
tokens' rows. So a chunk that says "the city" is read with the one that names it.

Reference: Günther et al., arXiv:2409.04701 (late chunking).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from polyrank.engine.engine import Engine
from polyrank.errors import CapabilityError
from polyrank.inference.computations import Computations, Item, Prepared, TokenRows, Window
from polyrank.progress import Progress
from polyrank.tasks.heads import Head
from polyrank.text.tokenizer import Tokenizer
from polyrank.types import Float32Array, PoolingMode

_BETWEEN = " "


@dataclass(frozen=True, slots=True)
class ChunkWindow:
    """Chunks that are read together.

    Attributes:
        text: The prompt and the chunks, joined by blanks.
        ends: For each chunk the offset after its last character in `text`.
    """

    text: str
    ends: tuple[int, ...]


def windows_of(
    chunks: Sequence[str], tokenizer: Tokenizer, before: str, room: int
) -> list[ChunkWindow]:
    """Return the windows that consecutive chunks are read in.

    Args:
        chunks: The chunks of a text, in order.
        tokenizer: Counts tokens.
        before: The prompt that stands before each window.
        room: Tokens that a window holds, special ones not counted.

    Returns:
        Windows in order; a chunk that is longer than a window has one of its own.
    """
    first = tokenizer.count_prompt(before)
    windows: list[ChunkWindow] = []
    ends: list[int] = []
    text, size = before, first
    for chunk, ids in zip(chunks, tokenizer.encode(chunks), strict=True):
        if ends and size + len(ids) > room:
            windows.append(ChunkWindow(text, tuple(ends)))
            text, ends, size = before, [], first
        text += (_BETWEEN if ends else "") + chunk
        ends.append(len(text))
        size += len(ids)
    return [*windows, ChunkWindow(text, tuple(ends))] if ends else windows


@dataclass(frozen=True, slots=True)
class LateChunks:
    """Vectors of chunks that are read in windows; one item is one window's text.

    Attributes:
        rows: What makes a row for each token.
        head: The embed head, which must take the mean of token rows.
        windows: The windows, in the order of the items.
    """

    rows: TokenRows
    head: Head
    windows: Sequence[ChunkWindow]

    def __post_init__(self) -> None:
        if self.head.spec.pooling != ("mean",):
            raise CapabilityError(
                "late chunking needs a checkpoint that takes the mean over tokens; this one pools "
                f"by {', '.join(self.head.spec.pooling)}. Embed the chunks one by one."
            )

    @property
    def engine(self) -> Engine:
        """What runs the sequences."""
        return self.rows.engine

    @property
    def pooling(self) -> tuple[PoolingMode, ...]:
        """None: token rows are wanted."""
        return ()

    @property
    def width(self) -> int:
        """Values in a row."""
        return self.rows.width

    @property
    def num_values(self) -> int:
        """Values of a vector."""
        return self.head.out_features

    @property
    def settings(self) -> str:
        """All that changes a result."""
        return f"{self.rows.settings}:late"

    @property
    def longest(self) -> int:
        """Tokens that are read of one item, at most."""
        return self.rows.longest

    def prepare(self, items: Sequence[Item]) -> Prepared:
        """Return one sequence a window; items are the windows' own texts."""
        return replace(self.rows.prepare(items), plan=items)

    def finish(self, prepared: Prepared, rows: list[Float32Array]) -> list[Float32Array]:
        """Return the vectors of each window's chunks, as the head gives them.

        Args:
            prepared: What was run: of windows in their order, not all of them at once perhaps.
            rows: Token rows of each.

        Returns:
            For each window shape (num_chunks, dim).
        """
        # by identity: other chunks may join to the same text
        windows = {id(window.text): window for window in self.windows}
        return [
            self.head(self._means(windows[id(text)], own))
            for text, own in zip(prepared.plan, rows, strict=True)
        ]

    def _means(self, window: ChunkWindow, rows: Float32Array) -> Float32Array:
        tokenizer = self.rows.builder.tokenizer
        lead = len(tokenizer.single.parts[0])
        (tokens,) = tokenizer.tokens([window.text], is_special=False)
        stops = np.array([token.stop or 0 for token in tokens])[: len(rows) - lead]
        owners = np.searchsorted(np.array(window.ends), stops)  # a token ends within its chunk
        whole = rows.mean(axis=0)
        found = np.empty((len(window.ends), rows.shape[1]), np.float32)
        for i in range(len(window.ends)):
            own = rows[lead : lead + len(stops)][owners == i]
            found[i] = own.mean(axis=0) if len(own) else whole  # an empty chunk has no token
        return found


def late_chunks(
    computations: Computations, window: Window, chunks: Sequence[str], before: str
) -> LateChunks:
    """Return what makes the vectors of one text's chunks.

    Args:
        computations: Of a model.
        window: How much is read at once.
        chunks: The chunks, in order.
        before: The prompt before each window.

    Returns:
        The computation.

    Raises:
        CapabilityError: If the checkpoint makes no vectors, or not by the mean over tokens.
    """
    rows = computations.token_rows(window)
    tokenizer = rows.builder.tokenizer
    room = rows.builder.max_length - tokenizer.single.num_special_tokens
    windows = windows_of(chunks, tokenizer, before, room)
    return LateChunks(rows, computations.head("embed"), windows)


def run_chunks(
    computation: LateChunks, progress: Progress | None = None
) -> tuple[Prepared, Float32Array]:
    """Make the vectors of chunks and wait for them.

    Args:
        computation: What makes them.
        progress: Called with tokens done and tokens in all.

    Returns:
        What was read, and one vector a chunk as the head gives them, shape (num_chunks, dim).

    Raises:
        EncoderError: If the encoder fails.
    """
    prepared = computation.prepare([window.text for window in computation.windows])
    flat = computation.engine.run(prepared.batch, (), computation.width, progress)
    rows = np.split(flat, prepared.batch.cu_seqlens[1:-1])
    return prepared, np.concatenate(computation.finish(prepared, rows))
