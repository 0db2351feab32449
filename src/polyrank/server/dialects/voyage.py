"""Voyage's rerank (voyageai 0.5); its embeddings have OpenAI's shape."""

from typing import Any

from polyrank.server.cutting import TruncationRequest
from polyrank.server.dialects.base import Api, Dialect, Operation
from polyrank.server.dialects.fields import Documents, TopN, texts_of
from polyrank.server.dialects.openai import EmbeddingsBody, embeddings
from polyrank.server.dialects.ranking import ProbabilityFields, ranked
from polyrank.server.failures import Failure


def _error(failure: Failure, status: int) -> dict[str, str]:
    return {"detail": failure.message}


VOYAGE = Dialect("voyage", _error, {"invalid": 400})


class RerankBody(ProbabilityFields):
    """Documents to rank."""

    query: str
    documents: Documents
    model: str | None = None
    top_k: TopN | None = None
    truncation: bool = True
    return_documents: bool = False


async def rerank(body: RerankBody, api: Api) -> dict[str, Any]:
    """Return the documents, best first."""
    texts = texts_of(body.documents)
    cut = TruncationRequest(body.truncation)
    found = await ranked(api, body.query, texts, body.model, body.top_k, cut=cut, asked=body)
    data: list[dict[str, Any]] = [
        {"index": i, "relevance_score": score, **found.more(i)} for i, score in found.hits
    ]
    if body.return_documents:
        for row in data:
            row["document"] = texts[row["index"]]
    return {
        "object": "list",
        "data": data,
        "model": found.model,
        "usage": {"total_tokens": found.num_tokens},
    }


RERANK = Operation(VOYAGE, "Voyage: rank documents", rerank, RerankBody)
EMBEDDINGS = Operation(VOYAGE, "Voyage: embed texts", embeddings, EmbeddingsBody)
