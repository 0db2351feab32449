"""Cohere's rerank and embed, v1 and v2, and its classify and tokenize (cohere-python 7).

Cohere's classify learns from examples that a request brings along, or runs a model that was
trained before. Only the second is done here: a served classifier is such a model.
"""

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from polyrank.errors import CapabilityError, InputError
from polyrank.server.cutting import TruncationRequest
from polyrank.server.dialects.base import Api, Body, Dialect, Operation
from polyrank.server.dialects.fields import (
    Dimensions,
    Documents,
    Texts,
    TopN,
    as_object,
    new_id,
    texts_of,
    to_base64,
)
from polyrank.server.dialects.openai import INPUT_TYPES
from polyrank.server.dialects.ranking import ProbabilityFields, ranked
from polyrank.server.failures import Failure
from polyrank.server.service import Embedded, Vectors
from polyrank.tasks.embed import quantize_vectors
from polyrank.types import Float32Array, InputType, OutputDtype


def _error(failure: Failure, status: int) -> dict[str, str]:
    return {"id": new_id("error"), "message": failure.message}


COHERE = Dialect("cohere", _error, {"invalid": 400})
EmbeddingType = Literal["float", "int8", "uint8", "binary", "ubinary", "base64"]
Truncate = Literal["NONE", "START", "END"]
LIKELY = 0.5  # from here on a label of its own probability is a prediction


class RerankV1Body(ProbabilityFields):
    """Documents to rank: texts, or objects of which ``rank_fields`` are read."""

    query: str
    documents: Documents
    model: str | None = None
    top_n: TopN | None = None
    rank_fields: list[str] | None = None
    return_documents: bool | None = None
    max_chunks_per_doc: Annotated[int, Field(ge=1)] | None = None


class RerankV2Body(ProbabilityFields):
    """Documents to rank."""

    query: str
    documents: Documents
    model: str | None = None
    top_n: TopN | None = None
    return_documents: bool | None = None
    max_tokens_per_doc: Annotated[int, Field(ge=1)] | None = None
    priority: int | None = None


class EmbedV1Body(Body):
    """Texts to embed."""

    texts: Texts
    model: str | None = None
    input_type: str | None = None
    embedding_types: list[EmbeddingType] | None = None
    truncate: Truncate = "END"


class EmbedV2Input(Body):
    """One text in pieces."""

    content: list[dict[str, Any]]


class EmbedV2Body(Body):
    """Texts to embed; images are refused."""

    texts: Texts | None = None
    inputs: list[EmbedV2Input] | None = None
    model: str | None = None
    input_type: str | None = None
    embedding_types: list[EmbeddingType] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    output_dimension: Dimensions | None = None
    truncate: Truncate = "END"


class ClassifyBody(Body):
    """Texts to label by a classifier that is served; examples to learn from are refused."""

    inputs: Texts
    examples: list[dict[str, Any]] | None = None
    model: str | None = None
    preset: str | None = None
    truncate: Truncate = "END"


class TokenizeBody(Body):
    """A text to split."""

    text: Annotated[str, Field(min_length=1)]
    model: str | None = None


class DetokenizeBody(Body):
    """Token ids to spell out."""

    tokens: list[Annotated[int, Field(ge=0)]]
    model: str | None = None


def meta(version: str, num_tokens: int, *, num_cut: int = 0, **billed: int) -> dict[str, Any]:
    """Return the part of a reply that tells versions and amounts, and warns of texts cut."""
    told: dict[str, Any] = {
        "api_version": {"version": version},
        "billed_units": billed,
        "tokens": {"input_tokens": num_tokens},
    }
    if num_cut:
        told["warnings"] = [f"texts that were longer than what is read, and were cut: {num_cut:,}"]
    return told


async def rerank_v1(body: RerankV1Body, api: Api) -> dict[str, Any]:
    """Return the documents, best first, with their text where asked for."""
    texts = texts_of(body.documents, body.rank_fields)
    return await _rerank(body, texts, api, "1", _chunks(body.max_chunks_per_doc))


def _chunks(most: int | None) -> TruncationRequest:
    """Return how to read documents in at most so many chunks; one is what fits in the window."""
    return TruncationRequest(True) if most == 1 else TruncationRequest(max_passages=most)


async def rerank_v2(body: RerankV2Body, api: Api) -> dict[str, Any]:
    """Return the documents, best first."""
    texts = await api.shorten(texts_of(body.documents), body.max_tokens_per_doc, model=body.model)
    return await _rerank(body, texts, api, "2", TruncationRequest())


async def _rerank(
    body: RerankV1Body | RerankV2Body,
    texts: list[str],
    api: Api,
    version: str,
    cut: TruncationRequest,
) -> dict[str, Any]:
    found = await ranked(api, body.query, texts, body.model, body.top_n, cut=cut, asked=body)
    results: list[dict[str, Any]] = [
        {"index": i, "relevance_score": score, **found.more(i)} for i, score in found.hits
    ]
    if body.return_documents:
        for result in results:
            result["document"] = as_object(body.documents[result["index"]])
    return {
        "id": new_id("rerank"),
        "results": results,
        "meta": meta(version, found.num_tokens, num_cut=found.num_cut, search_units=1),
    }


async def embed_v1(body: EmbedV1Body, api: Api) -> dict[str, Any]:
    """Return vectors: a plain list of floats, or by type where types are named."""
    wanted = Vectors(input_type=_input_type(body), is_normalized=True)
    found = await api.embed(body.texts, wanted, model=body.model, cut=_cut(body.truncate))
    vectors: Any = found.vectors
    if body.embedding_types is not None:
        vectors = await api.aside(len(vectors), _by_type, found, body.embedding_types)
    return {
        "id": new_id("embed"),
        "texts": body.texts,
        "embeddings": vectors,
        "meta": _amounts("1", found, api),
        "response_type": "embeddings_floats"
        if body.embedding_types is None
        else "embeddings_by_type",
    }


