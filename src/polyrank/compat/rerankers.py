"""`Reranker` as the library rerankers has it: `rank` gives `RankedResults` of raw logits."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from polyrank.compat.arguments import LOADING, refuse, translated
from polyrank.compat.ranked_results import Document, RankedResults, Result
from polyrank.inference.model import ModelName
from polyrank.inference.reranker import Reranker as _Reranker

_TYPES = (None, "cross-encoder", "colbert", "TransformerRanker", "ColBERTRanker")


class Reranker:
    """Ranks documents by `rank`, scores one by `score`."""

    def __init__(
        self,
        model_name: ModelName = None,
        lang: str = "en",
        model_type: str | None = None,
        **arguments: Any,
    ) -> None:
        """Load a reranker; `lang` chooses nothing, since polyrank's models read all languages."""
        if model_type not in _TYPES:
            refuse("Reranker", {"model_type": model_type})
        given = translated("Reranker", arguments, LOADING)
        self.model = _Reranker(model_name, passages=None, **given)

    def rank(
        self,
        query: str,
        docs: str | Document | Sequence[str | Document],
        doc_ids: Sequence[str | int] | None = None,
        metadata: Sequence[Mapping[str, Any]] | None = None,
    ) -> RankedResults:
        """Return all documents, best first, with ids from 0 where none are given."""
        members = [docs] if isinstance(docs, str | Document) else list(docs)
        given = [doc if isinstance(doc, Document) else Document(doc) for doc in members]
        ids = doc_ids if doc_ids is not None else range(len(given))
        for doc, doc_id, extra in zip(given, ids, metadata or [{}] * len(given), strict=True):
            doc.doc_id = doc.doc_id if doc_ids is None and doc.doc_id is not None else doc_id
            doc.metadata = extra if metadata is not None else doc.metadata
        hits = self.model.rank(query, [doc.text for doc in given])
        results = [Result(given[hit.index], hit.logit, at + 1) for at, hit in enumerate(hits)]
        return RankedResults(results, query)

    async def rank_async(self, *args: Any, **arguments: Any) -> RankedResults:
        """Return what `rank` does, from a thread, so that the event loop goes on."""
        return await asyncio.to_thread(self.rank, *args, **arguments)

    def score(self, query: str, doc: str) -> float:
        """Return the raw logit of a document."""
        return float(self.model.score([(query, doc)], logits=True)[0])
