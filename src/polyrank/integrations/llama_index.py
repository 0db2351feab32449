"""LlamaIndex: an embedding model, and a node postprocessor that reranks and tells of it."""

import asyncio
from typing import Any

from polyrank._extras import require

require("llama-index", purpose="polyrank.integrations.llama_index")

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.callbacks import CBEventType, EventPayload
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle

from polyrank.inference.embedder import Embedder
from polyrank.inference.reranker import Reranker
from polyrank.integrations.loading import ModelLike, as_embedder, as_reranker
from polyrank.types import InputType

_dispatcher = get_dispatcher(__name__)


class PolyrankEmbedding(BaseEmbedding):
    """Vectors of nodes and questions, each with the checkpoint's own prompt."""

    _embedder: Embedder = PrivateAttr()

    def __init__(self, model: ModelLike | Embedder = None, **settings: Any) -> None:
        """Load an embedder, or take one that is loaded; settings are those of `BaseEmbedding`."""
        embedder = as_embedder(model)
        super().__init__(**{"model_name": embedder.spec.name, "embed_batch_size": 256, **settings})
        self._embedder = embedder

    def _encode(self, texts: list[str], input_type: InputType) -> list[list[float]]:
        return list(self._embedder.encode(texts, input_type=input_type).tolist())

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._encode([query], "query")[0]

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self._encode(texts, "document")

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await asyncio.to_thread(self._get_query_embedding, query)

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return await asyncio.to_thread(self._get_text_embedding, text)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)


class PolyrankRerank(BaseNodePostprocessor):
    """Keeps the best of retrieved nodes; awaited calls run in a thread."""

    top_n: int = 2
    _reranker: Reranker = PrivateAttr()

    def __init__(self, model: ModelLike | Reranker = None, **settings: Any) -> None:
        """Load a reranker, or take one that is loaded; `top_n` says how many nodes to keep."""
        super().__init__(**settings)
        self._reranker = as_reranker(model)

    @classmethod
    def class_name(cls) -> str:
        """Return the name that LlamaIndex shows."""
        return "PolyrankRerank"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if query_bundle is None or not nodes:
            return nodes[: self.top_n]
        query = query_bundle.query_str
        texts = [node.node.get_content(MetadataMode.EMBED) for node in nodes]
        of = {"top_n": self.top_n, "model_name": self._reranker.spec.name}
        _dispatcher.event(ReRankStartEvent(query=query_bundle, nodes=nodes, **of))
        payload = {EventPayload.QUERY_STR: query, EventPayload.NODES: nodes}
        with self.callback_manager.event(CBEventType.RERANKING, payload=payload) as event:
            hits = self._reranker.rank(query, texts, top_n=self.top_n)
            best = [NodeWithScore(node=nodes[hit.index].node, score=hit.score) for hit in hits]
            event.on_end(payload={EventPayload.NODES: best})
        _dispatcher.event(ReRankEndEvent(nodes=best))
        return best
