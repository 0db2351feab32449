"""Product codes of rows: codebooks learnt by k-means, and the codes of rows in them.

Knows nothing of tiers or files. Everything is deterministic: the same rows, seed and number of
threads of the BLAS give the same codebooks.

Reference: Jegou, Douze and Schmid, TPAMI 2011, doi:10.1109/TPAMI.2010.57 (product quantisation).
"""

import numpy as np
from numpy.typing import NDArray

from polyrank.checkpoint.formats.mixed import NUM_CODEWORDS
from polyrank.types import Float16Array, Float32Array, UInt8Array

SAMPLE_ROWS = 50_000  # that codebooks are learnt from
_ROUNDS = 12
_ROWS_AT_ONCE = 16_384


def sample_rows(num_rows: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Return the rows to learn a codebook from, ascending."""
    if num_rows <= SAMPLE_ROWS:
        return np.arange(num_rows)
    return np.sort(generator.choice(num_rows, SAMPLE_ROWS, replace=False))


def learn_codewords(vectors: Float32Array, generator: np.random.Generator) -> Float16Array:
    """Return 256 vectors that others are near to, by k-means.

    Args:
        vectors: Shape (num_vectors, width); without any, codewords are zeros.
        generator: Chooses where to start.

    Returns:
        Shape (256, width).
    """
    if not len(vectors):
        return np.zeros((NUM_CODEWORDS, vectors.shape[1]), np.float16)
    is_few = len(vectors) < NUM_CODEWORDS
    words = vectors[generator.choice(len(vectors), NUM_CODEWORDS, replace=is_few)].copy()
    for _ in range(_ROUNDS):
        codes = nearest(vectors, words)
        counts = np.bincount(codes, minlength=NUM_CODEWORDS)
        sums = [np.bincount(codes, column, minlength=NUM_CODEWORDS) for column in vectors.T]
        used = counts > 0
        words[used] = (np.stack(sums, axis=1)[used] / counts[used, None]).astype(np.float32)
        # one that no vector chose starts anew from a vector
        words[~used] = vectors[generator.choice(len(vectors), int((~used).sum()))]
    return words.astype(np.float16)


def nearest(vectors: Float32Array, words: Float32Array) -> UInt8Array:
    """Return the number of the codeword of least distance for each vector.

    Args:
        vectors: Shape (num_vectors, width).
        words: Shape (256, width).

    Returns:
        Shape (num_vectors,).
    """
    halves = np.einsum("kd,kd->k", words, words) / 2
    found = np.empty(len(vectors), np.uint8)
    for start in range(0, len(vectors), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        found[part] = (halves - vectors[part] @ words.T).argmin(axis=1)
    return found
