"""The stages of a search: what finds candidates, and what orders them anew.

A source finds candidates of a query; a stage scores some of them. Both are protocols, so that any
model, store or index can take part; the ones here are polyrank's own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from polyrank._bounded import BoundedCache
from polyrank.config import check_whole
from polyrank.errors import EncoderError
from polyrank.types import Document, Float32Array, RankedDocument

if TYPE_CHECKING:
    from polyrank.inference.embedder import Embedder
    from polyrank.inference.reranker import Reranker
    from polyrank.search.pruning import Pruning

_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Candidate:
    """A document that may answer.

    Attributes:
        id: Its name, unique among the candidates of a query.
        text: Its text.
        document: As it was given or found.
        score: What the source gave it; None where there was no search.
        metadata: What a store keeps with it.
        vector: Its vector, where it is known.
    """

    id: str
    text: str
    document: Document
    score: float | None = None
    metadata: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    vector: Float32Array | None = None


class Source(Protocol):
    """Finds candidates of a query."""

    @property
    def name(self) -> str:
        """What the report calls it."""
        ...

    def find(self, query: str, at_most: int) -> list[Candidate]:
        """Return candidates, best first, each with a score."""
        ...


@dataclass(frozen=True, slots=True)
class StageScores:
    """What a stage found for some candidates.

    Attributes:
        order: What they are ordered by, shape (num_candidates,).
        scores: What users are shown, shape (num_candidates,).
        ranked: Results of a reranker, in the order of the candidates; empty for other stages.
    """

    order: NDArray[np.float64]
    scores: NDArray[np.float64]
    ranked: tuple[RankedDocument, ...] = ()


class Scorer(Protocol):
    """Scores candidates of a query."""

    def score(self, query: str, candidates: Sequence[Candidate]) -> StageScores:
        """Return scores of some candidates; those of each hang on no other."""
        ...


@dataclass(frozen=True, slots=True)
class Stage:
    """A model that orders the first candidates anew.

    Attributes:
        name: What the report calls it.
        scorer: The model.
        at_most: Candidates that it reads at most, best first; None for all that reach it.
        pruning: Which candidates are handed on to it, by the scores of the stage before; None
            hands on all.

    Raises:
        ConfigError: If a value is out of range.
    """

    name: str
    scorer: Scorer
    at_most: int | None = None
    pruning: "Pruning | None" = None

    def __post_init__(self) -> None:
        if self.at_most is not None:
            check_whole(f"{self.name}: at_most", self.at_most)


class RerankerScorer:
    """Late interaction, a cross-encoder, or whatever else a `Reranker` has loaded."""

    def __init__(self, reranker: "Reranker") -> None:
        self.reranker = reranker

    def score(self, query: str, candidates: Sequence[Candidate]) -> StageScores:
        """Return logits to order by, and scores."""
        ranked = self.reranker.rank(query, [candidate.text for candidate in candidates])
        by_place: list[RankedDocument] = sorted(ranked, key=lambda hit: hit.index)
        ranked_back = tuple(
            replace(hit, document=candidate.document)
            for hit, candidate in zip(by_place, candidates, strict=True)
        )
        return StageScores(
            np.array([hit.logit for hit in by_place], np.float64),
            np.array([hit.score for hit in by_place], np.float64),
            ranked_back,
        )


class VectorScorer:
    """Cosines of an embedder's vectors; those of documents are kept by text."""

    def __init__(self, embedder: "Embedder", *, cache_bytes: int = 1 << 26) -> None:
        """Set what embeds.

        Args:
            embedder: Makes vectors of unit length.
            cache_bytes: Most bytes of documents' vectors to keep; 0 keeps none.
        """
        self._embedder = embedder
        self._vectors: BoundedCache[str, Float32Array] = BoundedCache(cache_bytes)

    def score(self, query: str, candidates: Sequence[Candidate]) -> StageScores:
        """Return the cosine of the query and each candidate."""
        asked = self._embedder.encode([query], input_type="query")[0]
        vectors = self._vectors_of(candidates)
        # row by row, so that a score hangs on no other
        scores = np.einsum("nd,d->n", vectors, asked).astype(np.float64)
        return StageScores(scores, scores)

    def _vectors_of(self, candidates: Sequence[Candidate]) -> Float32Array:
        found = [
            each.vector if each.vector is not None else self._vectors.get(each.text)
            for each in candidates
        ]
        missing = list(
            dict.fromkeys(c.text for c, own in zip(candidates, found, strict=True) if own is None)
        )
        fresh: dict[str, Float32Array] = {}
        if missing:
            rows = self._embedder.encode(missing, input_type="document")
            fresh = dict(zip(missing, rows, strict=True))
            for text, vector in fresh.items():
                # a copy: a view would keep all rows of the call
                self._vectors.put(text, vector.copy(), vector.nbytes)
        parts = [
            fresh[candidate.text] if own is None else own
            for candidate, own in zip(candidates, found, strict=True)
        ]
        return np.stack(parts) if parts else np.empty((0, self._embedder.dimensions), np.float32)


class StoreSource:
    """The nearest entries of a `polyrank.stores.Store`, by vectors or by words."""

    def __init__(
        self, store: Any, embedder: "Embedder | None" = None, *, filter: Any = None
    ) -> None:
        """Set what is searched.

        Args:
            store: The store.
            embedder: Makes the query's vector; None searches by words, where the store can.
            filter: What entries have to fulfil, as `Store.query` takes it.
        """
        self._store, self._embedder, self._filter = store, embedder, filter
        self.name = "store" if embedder is not None else "store by words"

    def find(self, query: str, at_most: int) -> list[Candidate]:
        """Return the nearest entries, best first."""
        if self._embedder is None:
            found = self._store.query_text(query, at_most, filter=self._filter)
        else:
            vector = self._embedder.encode([query], input_type="query")[0]
            found = self._store.query(vector, at_most, filter=self._filter)
        return [
            Candidate(hit.id, hit.text, hit.text, float(hit.score), hit.metadata) for hit in found
        ]


class Bm25Source:
    """BM25 over documents in memory, by words of any language. Needs the extra `eval`."""

    name = "bm25"

    def __init__(self, documents: Mapping[str, str]) -> None:
        """Index documents.

        Args:
            documents: Text of each by its id.

        Raises:
            MissingExtraError: If bm25s is not installed.
        """
        from polyrank.evaluation import Bm25Retriever  # its first use checks for the extra

        self._ids, self._texts = list(documents), list(documents.values())
        self._retriever = Bm25Retriever()
        self._index = self._retriever.index_documents(self._texts, lambda count: None)

    def find(self, query: str, at_most: int) -> list[Candidate]:
        """Return the documents that share words with the query, best first."""
        words = self._retriever.read_queries([query], lambda count: None)
        found = self._retriever.search(words, np.array([0]), self._index, at_most)[0]
        return [
            Candidate(self._ids[i], self._texts[i], self._texts[i], float(score))
            for i, score in zip(found.doc_indices.tolist(), found.scores.tolist(), strict=True)
        ]


def check_scores(name: str, found: StageScores, number: int) -> None:
    """Raise unless a stage gave one finite number a candidate.

    Args:
        name: The stage, for the message.
        found: What it gave.
        number: Candidates that it was given.

    Raises:
        EncoderError: If it gave something else.
    """
    for values in (found.order, found.scores):
        if values.shape != (number,) or not np.isfinite(values).all():
            raise EncoderError(
                f"the stage {name} gave values of shape {values.shape} for {number} candidates, or "
                "values that are not finite; a stage gives one finite number a candidate"
            )
