"""text-embeddings-inference 1.9 (router/src/http): its routes, shapes and errors.

Differences, all on purpose: batches of thousands are taken, embedders rerank by cosine, and
``/predict`` takes a flat list of two texts as the pair that it is there.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BeforeValidator, Field

import polyrank
from polyrank.errors import RequestError
from polyrank.server.cutting import TruncationRequest
from polyrank.server.dialects.base import Api, Body, Dialect, Operation
from polyrank.server.dialects.fields import Dimensions, Inputs, Name, OneOrTwo, Texts
from polyrank.server.dialects.ranking import ProbabilityFields, ranked
from polyrank.server.failures import Failure
from polyrank.server.models import Registry, ServedModel
from polyrank.server.service import Classified, Vectors
from polyrank.text.tokenizer import Token
from polyrank.types import TaskName

ERROR_TYPES = {
    "unavailable": "Unhealthy",
    "backend": "Backend",
    "incapable": "Backend",
    "internal": "Backend",
    "timeout": "Backend",
    "overloaded": "Overloaded",
    "empty": "Empty",
}


def _error(failure: Failure, status: int) -> dict[str, str]:
    error_type = ERROR_TYPES.get(failure.kind, "Validation")
    return {"error": failure.message, "error_type": error_type}


TEI = Dialect("tei", _error, {"incapable": 424, "backend": 424})

Direction = Annotated[
    Literal["left", "right"], BeforeValidator(lambda x: x.lower() if isinstance(x, str) else x)
]


class _Cutting(Body):
    truncate: bool | None = None
    truncation_direction: Direction = "right"
    model: str | None = None

    def cut(self) -> TruncationRequest:
        return TruncationRequest(self.truncate, self.truncation_direction)


class RerankBody(_Cutting, ProbabilityFields):
    """Texts to rank by relevance to a query."""

    query: str
    texts: Texts
    raw_scores: bool = False
    return_text: bool = False


class PredictBody(_Cutting):
    """A text, a pair, or a batch of them, to label."""

    inputs: str | OneOrTwo | Annotated[list[OneOrTwo], Field(json_schema_extra={"minItems": 1})]
    raw_scores: bool = False
    parameters: dict[str, Any] | None = None


class EmbedBody(_Cutting):
    """Texts or token ids to embed."""

    inputs: Inputs
    prompt_name: Name | None = None
    normalize: bool = True
    dimensions: Dimensions | None = None


class EmbedAllBody(_Cutting):
    """Texts or token ids whose every token is embedded."""

    inputs: Inputs
    prompt_name: Name | None = None


class SimilarityInput(Body):
    """A sentence and those to compare it with."""

    source_sentence: str
    sentences: list[str]


class SimilarityParameters(_Cutting):
    """How the sentences are embedded."""

    prompt_name: Name | None = None


class SimilarityBody(Body):
    """A sentence, those to compare it with, and how."""

    inputs: SimilarityInput
    parameters: SimilarityParameters | None = None
    model: str | None = None


class TokenizeBody(Body):
    """Texts to tokenise."""

    inputs: str | Texts
    add_special_tokens: bool = True
    prompt_name: Name | None = None
    model: str | None = None


class DecodeBody(Body):
    """Token ids to spell out."""

    ids: list[int] | list[list[int]]
    skip_special_tokens: bool = True
    model: str | None = None


class VertexBody(Body):
    """Bodies of any of the other routes."""

    instances: list[dict[str, Any]]


async def rerank(body: RerankBody, api: Api) -> list[dict[str, Any]]:
    """Return all texts, best first; equal logits keep their order."""
    found = await ranked(
        api,
        body.query,
        body.texts,
        body.model,
        None,
        is_raw=body.raw_scores,
        cut=body.cut(),
        asked=body,
    )
    ranks: list[dict[str, Any]] = []
    for i, score in found.hits:
        rank: dict[str, Any] = {"index": i, "score": score, **found.more(i)}
        if body.return_text:
            rank["text"] = body.texts[i]
        ranks.append(rank)
    return ranks


async def predict(body: PredictBody, api: Api) -> list[Any]:
    """Return labels, most probable first: one list, or one a member of a batch."""
    items, is_batch = _predict_items(body.inputs)
    found = await api.classify(items, model=body.model, cut=body.cut())
    predictions = labelled(found, is_raw=body.raw_scores)
    # huggingface_hub sends `parameters`, and takes the first element for the whole list of labels
    return predictions if is_batch or body.parameters is not None else predictions[0]


def labelled(found: Classified, *, is_raw: bool) -> list[list[dict[str, Any]]]:
    """Return the labels of each item with their values, highest first."""
    values = found.logits if is_raw else found.probabilities
    return [
        [
            {"score": float(row[k]), "label": found.labels[k]}
            for k in np.argsort(-row, kind="stable")
        ]
        for row in values
    ]


def _predict_items(
    inputs: str | Sequence[str] | Sequence[Sequence[str]],
) -> tuple[list[str | tuple[str, str]], bool]:
    if isinstance(inputs, str):
        return [inputs], False
    if inputs and all(isinstance(each, str) for each in inputs):
        return [_one(list(map(str, inputs)))], False
    return [_one(list(each)) for each in inputs], True


def _one(texts: list[str]) -> str | tuple[str, str]:
    if len(texts) == 1:
        return texts[0]
    if len(texts) == 2:
        return texts[0], texts[1]
    raise RequestError(
        f"`inputs` must be a text, a pair of texts, or a list of lists of one or two texts; one "
        f"has {len(texts)}"
    )


async def embed(body: EmbedBody, api: Api) -> Any:
    """Return one vector per input, always as a list of lists."""
    texts = await api.read_texts(body.inputs, model=body.model)
    wanted = Vectors(
        prompt_name=body.prompt_name, is_normalized=body.normalize, dimensions=body.dimensions
    )
    return (await api.embed(texts, wanted, model=body.model, cut=body.cut())).vectors


async def embed_all(body: EmbedAllBody, api: Api) -> Any:
    """Return one row per token of each input."""
    texts = await api.read_texts(body.inputs, model=body.model)
    found = await api.embed_tokens(
        texts, model=body.model, cut=body.cut(), prompt_name=body.prompt_name
    )
    return found.vectors


async def similarity(body: SimilarityBody, api: Api) -> Any:
    """Return the cosine of the source and each sentence."""
    parameters = body.parameters or SimilarityParameters()
    texts = [body.inputs.source_sentence, *body.inputs.sentences]
    if len(texts) == 1:
        return []
    wanted = Vectors(prompt_name=parameters.prompt_name, is_normalized=True)
    vectors = (await api.embed(texts, wanted, model=body.model, cut=parameters.cut())).vectors
    return np.einsum("d,nd->n", vectors[0], vectors[1:])


async def tokenize(body: TokenizeBody, api: Api) -> list[list[dict[str, Any]]]:
    """Return the tokens of each text."""
    texts = [body.inputs] if isinstance(body.inputs, str) else body.inputs
    if body.prompt_name is not None:
        served = api.service.registry.find(body.model, "embed")
        before = served.prompt(input_type=None, prompt_name=body.prompt_name)
        texts = [before + text for text in texts]
    found = await api.tokenize(texts, model=body.model, is_special=body.add_special_tokens)
    return await api.aside(sum(map(len, found)), _spelt, found)


def _spelt(found: Sequence[Sequence[Token]]) -> list[list[dict[str, Any]]]:
    return [
        [
            {
                "id": token.token_id,
                "text": token.text,
                "special": token.is_special,
                "start": token.start,
                "stop": token.stop,
            }
            for token in tokens
        ]
        for tokens in found
    ]


async def decode(body: DecodeBody, api: Api) -> list[str]:
    """Return the text of each list of ids."""
    # a list of ids, or of lists of them; an empty one holds nothing to spell out
    is_one = bool(body.ids) and isinstance(body.ids[0], int)
    lists: Any = [body.ids] if is_one else body.ids
    return await api.decode(lists, model=body.model, skip_special=body.skip_special_tokens)


async def info(body: None, api: Api) -> dict[str, Any]:
    """Return what is served, and its limits."""
    served = api.service.registry.loaded[0]
    limits, spec = api.settings.limits, served.spec
    return {
        "model_id": spec.name,
        "model_sha": None,
        "model_dtype": served.engine.encoder.capabilities.compute_dtype,
        "served_model_name": served.name,
        "model_type": _model_type(served),
        "max_concurrent_requests": limits.max_concurrent_requests,
        "max_input_length": served.max_length,
        "max_batch_tokens": served.engine.max_batch_tokens,
        "max_batch_requests": None,
        "max_client_batch_size": limits.max_client_batch_size,
        "auto_truncate": served.is_truncating,
        "tokenization_workers": api.settings.num_workers,
        "version": polyrank.__version__,
        "sha": None,
        "docker_label": None,
        "models": [
            {
                "name": each.name,
                "model_id": each.spec.name,
                "tasks": each.tasks,
                "ranks_by": _ranks_by(each),
                "model_dtype": each.engine.encoder.capabilities.compute_dtype,
                "device": each.engine.encoder.capabilities.device,
                "max_input_length": each.max_length,
                "dimensions": each.dimensions,
                "assumptions": each.spec.assumptions,
            }
            for each in api.service.registry.loaded
        ],
    }


def _ranks_by(served: ServedModel) -> str:
    if "rerank" not in served.spec.tasks:
        return "cosine"
    is_late = served.head("rerank").spec.late_interaction is not None
    return "late interaction" if is_late else "cross-encoder"


def _model_type(served: ServedModel) -> dict[str, Any]:
    kinds: tuple[tuple[TaskName, str], ...] = (("rerank", "reranker"), ("classify", "classifier"))
    for task, name in kinds:
        if task in served.spec.tasks:
            labels = served.head(task).spec.labels
            by_id = {str(i): label for i, label in enumerate(labels)}
            by_label = {label: i for i, label in enumerate(labels)}
            return {name: {"id2label": by_id, "label2id": by_label}}
    return {"embedding": {"pooling": "+".join(served.head("embed").spec.pooling)}}


async def vertex(body: VertexBody, api: Api) -> dict[str, Any]:
    """Return the reply of each instance."""
    predictions = []
    for instance in body.instances:
        operation = guess(instance, {}, api.service.registry)
        assert operation.schema is not None
        checked = await api.service.in_worker(operation.schema.model_validate, instance)
        predictions.append(await operation.handle(checked, api))
    return {"predictions": predictions}


def guess(body: Mapping[str, Any], headers: Mapping[str, str], registry: Registry) -> Operation:
    """Return which route a body is meant for, where the path does not say.

    Args:
        body: The body.
        headers: Not looked at.
        registry: Tells what the server can do.

    Returns:
        Rerank for ``texts``, similarity for ``source_sentence``; otherwise what the first model
        is for: predict for classifiers and rerankers, embed for embedders.
    """
    if "texts" in body:
        return RERANK
    inputs = body.get("inputs")
    if isinstance(inputs, dict) and "source_sentence" in inputs:
        return SIMILARITY
    return EMBED if "embed" in registry.loaded[0].spec.tasks else PREDICT


RERANK = Operation(TEI, "Rank texts by relevance to a query", rerank, RerankBody)
PREDICT = Operation(TEI, "Label texts or pairs", predict, PredictBody)
EMBED = Operation(TEI, "Embed texts", embed, EmbedBody)
EMBED_ALL = Operation(TEI, "Embed every token of texts", embed_all, EmbedAllBody)
SIMILARITY = Operation(TEI, "Compare a sentence with others", similarity, SimilarityBody)
TOKENIZE = Operation(TEI, "Tokenise texts", tokenize, TokenizeBody)
DECODE = Operation(TEI, "Spell out token ids", decode, DecodeBody)
INFO = Operation(TEI, "What is served", info)
VERTEX = Operation(TEI, "Vertex AI: several bodies at once", vertex, VertexBody)
ANY = (EMBED, PREDICT, RERANK, SIMILARITY)
