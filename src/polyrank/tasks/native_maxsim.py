"""The arithmetic of late interaction in C++, several times as fast as NumPy's."""

import os

import numpy as np

from polyrank import _native
from polyrank.errors import ConfigError
from polyrank.types import Float32Array, Int32Array, Spans

ISA_VARIABLE = "POLYRANK_ISA"


class NativeMatcher:
    """A `Matcher` in the kernels that the native encoder runs on this processor.

    One thread computes: beside the encoder's work this is little, and on a server that thread may
    be the one that answers requests.

    Raises:
        ConfigError: If POLYRANK_ISA names kernels that do not run here.
    """

    def __init__(self) -> None:
        paths, forced = _native.usable_paths(), os.environ.get(ISA_VARIABLE, "")
        if forced and forced not in paths:
            raise ConfigError(
                f"{ISA_VARIABLE} is {forced!r}; this processor runs {', '.join(paths)}."
            )

    def clean(
        self,
        rows: Float32Array,
        cu_seqlens: Int32Array,
        center: Float32Array,
        directions: Float32Array,
    ) -> Float32Array:
        """Return rows without their center and some directions; see `Matcher.clean`."""
        # each row alone, so that bounds do not matter
        return _native.clean_rows(np.ascontiguousarray(rows, np.float32), center, directions)

    def best(
        self, rows: Float32Array, queries: Spans, documents: Spans
    ) -> tuple[Float32Array, Float32Array]:
        """Return how well each token is matched; see `Matcher.best`."""
        first, second = (np.ascontiguousarray(spans, np.int32) for spans in (queries, documents))
        return _native.best_products(rows, first, second)
