"""Every path and what is meant there, by the path, or by the body where clients share a path.

Each dialect also has a prefix of its own, such as ``/cohere``, under which nothing is guessed.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from polyrank.server.dialects import (
    cohere,
    infinity,
    jina,
    openai,
    own,
    pinecone,
    tei,
    vllm,
    voyage,
    weaviate,
)
from polyrank.server.dialects.base import Operation, Route
from polyrank.server.models import Registry

Json = Mapping[str, Any]
Headers = Mapping[str, str]


def _is_pinecone(body: Json, headers: Headers) -> bool:
    return "x-pinecone-api-version" in headers or "parameters" in body


def _signed(body: Json, headers: Headers) -> Operation | None:
    """Return what a rerank body's own fields tell, or None where it could be anybody's."""
    signs = (
        ("texts" in body, tei.RERANK),
        ("property" in body, weaviate.RERANK),
        (_is_pinecone(body, headers), pinecone.RERANK),
        ("top_k" in body, voyage.RERANK),
        (any(sign in body for sign in vllm.SIGNS), vllm.RERANK),
    )
    return next((operation for is_meant, operation in signs if is_meant), None)


def _choose_rerank(body: Json, headers: Headers, registry: Registry) -> Operation:
    found = _signed(body, headers)
    # TEI's path: a body of neither kind gets TEI's words for what is missing
    return found or (infinity.RERANK if "documents" in body else tei.RERANK)


def _choose_rerank_v1(body: Json, headers: Headers, registry: Registry) -> Operation:
    if "truncation" in body and "top_n" not in body:
        return voyage.RERANK
    return _signed(body, headers) or jina.RERANK


def _choose_rerank_v2(body: Json, headers: Headers, registry: Registry) -> Operation:
    found = _signed(body, headers)
    return vllm.RERANK if found is vllm.RERANK else cohere.RERANK_V2


def _choose_embed(body: Json, headers: Headers, registry: Registry) -> Operation:
    inputs = body.get("inputs")
    is_objects = isinstance(inputs, list) and bool(inputs) and isinstance(inputs[0], dict)
    return pinecone.EMBED if is_objects or _is_pinecone(body, headers) else tei.EMBED


_RERANKS = (
    tei.RERANK,
    infinity.RERANK,
    vllm.RERANK,
    voyage.RERANK,
    pinecone.RERANK,
    weaviate.RERANK,
)

SHARED = (
    Route("POST", "/rerank", _RERANKS, _choose_rerank),
    Route("POST", "/v1/rerank", (jina.RERANK, *_RERANKS), _choose_rerank_v1),
    Route("POST", "/v2/rerank", (cohere.RERANK_V2, vllm.RERANK), _choose_rerank_v2),
    Route("POST", "/embed", (tei.EMBED, pinecone.EMBED), _choose_embed),
)

_TEI = (
    Route("POST", "/predict", (tei.PREDICT,)),
    Route("POST", "/embed_all", (tei.EMBED_ALL,)),
    Route("POST", "/similarity", (tei.SIMILARITY,)),
    Route("POST", "/tokenize", (tei.TOKENIZE,)),
    Route("POST", "/decode", (tei.DECODE,)),
    Route("POST", "/vertex", (tei.VERTEX,)),
    Route("POST", "/", tei.ANY, tei.guess),
    Route("POST", "/invocations", tei.ANY, tei.guess),
    Route("GET", "/info", (tei.INFO,)),
)
_OPENAI = (
    Route("POST", "/embeddings", (openai.EMBEDDINGS,)),
    Route("POST", "/v1/embeddings", (openai.EMBEDDINGS,)),
    Route("GET", "/v1/models", (openai.MODELS,)),
)
_COHERE = (
    Route("POST", "/v1/embed", (cohere.EMBED_V1,)),
    Route("POST", "/v2/embed", (cohere.EMBED_V2,)),
    Route("POST", "/v1/classify", (cohere.CLASSIFY,)),
    Route("POST", "/v1/tokenize", (cohere.TOKENIZE,)),
    Route("POST", "/v1/detokenize", (cohere.DETOKENIZE,)),
)
_VLLM = (
    Route("POST", "/score", (vllm.SCORE,)),
    Route("POST", "/v1/score", (vllm.SCORE,)),
)
_INFINITY = (
    Route("POST", "/classify", (infinity.CLASSIFY,)),
    Route("GET", "/models", (infinity.MODELS,)),
)
_WEAVIATE = (
    Route("POST", "/vectors", (weaviate.VECTORS,)),
    Route("GET", "/meta", (weaviate.META,)),
)


_OWN = (
    Route("POST", "/polyrank/rank", (own.RANK,)),
    Route("POST", "/polyrank/embed", (own.EMBED,)),
    Route("POST", "/polyrank/classify", (own.CLASSIFY,)),
)


def _only(*paths: str, operation: Operation, method: str = "POST") -> tuple[Route, ...]:
    return tuple(Route(method, path, (operation,)) for path in paths)


_PREFIXED: Mapping[str, tuple[Route, ...]] = {
    "/tei": (
        *_TEI,
        *_only("/rerank", operation=tei.RERANK),
        *_only("/embed", operation=tei.EMBED),
        *_OPENAI[:2],
    ),
    "/openai": (*_OPENAI, *_only("/models", operation=openai.MODELS, method="GET")),
    "/cohere": (
        *_COHERE,
        *_only("/v1/rerank", operation=cohere.RERANK_V1),
        *_only("/v2/rerank", operation=cohere.RERANK_V2),
    ),
    "/jina": (
        *_only("/rerank", "/v1/rerank", operation=jina.RERANK),
        *_OPENAI[:2],
    ),
    "/vllm": (
        *_VLLM,
        *_only("/rerank", "/v1/rerank", "/v2/rerank", operation=vllm.RERANK),
        *_OPENAI,
    ),
    "/voyage": (
        *_only("/rerank", "/v1/rerank", operation=voyage.RERANK),
        *_only("/embeddings", "/v1/embeddings", operation=voyage.EMBEDDINGS),
    ),
    "/infinity": (*_INFINITY, *_only("/rerank", operation=infinity.RERANK), *_OPENAI),
    "/pinecone": (
        *_only("/rerank", operation=pinecone.RERANK),
        *_only("/embed", operation=pinecone.EMBED),
    ),
    "/weaviate": (*_WEAVIATE, *_only("/rerank", operation=weaviate.RERANK)),
}

ROUTES: tuple[Route, ...] = (
    *SHARED,
    *_TEI,
    *_OPENAI,
    *_COHERE,
    *_VLLM,
    *_INFINITY,
    *_WEAVIATE,
    *_OWN,
    *(
        replace(route, path=prefix + route.path)
        for prefix, routes in _PREFIXED.items()
        for route in routes
    ),
)
