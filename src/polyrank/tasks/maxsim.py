"""Arithmetic of late interaction on token rows: what is taken out of them, and what matches what.

Knows rows and bounds, not texts or heads. Everything is computed for one sequence, or for the two
of one pair, at a time, so no bit of a result depends on what else is in the call.
"""

from itertools import pairwise
from typing import Protocol

import numpy as np

from polyrank._extras import is_installed
from polyrank.tasks.heads import normalize
from polyrank.types import Float32Array, Int32Array, Spans


class Matcher(Protocol):
    """Cleans token rows and compares those of two texts."""

    def clean(
        self,
        rows: Float32Array,
        cu_seqlens: Int32Array,
        center: Float32Array,
        directions: Float32Array,
    ) -> Float32Array:
        """Return rows without their center and some directions, of unit length.

        Args:
            rows: Token rows in packed order, shape (total_tokens, hidden_size).
            cu_seqlens: Bounds of the sequences, shape (num_sequences + 1,).
            center: What is taken from every row, shape (hidden_size,).
            directions: Orthonormal rows to project out, shape (num_directions, hidden_size).

        Returns:
            Shape (total_tokens, hidden_size); a row of which nothing is left is zeros.
        """
        ...

    def best(
        self, rows: Float32Array, queries: Spans, documents: Spans
    ) -> tuple[Float32Array, Float32Array]:
        """Return how well each token of each pair is matched by the other text of the pair.

        Args:
            rows: Rows of unit length, shape (total_tokens, hidden_size).
            queries: Tokens of each pair's query, none empty, shape (num_pairs, 2).
            documents: Tokens of each pair's document, none empty, shape (num_pairs, 2).

        Returns:
            The largest product with a row of the document for each token of the first query, then
            of the second and so on; and the same the other way round.

        Reference: Khattab and Zaharia, SIGIR 2020, arXiv:2004.12832 (MaxSim).
        """
        ...


class NumpyMatcher:
    """A `Matcher` for installs without the native library."""

    def clean(
        self,
        rows: Float32Array,
        cu_seqlens: Int32Array,
        center: Float32Array,
        directions: Float32Array,
    ) -> Float32Array:
        """Return rows without their center and some directions; see `Matcher.clean`."""
        cleaned = np.empty(rows.shape, np.float32)
        for start, end in pairwise(cu_seqlens):
            part = rows[start:end] - center
            # not `@`: its rounding may change with the shape and the threads of OpenBLAS
            if len(directions):
                along = np.einsum("td,kd->tk", part, directions)
                part -= np.einsum("tk,kd->td", along, directions)
            cleaned[start:end] = normalize(part)
        return cleaned

    def best(
        self, rows: Float32Array, queries: Spans, documents: Spans
    ) -> tuple[Float32Array, Float32Array]:
        """Return how well each token is matched; see `Matcher.best`."""
        by_query, by_document = [np.empty(0, np.float32)], [np.empty(0, np.float32)]
        for (first, last), (start, end) in zip(queries, documents, strict=True):
            products = np.einsum("id,jd->ij", rows[first:last], rows[start:end])
            by_query.append(products.max(axis=1))
            by_document.append(products.max(axis=0))
        return np.concatenate(by_query), np.concatenate(by_document)


def choose_matcher() -> Matcher:
    """Return what compares rows fastest here.

    Returns:
        C++ where it was built, else NumPy; they agree within 1e-6.

    Raises:
        ConfigError: If POLYRANK_ISA names kernels that do not run here.
    """
    if not is_installed("polyrank._native"):
        return NumpyMatcher()
    from polyrank.tasks.native_maxsim import NativeMatcher

    return NativeMatcher()
