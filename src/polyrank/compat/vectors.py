"""Vectors shaped and compared as sentence-transformers does it."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyrank.compat.arguments import as_tensor
from polyrank.errors import ConfigError
from polyrank.tasks.embed import check_dimensions, quantize_vectors
from polyrank.tasks.heads import normalize
from polyrank.types import Float32Array, OutputDtype

SIMILARITIES: Mapping[str, Callable[[Float32Array, Float32Array], Float32Array]] = {
    "cosine": lambda first, second: normalize(first) @ normalize(second).T,
    "dot": lambda first, second: first @ second.T,
    "euclidean": lambda first, second: np.stack(
        [-np.sqrt(np.square(second - row).sum(axis=1)) for row in first]
    ),
    "manhattan": lambda first, second: np.stack(
        [-np.abs(second - row).sum(axis=1) for row in first]
    ),
}


def shaped(
    vectors: Float32Array,
    dimensions: int | None,
    output_dtype: OutputDtype,
    *,
    is_normalized: bool,
) -> NDArray[Any]:
    """Return vectors cut short, then scaled to unit length if asked, then in a smaller type.

    As there, and unlike in `Embedder.encode`, vectors cut short stay as they are unless asked, and
    the steps of int8 are laid over what the vectors of this call span.
    """
    size = check_dimensions(dimensions, vectors.shape[1])
    kept = np.ascontiguousarray(vectors[:, :size])
    kept = normalize(kept) if is_normalized else kept
    if output_dtype == "float32" or not len(kept):
        return kept
    return quantize_vectors(kept, output_dtype, np.stack([kept.min(axis=0), kept.max(axis=0)]))


def compare(name: str, first: Any, second: Any) -> Any:
    """Return the similarity of each vector of the first to each of the second.

    Args:
        name: "cosine", "dot", "euclidean" or "manhattan", the last two as negative distances.
        first: Vectors, shape (n, dim), or one.
        second: Vectors, shape (m, dim), or one.

    Returns:
        Shape (n, m); a tensor where the first are one, else an array.

    Raises:
        ConfigError: If there is no such similarity.
    """
    if name not in SIMILARITIES:
        raise ConfigError(f"similarity must be one of {', '.join(SIMILARITIES)}, not {name!r}")
    arrays = [np.atleast_2d(np.asarray(vectors, np.float32)) for vectors in (first, second)]
    found = SIMILARITIES[name](arrays[0], arrays[1])
    return as_tensor(found) if hasattr(first, "detach") else found
