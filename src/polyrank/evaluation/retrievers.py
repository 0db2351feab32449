"""First stages: searches over a whole corpus that hand their best documents to a reranker.

Indexing, reading queries and searching are apart, so that a set in many languages is read once
for each language, however many pairs of languages are measured.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from polyrank.errors import EncoderError
from polyrank.types import Float32Array, InputType

QueriesT = TypeVar("QueriesT")
IndexT = TypeVar("IndexT")

Advance = Callable[[int], None]
"""Called with the number of texts or queries done since the last call."""

_ENCODE_BLOCK = 1024  # texts between two reports of progress
_SCORES_PER_BLOCK = 1 << 24  # 64 MiB of float32
_ROUNDING = np.float32(1e-5)  # more than a matrix product of these lengths is off, relatively


@dataclass(frozen=True, slots=True)
class Candidates:
    """The documents found for one query, best first; equal scores in corpus order.

    Attributes:
        doc_indices: Positions in the corpus, shape (num_found,), num_found at most top_k.
        scores: Score of each, shape (num_found,), descending.
    """

    doc_indices: NDArray[np.intp]
    scores: Float32Array


class Retriever(Protocol[QueriesT, IndexT]):
    """A search over a whole corpus.

    `advance` is called with the number of texts read since the last call.
    """

    def index_documents(self, documents: Sequence[str], advance: Advance) -> IndexT:
        """Return an index of documents, whatever form it takes."""
        ...

    def read_queries(self, queries: Sequence[str], advance: Advance) -> QueriesT:
        """Return queries in the form that `search` takes."""
        ...

    def search(
        self, queries: QueriesT, rows: NDArray[np.intp], index: IndexT, top_k: int
    ) -> list[Candidates]:
        """Return the best documents of the queries at `rows`, in that order."""
        ...


class EmbedderLike(Protocol):
    """Anything that turns texts into vectors, as `polyrank.Embedder` does."""

    def encode(self, texts: Sequence[str], *, input_type: InputType) -> Float32Array:
        """Return one row of unit length for each text, shape (num_texts, dim)."""
        ...


class EmbeddingRetriever:
    """Exact nearest neighbours by inner product of an embedding model's vectors."""

    def __init__(self, embedder: EmbedderLike) -> None:
        self._embedder = embedder

    def index_documents(self, documents: Sequence[str], advance: Advance) -> Float32Array:
        """Return the documents' vectors.

        Args:
            documents: Texts of the corpus.
            advance: Called as texts are done.

        Returns:
            Shape (num_documents, dim).

        Raises:
            EncoderError: If the encoder gives another number of rows, or values that are not
                finite.
        """
        return self._encode(documents, "document", advance)

    def read_queries(self, queries: Sequence[str], advance: Advance) -> Float32Array:
        """Return the queries' vectors.

        Args:
            queries: Texts of the queries.
            advance: Called as texts are done.

        Returns:
            Shape (num_queries, dim).

        Raises:
            EncoderError: If the encoder gives another number of rows, or values that are not
                finite.
        """
        return self._encode(queries, "query", advance)

    def search(
        self, queries: Float32Array, rows: NDArray[np.intp], index: Float32Array, top_k: int
    ) -> list[Candidates]:
        """Return the nearest documents of some queries; equal scores in corpus order.

        A matrix product finds the documents that could be among the best, and each of those is
        scored again alone, because the product rounds a row by where it stands: two equal
        documents would come out a hair apart.

        Args:
            queries: Vectors, shape (num_queries, dim).
            rows: The queries to search for, shape (num_rows,).
            index: Vectors of the documents, shape (num_documents, dim).
            top_k: Documents to return for each query.

        Returns:
            One entry for each row.
        """
        block = max(1, _SCORES_PER_BLOCK // max(1, len(index)))
        found: list[Candidates] = []
        for start in range(0, len(rows), block):
            vectors = queries[rows[start : start + block]]
            for vector, scores in zip(vectors, vectors @ index.T, strict=True):
                found.append(_rescore(vector, scores, index, top_k))
        return found

    def _encode(self, texts: Sequence[str], kind: InputType, advance: Advance) -> Float32Array:
        blocks: list[Float32Array] = []
        for start in range(0, len(texts), _ENCODE_BLOCK):
            block = list(texts[start : start + _ENCODE_BLOCK])
            rows = np.asarray(self._embedder.encode(block, input_type=kind), np.float32)
            if rows.ndim != 2 or len(rows) != len(block) or not np.isfinite(rows).all():
                raise EncoderError(
                    f"the embedder gave an array of shape {rows.shape} for {len(block)} texts, "
                    "or values that are not finite; a first stage needs one finite row a text."
                )
            blocks.append(rows)
            advance(len(block))
        return np.concatenate(blocks)


def _rescore(
    vector: Float32Array, scores: Float32Array, index: Float32Array, top_k: int
) -> Candidates:
    floor = np.float32(-np.inf)
    if top_k < len(scores):
        floor = np.partition(scores, -top_k)[-top_k] - _ROUNDING * np.abs(scores).max()
    possible = np.flatnonzero(scores >= floor)
    exact = (index[possible] * vector).sum(axis=1, dtype=np.float64).astype(np.float32)
    best = select_top_k(exact, top_k)
    return Candidates(possible[best], exact[best])


def select_top_k(scores: Float32Array, top_k: int) -> NDArray[np.intp]:
    """Return the positions of the highest scores, best first, equal scores by position.

    Args:
        scores: Shape (num_documents,).
        top_k: How many to return.

    Returns:
        Shape (min(top_k, num_documents),).
    """
    if top_k < len(scores):
        threshold = np.partition(scores, -top_k)[-top_k]
        above = np.flatnonzero(scores > threshold)
        level = np.flatnonzero(scores == threshold)[: top_k - len(above)]
        kept = np.sort(np.concatenate([above, level]))
    else:
        kept = np.arange(len(scores))
    return kept[np.argsort(-scores[kept], kind="stable")]