async def embed_v2(body: EmbedV2Body, api: Api) -> dict[str, Any]:
    """Return vectors by type."""
    texts = list(body.texts or []) + [_joined(each, i) for i, each in enumerate(body.inputs or [])]
    wanted = Vectors(
        input_type=_input_type(body), is_normalized=True, dimensions=body.output_dimension
    )
    cut = _cut(body.truncate, body.max_tokens)
    found = await api.embed(texts, wanted, model=body.model, cut=cut)
    return {
        "id": new_id("embed"),
        "texts": texts,
        "embeddings": await api.aside(len(texts), _by_type, found, body.embedding_types),
        "meta": _amounts("2", found, api),
        "response_type": "embeddings_by_type",
    }


def _joined(given: EmbedV2Input, at: int) -> str:
    pieces = [piece.get("text") for piece in given.content if piece.get("type") == "text"]
    if len(pieces) != len(given.content) or not all(isinstance(each, str) for each in pieces):
        raise InputError(f"inputs[{at}] holds something else than text; this server reads text")
    return "\n".join(map(str, pieces))


def _input_type(body: EmbedV1Body | EmbedV2Body) -> InputType | None:
    return INPUT_TYPES.get(body.input_type or "")


def _cut(truncate: Truncate, max_tokens: int | None = None) -> TruncationRequest:
    return TruncationRequest(
        truncate != "NONE", "left" if truncate == "START" else "right", max_tokens
    )


def _amounts(version: str, found: Embedded, api: Api) -> dict[str, Any]:
    num_tokens, num_cut = found.num_tokens, api.context.num_truncated
    return meta(version, num_tokens, num_cut=num_cut, input_tokens=num_tokens)


_PRECISIONS: dict[str, OutputDtype] = {
    "int8": "int8",
    "uint8": "uint8",
    "binary": "binary",
    "ubinary": "ubinary",
}


def _by_type(found: Embedded, types: list[EmbeddingType] | None) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for kind in dict.fromkeys(types or ["float"]):
        if kind == "base64":
            made[kind] = [to_base64(vector) for vector in found.vectors]
        elif kind == "float":
            made[kind] = found.vectors
        else:
            made[kind] = quantize_vectors(found.vectors, _PRECISIONS[kind])
    return made


async def classify(body: ClassifyBody, api: Api) -> dict[str, Any]:
    """Return the labels of each text, as the served classifier knows them."""
    served = api.service.registry.find(body.model, "classify")
    spec = served.head("classify").spec  # a reranker's one label leaves nothing to choose
    if body.examples or body.preset is not None:
        raise InputError(
            f"`{'examples' if body.examples else 'preset'}` cannot be used: this server learns "
            f"nothing from requests. Its model {served.name!r} was trained before, on the labels "
            f"{', '.join(spec.labels)}; leave examples and preset out to have those."
        )
    if spec.activation == "identity":
        raise CapabilityError(f"model {served.name!r} gives values, not confidences of labels")
    found = await api.classify(body.inputs, model=served.name, cut=_cut(body.truncate))
    is_single = spec.activation == "softmax"
    return {
        "id": new_id("classify"),
        "classifications": [
            _classification(text, found.labels, row, is_single=is_single)
            for text, row in zip(body.inputs, found.probabilities, strict=True)
        ],
        "meta": meta(
            "1",
            found.num_tokens,
            num_cut=sum(found.is_truncated),
            classifications=len(body.inputs),
        ),
    }


def _classification(
    text: str, labels: tuple[str, ...], row: Float32Array, *, is_single: bool
) -> dict[str, Any]:
    order = np.argsort(-row, kind="stable")
    predicted = order[:1] if is_single else [k for k in order if row[k] >= LIKELY]
    names, confidences = [labels[k] for k in predicted], [float(row[k]) for k in predicted]
    return {
        "id": new_id("classification"),
        "input": text,
        **({"prediction": names[0], "confidence": confidences[0]} if is_single else {}),
        "predictions": names,
        "confidences": confidences,
        "labels": {
            label: {"confidence": float(value)} for label, value in zip(labels, row, strict=True)
        },
        "classification_type": "single-label" if is_single else "multi-label",
    }


async def tokenize(body: TokenizeBody, api: Api) -> dict[str, Any]:
    """Return a text's token ids, and what of it each stands for; without special tokens."""
    (found,) = await api.tokenize([body.text], model=body.model, is_special=False)
    return {
        "tokens": [token.token_id for token in found],
        "token_strings": [token.text for token in found],
        "meta": {"api_version": {"version": "1"}},
    }


async def detokenize(body: DetokenizeBody, api: Api) -> dict[str, Any]:
    """Return the text of token ids."""
    (text,) = await api.decode([body.tokens], model=body.model)
    return {"text": text, "meta": {"api_version": {"version": "1"}}}


RERANK_V1 = Operation(COHERE, "Cohere v1: rank documents", rerank_v1, RerankV1Body)
RERANK_V2 = Operation(COHERE, "Cohere v2: rank documents", rerank_v2, RerankV2Body)
EMBED_V1 = Operation(COHERE, "Cohere v1: embed texts", embed_v1, EmbedV1Body)
EMBED_V2 = Operation(COHERE, "Cohere v2: embed texts", embed_v2, EmbedV2Body)
CLASSIFY = Operation(COHERE, "Cohere: label texts", classify, ClassifyBody)
TOKENIZE = Operation(COHERE, "Cohere: split a text into tokens", tokenize, TokenizeBody)
DETOKENIZE = Operation(COHERE, "Cohere: spell out tokens", detokenize, DetokenizeBody)
