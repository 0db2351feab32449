"""Haystack: embedders of texts and documents and a ranker, for pipelines in Python or YAML."""

import asyncio
from dataclasses import replace
from typing import Any

from polyrank._extras import require

require("haystack", purpose="polyrank.integrations.haystack")

from haystack import Document, component
from haystack.core import serialization

from polyrank.inference.embedder import Embedder
from polyrank.inference.reranker import Reranker
from polyrank.tasks.rerank import check_top_n
from polyrank.types import InputType

if hasattr(serialization, "allow_deserialization_module"):
    # from 3.0 on YAML names only modules that are allowed; who imports this one allows it
    serialization.allow_deserialization_module(__name__)


class _EmbedderComponent:
    def __init__(self, model: str | None = None) -> None:
        """Keep a local folder or Hub id, loaded at warm-up; None takes the default model."""
        self.model = model
        self._embedder: Embedder | None = None

    def warm_up(self) -> None:
        """Load the model."""
        self._embedder = self._embedder or Embedder(self.model)

    def _encode(self, texts: list[str], input_type: InputType) -> list[list[float]]:
        self.warm_up()
        assert self._embedder is not None
        return list(self._embedder.encode(texts, input_type=input_type).tolist())


@component
class PolyrankTextEmbedder(_EmbedderComponent):
    """The vector of a question."""

    @component.output_types(embedding=list[float])
    def run(self, text: str) -> dict[str, Any]:
        """Return ``{"embedding": …}``."""
        return {"embedding": self._encode([text], "query")[0]}

    @component.output_types(embedding=list[float])
    async def run_async(self, text: str) -> dict[str, Any]:
        """Return what `run` does, from a thread."""
        return await asyncio.to_thread(self.run, text)


@component
class PolyrankDocumentEmbedder(_EmbedderComponent):
    """Copies of documents with their vectors."""

    @component.output_types(documents=list[Document])
    def run(self, documents: list[Document]) -> dict[str, Any]:
        """Return ``{"documents": …}``, of documents without text as of empty ones."""
        vectors = self._encode([document.content or "" for document in documents], "document")
        pairs = zip(documents, vectors, strict=True)
        return {"documents": [replace(document, embedding=vector) for document, vector in pairs]}

    @component.output_types(documents=list[Document])
    async def run_async(self, documents: list[Document]) -> dict[str, Any]:
        """Return what `run` does, from a thread."""
        return await asyncio.to_thread(self.run, documents)


@component
class PolyrankRanker:
    """Copies of the best documents with their scores, best first."""

    def __init__(self, model: str | None = None, top_k: int | None = 10) -> None:
        """Keep a local folder or Hub id, loaded at warm-up; None takes the default model."""
        self.model, self.top_k = model, check_top_n(top_k)
        self._reranker: Reranker | None = None

    def warm_up(self) -> None:
        """Load the model."""
        self._reranker = self._reranker or Reranker(self.model)

    @component.output_types(documents=list[Document])
    def run(
        self, query: str, documents: list[Document], top_k: int | None = None
    ) -> dict[str, Any]:
        """Return ``{"documents": …}``, at most `top_k`."""
        self.warm_up()
        assert self._reranker is not None
        texts = [document.content or "" for document in documents]
        hits = self._reranker.rank(query, texts, top_n=top_k or self.top_k)
        return {"documents": [replace(documents[hit.index], score=hit.score) for hit in hits]}

    @component.output_types(documents=list[Document])
    async def run_async(
        self, query: str, documents: list[Document], top_k: int | None = None
    ) -> dict[str, Any]:
        """Return what `run` does, from a thread."""
        return await asyncio.to_thread(self.run, query, documents, top_k)
