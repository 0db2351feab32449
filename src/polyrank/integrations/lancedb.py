"""LanceDB: a reranker for hybrid, vector and full-text searches."""

from typing import Any

from polyrank._extras import require

require("lancedb", purpose="polyrank.integrations.lancedb")

import pyarrow as pa
from lancedb.rerankers import Reranker as _LanceReranker

from polyrank.inference.reranker import Reranker
from polyrank.integrations.loading import ModelLike, as_reranker

_SCORE = "_relevance_score"


class PolyrankReranker(_LanceReranker):
    """Reranks what searches found by the text of one column."""

    def __init__(
        self,
        model: ModelLike | Reranker = None,
        column: str = "text",
        return_score: str = "relevance",
    ) -> None:
        """Load a reranker, or take one that is loaded.

        Args:
            model: Local folder, Hub id or a `Reranker`; None takes the default model.
            column: What holds the texts.
            return_score: "all" keeps the scores of the searches, "relevance" drops them.
        """
        super().__init__(return_score)
        self.reranker, self.column = as_reranker(model), column

    def rerank_hybrid(self, query: str, vector_results: pa.Table, fts_results: pa.Table) -> Any:
        """Return what either search found, best first."""
        merge = self._merge_and_keep_scores if self.score == "all" else self.merge_results
        return self._rerank(query, merge(vector_results, fts_results))

    def rerank_vector(self, query: str, vector_results: pa.Table) -> Any:
        """Return what the vector search found, best first."""
        return self._rerank(query, vector_results)

    def rerank_fts(self, query: str, fts_results: pa.Table) -> Any:
        """Return what the full-text search found, best first."""
        return self._rerank(query, fts_results)

    def _rerank(self, query: str, found: pa.Table) -> Any:
        texts = [text or "" for text in found[self.column].to_pylist()]
        hits = self.reranker.rank(query, texts)
        scores = pa.array([hit.score for hit in hits], pa.float32())
        ranked = found.take(pa.array([hit.index for hit in hits], pa.int64()))
        return self._keep_relevance_score(ranked.append_column(_SCORE, scores))
