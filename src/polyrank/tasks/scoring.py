"""Scoring of pairs as a pure function: texts to sequences, pooled rows to logits.

Three kinds of checkpoint score pairs: cross-encoders read both texts at once, embedders compare
two vectors, and heads of late interaction compare the token rows of texts that were read apart. All
are a `PairScorer`; the engine runs between `prepare` and `logits`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from polyrank.checkpoint.spec import PromptsSpec
from polyrank.tasks.heads import Head, normalize
from polyrank.text.pairs import SequenceBuilder
from polyrank.text.prompts import prompt_for_input_type
from polyrank.types import (
    Activation,
    Float32Array,
    Int32Array,
    PackedBatch,
    PoolingMode,
)

Pairs = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class PairPlan:
    """Sequences to run for some pairs, and how pairs map to them.

    Attributes:
        batch: The sequences.
        is_truncated: Whether a pair lost tokens, shape (num_pairs,), dtype bool.
        num_kept_tokens: Tokens kept of each pair's document, shape (num_pairs,).
        members: Sequences of each pair: shape (num_pairs, 1) for cross-encoders,
            (num_pairs, 2), query and document, where texts are read apart.
        prompt: What stands before each document among the kept tokens.
    """

    batch: PackedBatch
    is_truncated: NDArray[Any]
    num_kept_tokens: Int32Array
    members: NDArray[np.intp]
    prompt: str = ""

    def part(self, pairs: NDArray[np.intp], sequences: NDArray[np.intp]) -> "PairPlan":
        """Return the plan of some of the pairs, in the order named.

        Args:
            pairs: The pairs.
            sequences: The sequences of the new plan, in order: at least those of `sequences`.

        Returns:
            Their plan, for rows of those sequences alone.
        """
        places = np.empty(len(self.batch), np.intp)
        places[sequences] = np.arange(len(sequences))
        return replace(
            self,
            batch=self.batch.select(sequences),
            is_truncated=self.is_truncated[pairs],
            num_kept_tokens=self.num_kept_tokens[pairs],
            members=places[self.members[pairs]],
        )

    def sequences(self, pairs: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return the sequences that some of the pairs need, ascending."""
        return np.unique(self.members[pairs])


class PairScorer(Protocol):
    """From pairs of texts to one value each."""

    head: Head

    @property
    def pooling(self) -> tuple[PoolingMode, ...]:
        """How the engine must pool; empty for token rows."""
        ...

    @property
    def width(self) -> int:
        """Values of a row that the engine gives."""
        ...

    def prepare(self, pairs: Pairs) -> PairPlan:
        """Return what the engine must run."""
        ...

    def logits(self, plan: PairPlan, rows: Float32Array) -> Float32Array:
        """Return the raw outputs of each pair.

        Args:
            plan: What was run.
            rows: Of its sequences, shape (num_sequences, width); of its tokens, shape
                (total_tokens, width), where nothing is pooled.

        Returns:
            Shape (num_pairs, num_outputs).
        """
        ...

    def vectors(self, plan: PairPlan, rows: Float32Array) -> Float32Array:
        """Return one row a pair to compare encoders by, shape (num_pairs, any)."""
        ...

    def activate(self, logits: Float32Array, activation: Activation | None) -> Float32Array:
        """Return scores of logits, same shape."""
        ...


def cosines(vectors: Float32Array, members: NDArray[np.intp]) -> Float32Array:
    """Return the cosine of the two vectors of each pair.

    Args:
        vectors: Of any length, shape (num_vectors, dim).
        members: The two of each pair, shape (num_pairs, 2).

    Returns:
        Shape (num_pairs,), range -1 to 1.
    """
    units = normalize(vectors)
    products = np.einsum("nd,nd->n", units[members[:, 0]], units[members[:, 1]])
    return np.clip(products, -1, 1).astype(np.float32)


class _PooledScorer:
    """What scorers of pooled rows share."""

    head: Head

    @property
    def pooling(self) -> tuple[PoolingMode, ...]:
        """How the engine must pool."""
        return self.head.spec.pooling

    @property
    def width(self) -> int:
        """Values of a pooled row."""
        return self.head.in_features

    def vectors(self, plan: PairPlan, rows: Float32Array) -> Float32Array:
        """Return the pooled row of each pair or its query, shape (num_pairs, width)."""
        return rows[plan.members[:, 0]]


class CrossEncoderScorer(_PooledScorer):
    """Reads query and document together; a head gives the logits."""

    def __init__(self, builder: SequenceBuilder, head: Head) -> None:
        self.builder = builder
        self.head = head

    def prepare(self, pairs: Pairs) -> PairPlan:
        """Return one sequence per pair."""
        sequences = self.builder.pairs(pairs)
        members = np.arange(len(pairs))[:, None]
        return PairPlan(sequences.batch, sequences.is_truncated, sequences.num_kept_tokens, members)

    def logits(self, plan: PairPlan, rows: Float32Array) -> Float32Array:
        """Return the head's outputs, shape (num_pairs, num_labels)."""
        return self.head(rows)

    def activate(self, logits: Float32Array, activation: Activation | None) -> Float32Array:
        """Return the checkpoint's activation, or another, of the logits."""
        return self.head.activate(logits, activation)


class CosineScorer(_PooledScorer):
    """Compares the vectors of query and document; each different text is run once."""

    def __init__(self, builder: SequenceBuilder, head: Head, prompts: PromptsSpec) -> None:
        self.builder = builder
        self.head = head
        self.query_prompt = prompt_for_input_type(prompts, "query")
        self.document_prompt = prompt_for_input_type(prompts, "document")

    def prepare(self, pairs: Pairs) -> PairPlan:
        """Return one sequence per different query and document, prompts put before them."""
        prompted = [(self.query_prompt + q, self.document_prompt + d) for q, d in pairs]
        texts = list(dict.fromkeys(text for pair in prompted for text in pair))
        index = {text: i for i, text in enumerate(texts)}
        sequences = self.builder.texts(texts)
        members = np.array([[index[q], index[d]] for q, d in prompted], np.intp).reshape(-1, 2)
        return PairPlan(
            sequences.batch,
            np.any(sequences.is_truncated[members], axis=1),
            sequences.num_kept_tokens[members[:, 1]],
            members,
            self.document_prompt,
        )

    def logits(self, plan: PairPlan, rows: Float32Array) -> Float32Array:
        """Return the cosine of each pair's vectors, shape (num_pairs, 1), range -1 to 1."""
        return cosines(self.head(rows), plan.members)[:, None]

    def activate(self, logits: Float32Array, activation: Activation | None) -> Float32Array:
        """Return the cosines themselves unless another activation is asked for."""
        return self.head.activate(logits, activation or "identity")
