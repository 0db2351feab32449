"""The models of a pipeline: one that fills a store, and the same or another one that reranks."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from polyrank.config import DEFAULT_MAX_BATCH_TOKENS, EngineConfig
from polyrank.errors import StoreMismatchError
from polyrank.inference.embedder import Embedder
from polyrank.inference.model import load_model
from polyrank.inference.reranker import Reranker
from polyrank.text.tokenizer import Tokenizer
from polyrank.types import ComputeDtype

_PROBE = "Wie lange leben Katzen? 猫の寿命"
_SAME = 0.98  # cosine of the probe by one model in float32 and in int8; other models are near 0


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """How models are loaded.

    Attributes:
        model: Folder or Hub id; None takes the default model.
        encoder: Backend name, or "auto".
        num_threads: Threads; None takes what this process may use.
        device: "cpu", or a device of the pytorch encoder.
        compute_dtype: Type of the products in linear layers.
        max_batch_tokens: Tokens in one forward pass.
        revision: Branch, tag or commit on the Hub.
    """

    model: str | None = None
    encoder: str = "auto"
    num_threads: int | None = None
    device: str = "cpu"
    compute_dtype: ComputeDtype = "auto"
    max_batch_tokens: int = DEFAULT_MAX_BATCH_TOKENS
    revision: str | None = None

    def embedder(self) -> Embedder:
        """Load what makes vectors."""
        return Embedder(self.model, **self._options())

    def reranker(self) -> Reranker:
        """Load what reranks; it shares what `embedder` has loaded."""
        return Reranker(self.model, **self._options())

    def tokenizer(self) -> Tokenizer:
        """Load what counts tokens; it shares what `embedder` has loaded."""
        config = EngineConfig(
            *(self.encoder, self.max_batch_tokens, self.num_threads),
            *(self.device, self.compute_dtype),
        )
        return load_model(self.model, config, revision=self.revision).tokenizer

    def _options(self) -> dict[str, Any]:
        return {
            "encoder": self.encoder,
            "num_threads": self.num_threads,
            "device": self.device,
            "compute_dtype": self.compute_dtype,
            "max_batch_tokens": self.max_batch_tokens,
            "revision": self.revision,
        }


def probe(embedder: Embedder) -> list[float]:
    """Return the vector of a fixed text, by which a model is known again."""
    vector = embedder.encode(_PROBE, input_type="document")
    return [float(value) for value in np.asarray(vector, np.float32)]


def check_probe(embedder: Embedder, known: list[float], url: str, name: str) -> None:
    """Raise unless a model is the one that filled a store.

    Args:
        embedder: The model.
        known: What `probe` gave when the store was begun.
        url: The store.
        name: The model that filled it, for the message.

    Raises:
        StoreMismatchError: If its vectors are others.
    """
    before, now = np.array(known), np.array(probe(embedder))
    length = float(np.linalg.norm(before) * np.linalg.norm(now))
    if before.shape != now.shape or length == 0 or float(before @ now) / length < _SAME:
        raise StoreMismatchError(
            f"{url} was filled by {name}, and {embedder.info.name} makes other vectors "
            f"({len(now)} values; {len(before)} there). Name the model that filled it, or another "
            "store."
        )
