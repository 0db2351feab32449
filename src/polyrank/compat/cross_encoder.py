"""`CrossEncoder` as sentence-transformers has it, with any checkpoint of polyrank behind it."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from polyrank.compat.arguments import LOADING, ResultForm, activation_of, encoder_of, translated
from polyrank.errors import CapabilityError, ConfigError
from polyrank.inference.classifier import Classifier
from polyrank.inference.model import ModelName
from polyrank.inference.reranker import Reranker
from polyrank.tasks.heads import ACTIVATIONS


class CrossEncoder:
    """Scores of pairs by `predict`, and documents by relevance by `rank`."""

    def __init__(
        self, model: ModelName = None, *, activation_fn: Any = None, **arguments: Any
    ) -> None:
        """Load a reranker, or a classifier of pairs, by arguments of sentence-transformers."""
        self._activation = activation_of(activation_fn)
        num_labels = arguments.pop("num_labels", None)
        encoder = encoder_of("CrossEncoder", arguments.pop("backend", None))
        given = translated("CrossEncoder", arguments, {**LOADING, "max_length": "max_length"})
        self.model: Reranker | Classifier
        try:
            self.model = Reranker(model, encoder=encoder, passages=None, **given)
        except CapabilityError:
            self.model = Classifier(model, encoder=encoder, **given)
        self.num_labels = len(self.model.info.labels) or 1
        if num_labels not in (None, self.num_labels):
            raise ConfigError(f"the checkpoint has {self.num_labels} labels, not {num_labels}")

    def predict(
        self,
        inputs: Sequence[Any],
        *,
        activation_fn: Any = None,
        apply_softmax: bool = False,
        **arguments: Any,
    ) -> Any:
        """Return one score a pair; where the checkpoint has several labels, their logits."""
        is_single = len(inputs) == 2 and isinstance(inputs[0], str)
        answer = ResultForm("CrossEncoder.predict", arguments, is_single=is_single)
        pairs: Any = [inputs] if is_single else inputs
        name = activation_of(activation_fn) or self._activation
        with answer.progress() as progress:
            if isinstance(self.model, Reranker):
                scores = self.model.score(pairs, logits=name is not None, progress=progress)
            else:
                scores = self.model.logits(pairs, progress=progress)
                name = "softmax" if apply_softmax else name
        return answer.of(scores if name is None else ACTIVATIONS[name](scores))

    def rank(
        self,
        query: str,
        documents: Sequence[str],
        top_k: int | None = None,
        return_documents: bool = False,
        **arguments: Any,
    ) -> list[dict[str, Any]]:
        """Return ``{"corpus_id": …, "score": …}`` of documents, the best first."""
        if self.num_labels != 1:
            raise ConfigError("CrossEncoder.rank needs a checkpoint of one label; use predict.")
        scores = self.predict([(query, text) for text in documents], **arguments)
        best = np.argsort(-scores, kind="stable")[:top_k].tolist()
        texts = [{"text": documents[i]} if return_documents else {} for i in best]
        return [
            {"corpus_id": i, "score": float(scores[i]), **text}
            for i, text in zip(best, texts, strict=True)
        ]
