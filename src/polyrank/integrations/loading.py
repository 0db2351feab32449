"""What all parts share: a name, a folder or a model that is loaded already."""

import os

from polyrank.inference.embedder import Embedder
from polyrank.inference.reranker import Reranker

ModelLike = str | os.PathLike[str] | None


def as_reranker(model: "ModelLike | Reranker") -> Reranker:
    """Return a reranker, loading it unless it is one."""
    return model if isinstance(model, Reranker) else Reranker(model)


def as_embedder(model: "ModelLike | Embedder") -> Embedder:
    """Return an embedder, loading it unless it is one."""
    return model if isinstance(model, Embedder) else Embedder(model)
