"""txtai: vectors with the checkpoint's prompts, and a similarity pipeline that reranks.

``Embeddings({"method": "polyrank.integrations.txtai.PolyrankVectors", "path": MODEL})``, where
"polyrank-small" is the default model.
"""

from collections.abc import Callable, Sequence
from typing import Any

from numpy.typing import NDArray

from polyrank._extras import require

require("txtai", purpose="polyrank.integrations.txtai")

from txtai.vectors import Vectors

from polyrank.checkpoint.hub import DEFAULT_MODEL
from polyrank.inference.embedder import Embedder
from polyrank.inference.reranker import Reranker
from polyrank.integrations.loading import ModelLike, as_embedder, as_reranker

Ranking = list[tuple[int, float]]


class PolyrankVectors(Vectors):
    """What txtai's ``"method"`` names: questions and data each get their own prompt."""

    def loadmodel(self, path: str | None) -> Embedder:
        """Load an embedder."""
        return Embedder(None if path == DEFAULT_MODEL else path)

    def encode(self, data: list[str], category: str | None = None) -> NDArray[Any]:
        """Return one vector a text; txtai calls questions "query"."""
        input_type = "query" if category == "query" else "document"
        vectors = self.model.encode(data, input_type=input_type)
        return vectors


def transform(model: ModelLike | Embedder = None) -> Callable[[Sequence[str]], NDArray[Any]]:
    """Return a function for txtai's ``"transform"``, which cannot tell questions from data."""
    embedder = as_embedder(model)
    return lambda texts: embedder.encode(texts)


class PolyrankSimilarity:
    """What txtai's `Reranker` and its applications take as ``similarity``."""

    def __init__(self, model: ModelLike | Reranker = None) -> None:
        """Load a reranker, or take one that is loaded."""
        self.reranker = as_reranker(model)

    def __call__(self, query: str | list[str], texts: Sequence[str]) -> Ranking | list[Ranking]:
        """Return (index, score) of all texts, best first; a list of them for several queries."""
        rankings = [
            [(hit.index, hit.score) for hit in self.reranker.rank(one, texts)]
            for one in ([query] if isinstance(query, str) else query)
        ]
        return rankings[0] if isinstance(query, str) else rankings
