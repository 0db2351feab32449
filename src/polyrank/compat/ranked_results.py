"""What the library rerankers calls results: documents with scores and places."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Document:
    """A text with its id and whatever else is known of it."""

    text: str
    doc_id: str | int | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Result:
    """A document with its score and its place, from 1; the document's fields are to be had too."""

    document: Document
    score: float
    rank: int

    def __getattr__(self, name: str) -> Any:
        if name in Document.__slots__:
            return getattr(self.document, name)
        if name in self.document.metadata:
            return self.document.metadata[name]
        raise AttributeError(f"a Result has no {name!r}")


@dataclass(slots=True)
class RankedResults:
    """Results, best first."""

    results: list[Result]
    query: str
    has_scores: bool = True

    def __iter__(self) -> Iterator[Result]:
        return iter(self.results)

    def __getitem__(self, index: Any) -> Any:
        return self.results[index]

    def results_count(self) -> int:
        """Return how many there are."""
        return len(self.results)

    def top_k(self, k: int) -> list[Result]:
        """Return the best."""
        return self.results[:k]

    def get_result_by_docid(self, doc_id: str | int) -> Result | None:
        """Return the result of a document."""
        return next((hit for hit in self.results if hit.document.doc_id == doc_id), None)

    def get_score_by_docid(self, doc_id: str | int) -> float | None:
        """Return the score of a document."""
        hit = self.get_result_by_docid(doc_id)
        return None if hit is None else hit.score
