"""DSPy: a retriever over passages in memory, and a reranker of passages."""

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np

from polyrank._extras import require

require("dspy", purpose="polyrank.integrations.dspy")

import dspy

from polyrank.inference.embedder import Embedder
from polyrank.inference.reranker import Reranker
from polyrank.integrations.loading import ModelLike, as_embedder, as_reranker
from polyrank.tasks.heads import normalize


class PolyrankReranker(dspy.Module):
    """Keeps the best of passages: `forward` gives passages, indices and scores."""

    def __init__(self, model: ModelLike | Reranker = None, k: int = 3) -> None:
        """Load a reranker, or take one that is loaded; keep `k` passages."""
        super().__init__()
        self._reranker, self.k = as_reranker(model), k

    def forward(self, query: str, passages: Sequence[str], k: int | None = None) -> Any:
        """Return the best passages, best first."""
        hits = self._reranker.rank(query, passages, top_n=k or self.k)
        return dspy.Prediction(
            passages=[hit.document for hit in hits],
            indices=[hit.index for hit in hits],
            scores=[hit.score for hit in hits],
        )

    async def aforward(self, query: str, passages: Sequence[str], k: int | None = None) -> Any:
        """Return what `forward` does, from a thread."""
        return await asyncio.to_thread(self.forward, query, passages, k)


class PolyrankRetriever(dspy.Module):
    """Finds passages by their vectors, and reranks ten times as many as it gives if asked to."""

    def __init__(
        self,
        corpus: Sequence[str],
        model: ModelLike | Embedder = None,
        k: int = 3,
        reranker: PolyrankReranker | None = None,
    ) -> None:
        """Encode a corpus."""
        super().__init__()
        self._embedder, self._corpus = as_embedder(model), list(corpus)
        self.k, self._reranker = k, reranker
        self._vectors = normalize(self._embedder.encode(self._corpus, input_type="document"))

    def forward(self, query: str, k: int | None = None) -> Any:
        """Return the best passages, best first, with indices and scores."""
        count = k or self.k
        similarities = self._vectors @ self._embedder.encode([query], input_type="query")[0]
        depth = count if self._reranker is None else 10 * count
        found = np.argsort(-similarities, kind="stable")[:depth].tolist()
        passages = [self._corpus[i] for i in found]
        if self._reranker is None:
            scores = similarities[found].tolist()
            return dspy.Prediction(passages=passages, indices=found, scores=scores)
        best = self._reranker(query=query, passages=passages, k=count)
        best.indices = [found[i] for i in best.indices]
        return best

    async def aforward(self, query: str, k: int | None = None) -> Any:
        """Return what `forward` does, from a thread."""
        return await asyncio.to_thread(self.forward, query, k)
