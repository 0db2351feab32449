"""MTEB: an encoder and a cross-encoder, so that its suites run on any polyrank model."""

from collections.abc import Iterable, Mapping
from typing import Any

from numpy.typing import NDArray

from polyrank import __version__
from polyrank._extras import require

require("mteb", purpose="polyrank.integrations.mteb")

from mteb.models import ModelMeta

from polyrank.compat.vectors import compare
from polyrank.inference.model import ModelInfo
from polyrank.integrations.loading import ModelLike, as_embedder, as_reranker

Batches = Iterable[Mapping[str, list[str]]]
_UNKNOWN = (
    *("loader", "release_date", "languages", "n_parameters", "n_embedding_parameters"),
    *("memory_usage_mb", "license", "open_weights", "public_training_code"),
    *("public_training_data", "use_instructions", "training_datasets"),
)


class _Model:
    """What MTEB shows of a model."""

    info: ModelInfo

    @property
    def mteb_model_meta(self) -> ModelMeta:
        """Name, sizes and similarity; MTEB wants an owner before a name."""
        name = self.info.name
        return ModelMeta(
            **{key: None for key in _UNKNOWN if key in ModelMeta.model_fields},
            name=name if name.count("/") == 1 else f"polyrank/{name.replace('/', '-')}",
            revision=__version__,
            max_tokens=self.info.max_length,
            embed_dim=self.info.dimensions or None,
            framework=[],
            similarity_fn_name="cosine",
        )


class PolyrankEncoder(_Model):
    """Vectors for retrieval, classification, clustering, pairs and similarity."""

    def __init__(self, model: ModelLike = None, revision: str | None = None, **_: Any) -> None:
        """Load an embedder."""
        self.embedder = as_embedder(model)
        self.info = self.embedder.info

    def encode(self, inputs: Batches, *, prompt_type: Any = None, **_: Any) -> NDArray[Any]:
        """Return one vector a text, prompted as a query or a document where MTEB says which."""
        texts = [text for batch in inputs for text in batch["text"]]
        input_type = None if prompt_type is None else prompt_type.value
        return self.embedder.encode(texts, input_type=input_type)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Return the cosine of each vector of the first with each of the second."""
        return compare("cosine", embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Return the cosine of each vector of the first with its partner."""
        pairs = zip(embeddings1, embeddings2, strict=True)
        return [float(compare("cosine", first, second)[0, 0]) for first, second in pairs]


class PolyrankCrossEncoder(_Model):
    """Scores for reranking."""

    def __init__(self, model: ModelLike = None, revision: str | None = None, **_: Any) -> None:
        """Load a reranker."""
        self.reranker = as_reranker(model)
        self.info = self.reranker.info

    def predict(self, inputs1: Batches, inputs2: Batches, **_: Any) -> NDArray[Any]:
        """Return the logit of each pair; the sigmoid of a sure one would tie with others."""
        queries = [text for batch in inputs1 for text in batch["text"]]
        documents = [text for batch in inputs2 for text in batch["text"]]
        return self.reranker.score(zip(queries, documents, strict=True), logits=True)
