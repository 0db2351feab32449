"""LangChain: `Embeddings`, a document compressor that reranks, and a cross-encoder.

Awaited calls run in LangChain's executor, and the native encoder runs outside Python's lock, so
that the event loop goes on.
"""

from collections.abc import Sequence
from typing import Any

from polyrank._extras import require

require("langchain", purpose="polyrank.integrations.langchain")

from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.embeddings import Embeddings
from pydantic import PrivateAttr

from polyrank.inference.embedder import Embedder
from polyrank.inference.reranker import Reranker
from polyrank.integrations.loading import ModelLike, as_embedder, as_reranker


class PolyrankEmbeddings(Embeddings):
    """Vectors of documents and questions, each with the checkpoint's own prompt."""

    def __init__(self, model: ModelLike | Embedder = None) -> None:
        """Load an embedder, or take one that is loaded."""
        self.embedder = as_embedder(model)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return one vector a text."""
        vectors: list[list[float]] = self.embedder.encode(texts, input_type="document").tolist()
        return vectors

    def embed_query(self, text: str) -> list[float]:
        """Return the vector of a question."""
        vector: list[float] = self.embedder.encode([text], input_type="query")[0].tolist()
        return vector


class PolyrankRerank(BaseDocumentCompressor):
    """Keeps the best of retrieved documents, with their scores as ``relevance_score``."""

    model: Any = None
    """Local folder, Hub id or a `Reranker`; None takes the default model."""
    top_n: int | None = 3
    """How many documents to keep; None keeps all."""
    _reranker: Reranker = PrivateAttr()

    def model_post_init(self, context: Any, /) -> None:
        """Load the reranker."""
        self._reranker = as_reranker(self.model)

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Any = None
    ) -> list[Document]:
        """Return copies of the best documents, best first."""
        texts = [document.page_content for document in documents]
        return [
            documents[hit.index].model_copy(
                update={"metadata": documents[hit.index].metadata | {"relevance_score": hit.score}}
            )
            for hit in self._reranker.rank(query, texts, top_n=self.top_n)
        ]


class PolyrankCrossEncoder(BaseCrossEncoder):
    """Scores of pairs, as LangChain's `CrossEncoderReranker` takes them."""

    def __init__(self, model: ModelLike | Reranker = None) -> None:
        """Load a reranker, or take one that is loaded."""
        self.reranker = as_reranker(model)

    def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        """Return one score a pair."""
        scores: list[float] = self.reranker.score(text_pairs).tolist()
        return scores
