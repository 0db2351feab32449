"""What happens to a vector after the head: shortening, unit length, smaller types. Pure."""

from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from polyrank.config import check_choice, check_whole
from polyrank.errors import ConfigError
from polyrank.tasks.heads import normalize
from polyrank.types import Float32Array, OutputDtype


def check_dimensions(dimensions: int | None, full: int) -> int:
    """Return how many values of a vector to keep.

    Args:
        dimensions: What the caller asked for; None keeps all.
        full: Values of a whole vector.

    Returns:
        A number from 1 to `full`.

    Raises:
        ConfigError: If it is not between 1 and `full`.
    """
    return full if dimensions is None else check_whole("dimensions", dimensions, high=full)


def shorten(vectors: Float32Array, dimensions: int, *, is_normalized: bool) -> Float32Array:
    """Return the first values of each vector, scaled to unit length again where asked.

    Args:
        vectors: Shape (num_texts, dim).
        dimensions: Values to keep, at most dim.
        is_normalized: Whether vectors have unit length afterwards.

    Returns:
        Shape (num_texts, dimensions), contiguous.

    Reference: Kusupati et al., NeurIPS 2022, arXiv:2205.13147 (Matryoshka representations).
    """
    kept = np.ascontiguousarray(vectors[:, :dimensions])
    return normalize(kept) if is_normalized else kept


def finish_vectors(
    vectors: Float32Array,
    dimensions: int,
    output_dtype: OutputDtype,
    ranges: Float32Array | None = None,
    *,
    is_normalized: bool,
) -> NDArray[Any]:
    """Return what the caller gets of a head's vectors: shortened, scaled, in a smaller type.

    Args:
        vectors: Shape (num_texts, dim).
        dimensions: Values to keep, at most dim.
        output_dtype: Type wanted.
        ranges: As for `quantize_vectors`.
        is_normalized: Whether vectors have unit length before they are made smaller.

    Returns:
        As `quantize_vectors` does.
    """
    shortened = shorten(vectors, dimensions, is_normalized=is_normalized)
    return quantize_vectors(shortened, output_dtype, ranges)


def quantize_vectors(
    vectors: Float32Array, output_dtype: OutputDtype, ranges: Float32Array | None = None
) -> NDArray[Any]:
    """Return vectors in a smaller type.

    ``int8`` and ``uint8`` without `ranges` scale each vector by its own largest value, so that
    a vector never depends on the others of its call; cosines of int8 vectors stay (uint8 is the
    same shifted by 128: subtract 128 before comparing). With `ranges` each dimension is spread
    over 256 steps between its two bounds, as sentence-transformers does. ``binary`` and
    ``ubinary`` keep the sign of each value, eight to a byte, first value in the highest bit, the
    last byte filled up with zeros.

    Args:
        vectors: Shape (num_texts, dim).
        output_dtype: Type wanted.
        ranges: Lowest and highest value of each dimension, shape (2, dim).

    Returns:
        Shape (num_texts, dim) of float32, int8 or uint8; (num_texts, ceil(dim / 8)) of int8
        for binary, uint8 for ubinary.

    Raises:
        ConfigError: If the output dtype is unknown or `ranges` has another shape.

    Reference: https://huggingface.co/blog/embedding-quantization
    """
    check_choice("output_dtype", output_dtype, get_args(OutputDtype))
    if output_dtype == "float32":
        return vectors
    if output_dtype in ("binary", "ubinary"):
        return _to_bits(vectors, is_signed=output_dtype == "binary")
    steps = _scaled_by_row(vectors) if ranges is None else _scaled_by_range(vectors, ranges)
    return steps.astype(np.int8) if output_dtype == "int8" else (steps + 128).astype(np.uint8)


def _scaled_by_row(vectors: Float32Array) -> Float32Array:
    largest = np.abs(vectors).max(axis=1, keepdims=True, initial=0)
    return np.rint(vectors * (127 / np.maximum(largest, np.float32(1e-12))))


def _scaled_by_range(vectors: Float32Array, ranges: Float32Array) -> Float32Array:
    try:
        low, high = np.asarray(ranges, np.float32).reshape(2, vectors.shape[1])
    except (TypeError, ValueError) as exc:
        raise ConfigError(
            f"ranges must be numbers of shape (2, {vectors.shape[1]}), not {np.shape(ranges)}"
        ) from exc
    step = np.maximum((high - low) / 255, np.float32(1e-12))
    return np.clip(np.floor((vectors - low) / step), 0, 255) - 128


def _to_bits(vectors: Float32Array, *, is_signed: bool) -> NDArray[Any]:
    packed = np.packbits(vectors > 0, axis=-1)
    # XOR with 128 shifts unsigned bytes to signed ones, as sentence-transformers does by - 128
    return (packed ^ 0x80).view(np.int8) if is_signed else packed
