"""infinity 0.0.77: rerank with plain documents, and classify. Errors are OpenAI's."""

from typing import Any

from polyrank.server.dialects.base import Api, Body, Dialect, Operation
from polyrank.server.dialects.cohere import meta
from polyrank.server.dialects.fields import Documents, Texts, TopN, new_id, now_s, texts_of
from polyrank.server.dialects.openai import error, list_models
from polyrank.server.dialects.ranking import ProbabilityFields, ranked
from polyrank.server.dialects.tei import labelled
from polyrank.server.failures import Failure

NO_MODEL = "default/not-specified"  # what infinity's client sends where none is chosen


def _error(failure: Failure, status: int) -> dict[str, Any]:
    # "detail" and "message" for clients of Jina and Cohere, which share /rerank
    return {**error(failure, status), "detail": failure.message}


INFINITY = Dialect("infinity", _error, {"unknown_model": 400})


class RerankBody(ProbabilityFields):
    """Documents to rank."""

    query: str
    documents: Documents
    model: str | None = None
    top_n: TopN | None = None
    return_documents: bool | None = None
    raw_scores: bool = False
    rank_fields: list[str] | None = None


class ClassifyBody(Body):
    """Texts to label."""

    input: Texts
    model: str | None = None
    raw_scores: bool = False


def named(model: str | None) -> str | None:
    """Return the model's name, or None where the client chose none."""
    return None if model == NO_MODEL else model


async def rerank(body: RerankBody, api: Api) -> dict[str, Any]:
    """Return the documents, best first; each as its plain text where they are asked for."""
    texts = texts_of(body.documents, body.rank_fields)
    found = await ranked(
        api, body.query, texts, named(body.model), body.top_n, is_raw=body.raw_scores, asked=body
    )
    return {
        "object": "rerank",
        "results": [
            {
                "relevance_score": score,
                "index": i,
                "document": texts[i] if body.return_documents else None,
                **found.more(i),
            }
            for i, score in found.hits
        ],
        "model": found.model,
        "usage": {"prompt_tokens": found.num_tokens, "total_tokens": found.num_tokens},
        "id": new_id("infinity"),
        "created": now_s(),
        # for Cohere's clients, whose body is the same
        "meta": meta("1", found.num_tokens, num_cut=found.num_cut, search_units=1),
    }


async def classify(body: ClassifyBody, api: Api) -> dict[str, Any]:
    """Return the labels of each text, most probable first."""
    found = await api.classify(body.input, model=named(body.model))
    return {
        "object": "classify",
        "data": labelled(found, is_raw=body.raw_scores),
        "model": found.model,
        "usage": {"prompt_tokens": found.num_tokens, "total_tokens": found.num_tokens},
        "id": new_id("infinity"),
        "created": now_s(),
    }


async def models(body: None, api: Api) -> dict[str, Any]:
    """Return the loaded models."""
    return list_models(api, "infinity")


RERANK = Operation(INFINITY, "infinity: rank documents", rerank, RerankBody)
CLASSIFY = Operation(INFINITY, "infinity: label texts", classify, ClassifyBody)
MODELS = Operation(INFINITY, "infinity: the loaded models", models)
