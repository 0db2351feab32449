"""`MultiVectorEncoder` as sentence-transformers 6 has it, with a `Reranker` behind it."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from polyrank.compat.arguments import ResultForm, as_tensor, encoder_of, translated
from polyrank.inference.model import ModelName
from polyrank.inference.reranker import Reranker
from polyrank.tasks.maxsim import choose_matcher
from polyrank.types import Float32Array, InputType


class MultiVectorEncoder:
    """Token vectors of queries and documents, compared by `similarity` (MaxSim)."""

    def __init__(self, model: ModelName = None, **arguments: Any) -> None:
        """Load a checkpoint of late interaction; the default model is one."""
        encoder = encoder_of("MultiVectorEncoder", arguments.pop("backend", None))
        self.model = Reranker(model, encoder=encoder, **translated("MultiVectorEncoder", arguments))
        spec = self.model.spec.head("rerank").multi_vector
        is_sum = spec is not None and not spec.is_mean
        self.similarity_fn_name = "maxsim" if is_sum else "meanmaxsim"

    def encode_query(self, inputs: str | Sequence[str], **arguments: Any) -> Any:
        """Return the token vectors of each question: tensors, or arrays if asked."""
        return self._encode(inputs, "query", arguments)

    def encode_document(self, inputs: str | Sequence[str], **arguments: Any) -> Any:
        """Return the token vectors of each text that is searched."""
        return self._encode(inputs, "document", arguments)

    def _encode(
        self, inputs: str | Sequence[str], input_type: InputType, arguments: dict[str, Any]
    ) -> Any:
        is_numpy, is_single = arguments.pop("convert_to_numpy", False), isinstance(inputs, str)
        answer = ResultForm(
            f"MultiVectorEncoder.encode_{input_type}", arguments, is_single=is_single
        )
        texts: Any = [inputs] if is_single else inputs
        with answer.progress() as progress:
            rows = self.model.token_vectors(texts, input_type=input_type, progress=progress)
        vectors = rows if is_numpy else [as_tensor(part) for part in rows]
        return vectors[0] if is_single else vectors

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Return the score of each query with each document, a tensor where the queries are."""
        queries, documents = _arrays(embeddings1), _arrays(embeddings2)
        scores = np.empty((len(queries), len(documents)), np.float32)
        matcher = choose_matcher()
        for i, j in np.ndindex(scores.shape):
            rows = np.concatenate([queries[i], documents[j]])
            size = len(queries[i])
            spans = np.array([[0, size]], np.int32), np.array([[size, len(rows)]], np.int32)
            best, _ = matcher.best(rows, *spans)
            scores[i, j] = best.sum() if self.similarity_fn_name == "maxsim" else best.mean()
        is_tensor = hasattr(embeddings1, "detach") or hasattr(embeddings1[0], "detach")
        return as_tensor(scores) if is_tensor else scores


def _arrays(embeddings: Any) -> list[Float32Array]:
    is_one = getattr(embeddings, "ndim", 3) == 2
    return [np.asarray(part, np.float32) for part in ([embeddings] if is_one else embeddings)]
