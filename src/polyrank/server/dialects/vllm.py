"""vLLM's rerank and score."""

from typing import Annotated, Any

from pydantic import Field

from polyrank.errors import InputError
from polyrank.server.cutting import TruncationRequest
from polyrank.server.dialects.base import Api, Body, Dialect, Operation
from polyrank.server.dialects.fields import Documents, document_text, new_id, now_s, texts_of
from polyrank.server.dialects.openai import error
from polyrank.server.dialects.ranking import ProbabilityFields, ranked
from polyrank.types import Side

VLLM = Dialect("vllm", error, {"invalid": 400})

# Fields that only vLLM's clients send.
SIGNS = (
    "max_tokens_per_query",
    "truncate_prompt_tokens",
    "truncation_side",
    "use_activation",
    "activation",
    "instruction",
    "chat_template_kwargs",
    "mm_processor_kwargs",
    "cache_salt",
    "request_id",
)

Texts = Any  # a text, an object with a text, or a list of either


class _Cutting(Body):
    truncate_prompt_tokens: Annotated[int, Field(ge=-1)] | None = None
    truncation_side: Side | None = None
    use_activation: bool | None = None

    def cut(self) -> TruncationRequest:
        """Return how long pairs are cut; -1 means the model's own limit."""
        length = self.truncate_prompt_tokens
        side = self.truncation_side or "right"
        if length is None:
            return TruncationRequest(side=side)
        return TruncationRequest(True, side, None if length == -1 else length)


class RerankBody(_Cutting, ProbabilityFields):
    """Documents to rank."""

    query: str
    documents: Documents
    model: str | None = None
    top_n: int = 0
    max_tokens_per_query: int | None = None
    max_tokens_per_doc: int | None = None


class ScoreBody(_Cutting):
    """Texts to score against each other: one with many, or pairs of lists of equal length."""

    model: str | None = None
    queries: Texts = None
    documents: Texts = None
    items: Texts = None
    text_1: Texts = None
    text_2: Texts = None
    data_1: Texts = None
    data_2: Texts = None


async def rerank(body: RerankBody, api: Api) -> dict[str, Any]:
    """Return the documents, best first, always with their text; ``top_n`` 0 keeps all."""
    texts = texts_of(body.documents)
    short = await api.shorten(texts, _limit(body.max_tokens_per_doc), model=body.model)
    (query,) = await api.shorten([body.query], _limit(body.max_tokens_per_query), model=body.model)
    found = await ranked(
        api,
        query,
        short,
        body.model,
        _limit(body.top_n),
        is_raw=body.use_activation is False,
        cut=body.cut(),
        asked=body,
    )
    return {
        "id": new_id("rerank"),
        "model": found.model,
        "usage": {"prompt_tokens": found.num_tokens, "total_tokens": found.num_tokens},
        "results": [
            {
                "index": i,
                "document": {"text": texts[i], "multi_modal": None},
                "relevance_score": score,
                **found.more(i),
            }
            for i, score in found.hits
        ],
    }


async def score(body: ScoreBody, api: Api) -> dict[str, Any]:
    """Return one score a pair, in input order."""
    pairs = _pairs(*_sides(body))
    scored = await api.score(pairs, model=body.model, cut=body.cut())
    values = scored.logits if body.use_activation is False else scored.scores
    return {
        "id": new_id("score"),
        "object": "list",
        "created": now_s(),
        "model": scored.model,
        "data": [
            {"index": i, "object": "score", "score": float(value)} for i, value in enumerate(values)
        ],
        "usage": {"prompt_tokens": scored.num_tokens, "total_tokens": scored.num_tokens},
    }


def _limit(given: int | None) -> int | None:
    # 0, and -1 from some clients, is vLLM's word for no limit
    return given if given is not None and given > 0 else None


def _sides(body: ScoreBody) -> tuple[list[str], list[str]]:
    names = (
        ("queries", "documents"),
        ("queries", "items"),
        ("text_1", "text_2"),
        ("data_1", "data_2"),
    )
    for first, second in names:
        left, right = getattr(body, first), getattr(body, second)
        if left is not None and right is not None:
            return _listed(left, first), _listed(right, second)
    raise InputError("give queries and documents, or text_1 and text_2")


def _listed(given: Texts, name: str) -> list[str]:
    members = given if isinstance(given, list) else [given]
    if not all(isinstance(each, str | dict) for each in members):
        raise InputError(f"{name} must be a text or a list of texts")
    return [document_text(each, i, None) for i, each in enumerate(members)]


def _pairs(left: list[str], right: list[str]) -> list[tuple[str, str]]:
    if len(left) == 1:
        left = left * len(right)
    if len(left) != len(right):
        raise InputError(
            f"there are {len(left)} texts on one side and {len(right)} on the other: give one, or "
            "as many as on the other"
        )
    return list(zip(left, right, strict=True))


RERANK = Operation(VLLM, "vLLM: rank documents", rerank, RerankBody)
SCORE = Operation(VLLM, "vLLM: score pairs", score, ScoreBody)
