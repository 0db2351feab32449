"""Cohere's rerank and embed, v1 and v2 (cohere-python 7)."""

from typing import Annotated, Any, Literal

from pydantic import Field

from polyrank.errors import InputError
from polyrank.server.dialects.base import Api, Body, Dialect, Operation
from polyrank.server.dialects.fields import Documents, as_object, new_id, texts_of, to_base64
from polyrank.server.dialects.openai import INPUT_TYPES
from polyrank.server.dialects.ranking import ranked
from polyrank.server.failures import Failure
from polyrank.server.service import Cut, Embedded, Vectors
from polyrank.tasks.embed import quantize_vectors
from polyrank.types import EmbeddingPrecision


def _error(failure: Failure, status: int) -> dict[str, str]:
    return {"id": new_id("error"), "message": failure.message}


COHERE = Dialect("cohere", _error, {"invalid": 400})
EmbeddingType = Literal["float", "int8", "uint8", "binary", "ubinary", "base64"]


class RerankV1Body(Body):
    """Documents to rank: texts, or objects of which ``rank_fields`` are read."""

    query: str
    documents: Documents
    model: str | None = None
    top_n: int | None = None
    rank_fields: list[str] | None = None
    return_documents: bool | None = None
    max_chunks_per_doc: int | None = None


class RerankV2Body(Body):
    """Documents to rank."""

    query: str
    documents: Documents
    model: str | None = None
    top_n: int | None = None
    return_documents: bool | None = None
    max_tokens_per_doc: Annotated[int, Field(ge=1)] | None = None
    priority: int | None = None


class EmbedV1Body(Body):
    """Texts to embed."""

    texts: list[str]
    model: str | None = None
    input_type: str | None = None
    embedding_types: list[EmbeddingType] | None = None
    truncate: Literal["NONE", "START", "END"] = "END"


class EmbedV2Input(Body):
    """One text in pieces."""

    content: list[dict[str, Any]]


class EmbedV2Body(Body):
    """Texts to embed; images are refused."""

    texts: list[str] | None = None
    inputs: list[EmbedV2Input] | None = None
    model: str | None = None
    input_type: str | None = None
    embedding_types: list[EmbeddingType] | None = None
    output_dimension: int | None = None
    truncate: Literal["NONE", "START", "END"] = "END"


def meta(version: str, num_tokens: int, **billed: int) -> dict[str, Any]:
    """Return the part of a reply that tells versions and amounts."""
    return {
        "api_version": {"version": version},
        "billed_units": billed,
        "tokens": {"input_tokens": num_tokens},
    }


async def rerank_v1(body: RerankV1Body, api: Api) -> dict[str, Any]:
    """Return the documents, best first, with their text where asked for."""
    texts = texts_of(body.documents, body.rank_fields)
    return await _rerank(body, texts, api, "1")


async def rerank_v2(body: RerankV2Body, api: Api) -> dict[str, Any]:
    """Return the documents, best first."""
    texts = await api.shorten(texts_of(body.documents), body.max_tokens_per_doc, model=body.model)
    return await _rerank(body, texts, api, "2")


async def _rerank(
    body: RerankV1Body | RerankV2Body, texts: list[str], api: Api, version: str
) -> dict[str, Any]:
    found = await ranked(api, body.query, texts, body.model, body.top_n)
    results: list[dict[str, Any]] = [
        {"index": i, "relevance_score": score} for i, score in found.hits
    ]
    if body.return_documents:
        for result in results:
            result["document"] = as_object(body.documents[result["index"]])
    return {
        "id": new_id("rerank"),
        "results": results,
        "meta": meta(version, found.num_tokens, search_units=1),
    }


async def embed_v1(body: EmbedV1Body, api: Api) -> dict[str, Any]:
    """Return vectors: a plain list of floats, or by type where types are named."""
    found = await _embed(api, body.texts, body, None)
    by_type = body.embedding_types is not None
    return {
        "id": new_id("embed"),
        "texts": body.texts,
        "embeddings": _by_type(found, body.embedding_types or ["float"])
        if by_type
        else found.vectors,
        "meta": meta("1", found.num_tokens, input_tokens=found.num_tokens),
        "response_type": "embeddings_by_type" if by_type else "embeddings_floats",
    }


async def embed_v2(body: EmbedV2Body, api: Api) -> dict[str, Any]:
    """Return vectors by type."""
    texts = list(body.texts or []) + [_joined(each, i) for i, each in enumerate(body.inputs or [])]
    found = await _embed(api, texts, body, body.output_dimension)
    return {
        "id": new_id("embed"),
        "texts": texts,
        "embeddings": _by_type(found, body.embedding_types or ["float"]),
        "meta": meta("2", found.num_tokens, input_tokens=found.num_tokens),
        "response_type": "embeddings_by_type",
    }


def _joined(given: EmbedV2Input, at: int) -> str:
    pieces = [piece.get("text") for piece in given.content if piece.get("type") == "text"]
    if len(pieces) != len(given.content) or not all(isinstance(each, str) for each in pieces):
        raise InputError(f"inputs[{at}] holds something else than text; this server reads text")
    return "\n".join(map(str, pieces))


async def _embed(
    api: Api, texts: list[str], body: EmbedV1Body | EmbedV2Body, dimensions: int | None
) -> Embedded:
    wanted = Vectors(
        input_type=INPUT_TYPES.get(body.input_type or ""), is_normalized=True, dimensions=dimensions
    )
    cut = Cut(body.truncate != "NONE", "left" if body.truncate == "START" else "right")
    return await api.embed(texts, wanted, model=body.model, cut=cut)


_PRECISIONS: dict[str, EmbeddingPrecision] = {
    "int8": "int8",
    "uint8": "uint8",
    "binary": "binary",
    "ubinary": "ubinary",
}


def _by_type(found: Embedded, types: list[EmbeddingType]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for kind in types:
        if kind == "base64":
            made[kind] = [to_base64(vector) for vector in found.vectors]
        elif kind == "float":
            made[kind] = found.vectors
        else:
            made[kind] = quantize_vectors(found.vectors, _PRECISIONS[kind])
    return made


RERANK_V1 = Operation(COHERE, "Cohere v1: rank documents", rerank_v1, RerankV1Body)
RERANK_V2 = Operation(COHERE, "Cohere v2: rank documents", rerank_v2, RerankV2Body)
EMBED_V1 = Operation(COHERE, "Cohere v1: embed texts", embed_v1, EmbedV1Body)
EMBED_V2 = Operation(COHERE, "Cohere v2: embed texts", embed_v2, EmbedV2Body)
