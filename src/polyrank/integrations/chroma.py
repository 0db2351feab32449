"""Chroma: an embedding function, kept by name in a collection's own configuration."""

from typing import Any

from polyrank._extras import require

require("chroma", purpose="polyrank.integrations.chroma")

from chromadb.api.types import Documents, EmbeddingFunction, Embeddings
from chromadb.utils.embedding_functions import register_embedding_function

from polyrank.inference.embedder import Embedder
from polyrank.types import InputType


@register_embedding_function
class PolyrankEmbeddingFunction(EmbeddingFunction[Documents]):
    """Vectors of documents and questions, each with the checkpoint's own prompt."""

    def __init__(self, model: str | None = None) -> None:
        """Load a local folder or Hub id; None takes the default model."""
        self.model = model
        self._embedder = Embedder(model)

    def __call__(self, input: Documents) -> Embeddings:
        """Return one vector a document."""
        return self._encode(input, "document")

    def embed_query(self, input: Documents) -> Embeddings:
        """Return one vector a question."""
        return self._encode(input, "query")

    def _encode(self, texts: Documents, input_type: InputType) -> Embeddings:
        return list(self._embedder.encode(list(texts), input_type=input_type))

    @staticmethod
    def name() -> str:
        """Return the name that Chroma keeps."""
        return "polyrank"

    def get_config(self) -> dict[str, Any]:
        """Return what `build_from_config` takes."""
        return {"model": self.model}

    @staticmethod
    def build_from_config(config: dict[str, Any]) -> "PolyrankEmbeddingFunction":
        """Return the function that a collection was made with."""
        return PolyrankEmbeddingFunction(config.get("model"))

    def default_space(self) -> Any:
        """Return how vectors are compared."""
        return "cosine"

    def supported_spaces(self) -> Any:
        """Return how vectors may be compared."""
        return ["cosine", "l2", "ip"]
