"""Jina's rerank, and what `/v1/rerank` and `/rerank` answer where a body could be anybody's.

Without a sign of a certain client, replies hold the fields of Jina, Cohere and infinity at once,
and errors hold what each of their clients looks for.
"""

from typing import Any

from polyrank.server.cutting import TruncationRequest
from polyrank.server.dialects.base import Api, Dialect, Operation
from polyrank.server.dialects.cohere import meta
from polyrank.server.dialects.fields import Documents, TopN, as_object, new_id, now_s, texts_of
from polyrank.server.dialects.ranking import ProbabilityFields, ranked
from polyrank.server.failures import Failure


def _error(failure: Failure, status: int) -> dict[str, str]:
    # "message" for Cohere's clients, which share the path
    return {"detail": failure.message, "message": failure.message}


JINA = Dialect("jina", _error)


class RerankBody(ProbabilityFields):
    """Documents to rank: texts, or objects whose ``text`` (or ``rank_fields``) is read."""

    query: str
    documents: Documents
    model: str | None = None
    top_n: TopN | None = None
    return_documents: bool | None = None
    rank_fields: list[str] | None = None
    truncation: bool | None = None


async def rerank(body: RerankBody, api: Api) -> dict[str, Any]:
    """Return the documents, best first, each as an object where they are asked for."""
    texts = texts_of(body.documents, body.rank_fields)
    found = await ranked(
        api,
        body.query,
        texts,
        body.model,
        body.top_n,
        cut=TruncationRequest(body.truncation),
        asked=body,
    )
    results: list[dict[str, Any]] = [
        {"index": i, "relevance_score": score, **found.more(i)} for i, score in found.hits
    ]
    if body.return_documents:
        for result in results:
            result["document"] = as_object(body.documents[result["index"]])
    return {
        "id": new_id("rerank"),
        "object": "rerank",
        "created": now_s(),
        "model": found.model,
        "results": results,
        "usage": {"total_tokens": found.num_tokens, "prompt_tokens": found.num_tokens},
        "meta": meta("1", found.num_tokens, num_cut=found.num_cut, search_units=1),
    }


RERANK = Operation(JINA, "Jina: rank documents", rerank, RerankBody)
