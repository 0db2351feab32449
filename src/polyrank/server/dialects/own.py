"""polyrank's own protocol, which `polyrank.client` speaks: all that the library's results hold.

Vectors come as one block of bytes in base64. Errors name the class that the library would raise.
"""

from typing import Any

from pydantic import Field

from polyrank.errors import InputError
from polyrank.server.cutting import TruncationRequest
from polyrank.server.dialects.base import Api, Body, Dialect, Operation
from polyrank.server.dialects.fields import (
    Dimensions,
    Documents,
    Name,
    Pair,
    Texts,
    TopN,
    texts_of,
    to_base64,
)
from polyrank.server.failures import Failure
from polyrank.server.service import FirstStage, Vectors
from polyrank.tasks.rerank import check_top_n
from polyrank.types import FirstStageKind, InputType, OutputDtype


def _error(failure: Failure, status: int) -> dict[str, Any]:
    return {"error": {"class": failure.class_name, "message": failure.message}}


OWN = Dialect("polyrank", _error)


class RankBody(Body):
    """Documents to rank: texts, or objects whose ``text`` is read."""

    query: str
    documents: Documents
    top_n: TopN | None = None
    first_stage_scores: list[float] | None = None
    first_stage: FirstStageKind | float = "lexical"
    min_probability: float | str | None = None
    model: str | None = None
    truncate: bool | None = None


class EmbedBody(Body):
    """Texts to embed."""

    texts: Texts
    model: str | None = None
    input_type: InputType | None = None
    prompt_name: Name | None = None
    normalize: bool | None = None
    dimensions: Dimensions | None = None
    output_dtype: OutputDtype = "float32"
    truncate: bool | None = None


class ClassifyBody(Body):
    """Texts, or lists of two texts, to label."""

    inputs: list[str | Pair] = Field(min_length=1)
    model: str | None = None
    truncate: bool | None = None


async def rank(body: RankBody, api: Api) -> dict[str, Any]:
    """Return the documents, best first, with scores, logits, probabilities and passages."""
    check_top_n(body.top_n)
    pairs = [(body.query, text) for text in texts_of(body.documents)]
    found = None
    if body.first_stage_scores is not None:
        found = FirstStage(body.first_stage_scores, body.first_stage)
    scored = await api.score(
        pairs,
        model=body.model,
        cut=TruncationRequest(body.truncate),
        first_stage=found,
        min_probability=api.least(body.min_probability),
    )
    likely = scored.probable
    return {
        "model": scored.model,
        "results": [
            {
                "index": i,
                "score": float(scored.scores[i]),
                "logit": float(scored.logits[i]),
                "is_truncated": bool(scored.is_truncated[i]),
                "probability": None if likely is None else float(likely.values[i]),
                "passages": [
                    {
                        "start": passage.start,
                        "end": passage.end,
                        "score": passage.score,
                        "probability": passage.probability,
                    }
                    for passage in scored.passages_of(i)
                ],
            }
            for i in scored.best_first(body.top_n)
        ],
        "num_tokens": scored.num_tokens,
    }


async def embed(body: EmbedBody, api: Api) -> dict[str, Any]:
    """Return vectors as one block, row by row, little-endian."""
    wanted = Vectors(
        body.input_type, body.prompt_name, body.normalize, body.dimensions, body.output_dtype
    )
    found = await api.embed(
        body.texts, wanted, model=body.model, cut=TruncationRequest(body.truncate)
    )
    vectors = found.vectors
    return {
        "model": found.model,
        "shape": list(vectors.shape),
        "dtype": vectors.dtype.name,
        "data": await api.aside(len(vectors), to_base64, vectors),
        "num_tokens": found.num_tokens,
    }


async def classify(body: ClassifyBody, api: Api) -> dict[str, Any]:
    """Return the probabilities of each label, in the checkpoint's order."""
    found = await api.classify(
        [_item(each, i) for i, each in enumerate(body.inputs)],
        model=body.model,
        cut=TruncationRequest(body.truncate),
    )
    return {
        "model": found.model,
        "labels": list(found.labels),
        "probabilities": found.probabilities,
        "calibrated_probabilities": found.calibrated,
        "is_truncated": [bool(each) for each in found.is_truncated],
        "num_tokens": found.num_tokens,
    }


def _item(given: str | list[str], at: int) -> str | tuple[str, str]:
    if isinstance(given, str):
        return given
    if len(given) != 2:
        raise InputError(f"inputs[{at}] must be a text or two texts, not {len(given)}")
    return given[0], given[1]


RANK = Operation(OWN, "polyrank: rank documents", rank, RankBody)
EMBED = Operation(OWN, "polyrank: embed texts", embed, EmbedBody)
CLASSIFY = Operation(OWN, "polyrank: label texts or pairs", classify, ClassifyBody)
