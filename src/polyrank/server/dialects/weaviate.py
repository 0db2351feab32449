"""Weaviate's inference containers: text2vec-transformers and reranker-transformers."""

from typing import Any

from polyrank.errors import EmptyRequestError
from polyrank.server.dialects.base import Api, Body, Dialect, Operation
from polyrank.server.dialects.fields import Texts
from polyrank.server.dialects.openai import INPUT_TYPES
from polyrank.server.failures import Failure
from polyrank.server.service import Vectors


def _error(failure: Failure, status: int) -> dict[str, str]:
    return {"error": failure.message}


WEAVIATE = Dialect("weaviate", _error)


class VectorConfig(Body):
    """What the vectors are for."""

    pooling_strategy: str | None = None
    task_type: str | None = None
    dimensions: int | None = None


class VectorsBody(Body):
    """One text, or several, to embed."""

    text: str | None = None
    texts: Texts | None = None
    config: VectorConfig | None = None


class RerankBody(Body):
    """Documents to score; or one, in ``property``."""

    query: str
    documents: list[str] | None = None
    property: str | None = None


async def vectors(body: VectorsBody, api: Api) -> dict[str, Any]:
    """Return the vector of the text, or those of the texts, as the checkpoint makes them."""
    config = body.config or VectorConfig()
    texts = body.texts if body.texts is not None else [] if body.text is None else [body.text]
    if not texts:
        raise EmptyRequestError("give a `text`, or `texts` with one or more")
    wanted = Vectors(
        input_type=INPUT_TYPES.get(config.task_type or ""), dimensions=config.dimensions or None
    )
    made = (await api.embed(texts, wanted)).vectors
    if body.texts is not None:
        return {"vectors": made, "dims": made.shape[1]}
    # the container says `dim`, the Go client reads `dims`
    return {"text": body.text, "vector": made[0], "dim": made.shape[1], "dims": made.shape[1]}


async def rerank(body: RerankBody, api: Api) -> dict[str, Any]:
    """Return scores in input order."""
    documents = body.documents or []
    single = [] if documents or not body.property else [body.property]
    scored = await api.score([(body.query, text) for text in documents or single])
    scores = [float(score) for score in scored.scores]
    return {
        "query": body.query,
        "scores": [
            {"document": text, "score": score}
            for text, score in zip(documents, scores, strict=False)
        ],
        "property": body.property,
        "score": scores[0] if single else None,
        "error": None,
    }


async def meta(body: None, api: Api) -> dict[str, Any]:
    """Return what is served."""
    loaded = api.service.registry.loaded
    return {
        "model": {
            "model_type": loaded[0].spec.body.model_type,
            "hidden_size": loaded[0].spec.body.hidden_size,
            "dimensions": loaded[0].dimensions,
        },
        "model_path": loaded[0].name,
    }


VECTORS = Operation(WEAVIATE, "Weaviate: embed texts", vectors, VectorsBody)
RERANK = Operation(WEAVIATE, "Weaviate: score documents", rerank, RerankBody)
META = Operation(WEAVIATE, "Weaviate: what is served", meta)
