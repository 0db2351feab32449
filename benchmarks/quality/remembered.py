"""Embedders and rerankers that answer the same question from memory.

The sets are measured in several ways (one language, across, one pool; behind vectors, behind BM25,
blended), which ask for the same vectors and logits again.
"""

from collections.abc import Sequence

import numpy as np

from polyrank.evaluation.retrievers import EmbedderLike
from polyrank.evaluation.run import RerankerLike
from polyrank.types import Float32Array, InputType


class RememberedEmbedder:
    """An embedder that reads each text once."""

    def __init__(self, embedder: EmbedderLike) -> None:
        self._embedder = embedder
        self._vectors: dict[tuple[InputType, str], Float32Array] = {}

    def encode(self, texts: Sequence[str], *, input_type: InputType) -> Float32Array:
        """Return one row of unit length for each text, shape (num_texts, dim)."""
        new = [text for text in dict.fromkeys(texts) if (input_type, text) not in self._vectors]
        if new:
            rows = self._embedder.encode(new, input_type=input_type)
            self._vectors.update(zip(((input_type, text) for text in new), rows, strict=True))
        return np.stack([self._vectors[input_type, text] for text in texts])


class RememberedReranker:
    """A reranker that compares each pair once."""

    def __init__(self, reranker: RerankerLike) -> None:
        self._reranker = reranker
        self._logits: dict[tuple[str, str], float] = {}

    def score(self, pairs: Sequence[tuple[str, str]]) -> Float32Array:
        """Return one logit for each pair, shape (num_pairs,)."""
        new = [pair for pair in dict.fromkeys(pairs) if pair not in self._logits]
        if new:
            self._logits.update(zip(new, self._reranker.score(new).tolist(), strict=True))
        return np.array([self._logits[pair] for pair in pairs], np.float32)

    def forget(self) -> None:
        """Forget all pairs: those of one set do not occur in another."""
        self._logits.clear()
