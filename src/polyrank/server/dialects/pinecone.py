"""Pinecone's inference API, 2025-10: rerank and embed."""

from typing import Any, Literal

from pydantic import Field

from polyrank.server.cutting import TruncationRequest
from polyrank.server.dialects.base import Api, Body, Dialect, Operation
from polyrank.server.dialects.fields import Dimensions, Documents, TopN, as_object, texts_of
from polyrank.server.dialects.openai import INPUT_TYPES
from polyrank.server.dialects.ranking import ProbabilityFields, ranked
from polyrank.server.failures import Failure
from polyrank.server.service import Vectors

CODES = {
    "unauthorized": "UNAUTHENTICATED",
    "unknown_model": "NOT_FOUND",
    "not_found": "NOT_FOUND",
    "overloaded": "RESOURCE_EXHAUSTED",
    "unavailable": "UNAVAILABLE",
    "timeout": "DEADLINE_EXCEEDED",
    "backend": "INTERNAL",
    "internal": "INTERNAL",
}


def _error(failure: Failure, status: int) -> dict[str, Any]:
    code = CODES.get(failure.kind, "INVALID_ARGUMENT")
    return {"error": {"code": code, "message": failure.message}, "status": status}


PINECONE = Dialect("pinecone", _error, {"invalid": 400})


class Parameters(Body):
    """How texts are read."""

    truncate: Literal["NONE", "START", "END"] | None = None
    input_type: str | None = None
    dimension: Dimensions | None = None

    def cut(self) -> TruncationRequest:
        """Return whether texts are cut, and where."""
        if self.truncate is None:
            return TruncationRequest()
        return TruncationRequest(
            self.truncate != "NONE", "left" if self.truncate == "START" else "right"
        )


class RerankBody(ProbabilityFields):
    """Documents to rank, of which the fields in ``rank_fields`` are read."""

    query: str
    documents: Documents
    model: str | None = None
    top_n: TopN | None = None
    rank_fields: list[str] = Field(default_factory=lambda: ["text"])
    return_documents: bool = True
    parameters: Parameters = Parameters()


class EmbedInput(Body):
    """One text."""

    text: str


class EmbedBody(Body):
    """Texts to embed."""

    inputs: list[EmbedInput]
    model: str | None = None
    parameters: Parameters = Parameters()


async def rerank(body: RerankBody, api: Api) -> dict[str, Any]:
    """Return the documents, best first, as objects unless they are not wanted."""
    texts = texts_of(body.documents, body.rank_fields)
    cut = body.parameters.cut()
    found = await ranked(api, body.query, texts, body.model, body.top_n, cut=cut, asked=body)
    data: list[dict[str, Any]] = [
        {"index": i, "score": score, **found.more(i)} for i, score in found.hits
    ]
    if body.return_documents:
        for row in data:
            row["document"] = as_object(body.documents[row["index"]])
    return {"model": found.model, "data": data, "usage": {"rerank_units": 1}}


async def embed(body: EmbedBody, api: Api) -> dict[str, Any]:
    """Return one vector a text."""
    wanted = Vectors(
        input_type=INPUT_TYPES.get(body.parameters.input_type or ""),
        is_normalized=True,
        dimensions=body.parameters.dimension,
    )
    texts = [each.text for each in body.inputs]
    found = await api.embed(texts, wanted, model=body.model, cut=body.parameters.cut())
    return {
        "model": found.model,
        "vector_type": "dense",
        "data": [{"values": vector, "vector_type": "dense"} for vector in found.vectors],
        "usage": {"total_tokens": found.num_tokens},
    }


RERANK = Operation(PINECONE, "Pinecone: rank documents", rerank, RerankBody)
EMBED = Operation(PINECONE, "Pinecone: embed texts", embed, EmbedBody)
