"""OpenAI's embeddings and models; the same shape serves Jina's, Voyage's and infinity's clients.

Vectors have unit length, as OpenAI documents. Without ``encoding_format``, floats are sent; the
openai client asks for base64 by itself.
"""

from typing import Any, Literal

from polyrank.server.cutting import TruncationRequest
from polyrank.server.dialects.base import Api, Body, Dialect, Operation
from polyrank.server.dialects.fields import Inputs, new_id, now_s, to_base64
from polyrank.server.failures import Failure
from polyrank.server.service import Embedded, Vectors
from polyrank.types import InputType, OutputDtype

ERROR_TYPES = {
    "unauthorized": "authentication_error",
    "overloaded": "rate_limit_error",
    "unavailable": "service_unavailable_error",
    "timeout": "timeout_error",
    "backend": "server_error",
    "internal": "server_error",
}
CODES = {
    "unauthorized": "invalid_api_key",
    "unknown_model": "model_not_found",
    "overloaded": "rate_limit_exceeded",
}
INPUT_TYPES: dict[str, InputType] = {
    "query": "query",
    "document": "document",
    "passage": "document",
    "search_query": "query",
    "search_document": "document",
    "retrieval.query": "query",
    "retrieval.passage": "document",
}


def error(failure: Failure, status: int) -> dict[str, Any]:
    """Return an error as OpenAI's clients read it."""
    error_type = ERROR_TYPES.get(failure.kind, "invalid_request_error")
    code = CODES.get(failure.kind)
    return {
        "error": {"message": failure.message, "type": error_type, "param": None, "code": code},
        # TEI's clients look here
        "message": failure.message,
    }


OPENAI = Dialect("openai", error, {"invalid": 400, "too_large": 413})


class EmbeddingsBody(Body):
    """Texts or token ids to embed; fields of OpenAI, Jina, Voyage and infinity."""

    input: Inputs
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None
    user: str | None = None
    input_type: str | None = None
    truncation: bool | None = None
    output_dimension: int | None = None
    output_dtype: Literal["float", "int8", "uint8", "binary", "ubinary"] | None = None
    task: str | None = None
    embedding_type: Literal["float", "base64", "binary", "ubinary"] | None = None
    truncate: bool | None = None
    normalized: bool | None = None
    late_chunking: bool | None = None

    def wanted(self) -> Vectors:
        """Return how vectors are wanted."""
        kind: Any = self.output_dtype or self.embedding_type or "float"
        output_dtype: OutputDtype = "float32" if kind in ("float", "base64") else kind
        return Vectors(
            input_type=INPUT_TYPES.get((self.input_type or self.task or "").lower()),
            # infinity's client sends 0 for all of them
            dimensions=self.dimensions or self.output_dimension or None,
            is_normalized=self.normalized is not False,
            output_dtype=output_dtype,
        )

    @property
    def is_base64(self) -> bool:
        """Whether vectors are wanted in base64."""
        return "base64" in (self.encoding_format, self.embedding_type)


async def embeddings(body: EmbeddingsBody, api: Api) -> dict[str, Any]:
    """Return one vector per input."""
    texts = await api.read_texts(body.input, model=body.model)
    if body.late_chunking:
        found = await api.embed_chunks(texts, body.wanted(), model=body.model)
    else:
        is_allowed = body.truncation if body.truncation is not None else body.truncate
        found = await api.embed(
            texts, body.wanted(), model=body.model, cut=TruncationRequest(is_allowed)
        )
    return {
        "object": "list",
        "data": await api.aside(len(texts), _data, found, is_base64=body.is_base64),
        "model": found.model,
        "usage": {"prompt_tokens": found.num_tokens, "total_tokens": found.num_tokens},
        "id": new_id("embd"),
        "created": now_s(),
    }


def _data(found: Embedded, *, is_base64: bool) -> list[dict[str, Any]]:
    return [
        {
            "object": "embedding",
            "embedding": to_base64(vector) if is_base64 else vector,
            "index": i,
        }
        for i, vector in enumerate(found.vectors)
    ]


async def models(body: None, api: Api) -> dict[str, Any]:
    """Return the loaded models."""
    return list_models(api, "polyrank")


def list_models(api: Api, owned_by: str) -> dict[str, Any]:
    """Return the loaded models, with infinity's figures of the queue.

    Args:
        api: The service.
        owned_by: What clients find under that name; infinity's accepts only its own.

    Returns:
        The reply.
    """
    scheduler = api.service.scheduler
    stats = {
        "queue_absolute": scheduler.num_waiting_sequences,
        "queue_fraction": api.service.admission.fullness(),
        "results_pending": api.service.admission.num_requests,
        "batch_size": api.settings.limits.max_client_batch_size,
    }
    return {
        "object": "list",
        "data": [
            {
                "id": served.name,
                "object": "model",
                "created": served.loaded_at,
                "owned_by": owned_by,
                "backend": served.engine.encoder.capabilities.name,
                "capabilities": served.tasks,
                "stats": stats,
            }
            for served in api.service.registry.loaded
        ],
    }


EMBEDDINGS = Operation(OPENAI, "Embed texts", embeddings, EmbeddingsBody)
MODELS = Operation(OPENAI, "The loaded models", models)
