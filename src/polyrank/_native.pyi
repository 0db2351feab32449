"""The compiled module, built from `src/polyrank/native`. Absent from a build without a compiler."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]

def cpu_features() -> dict[str, bool]:
    """Return which instructions the processor and the operating system let run."""

def compiled_paths() -> list[str]:
    """Return the kernel paths of this build, from plain to fast."""

def usable_paths() -> list[str]:
    """Return the kernel paths that run on this processor, best first."""

def clean_rows(rows: Floats, center: Floats, directions: Floats) -> Floats:
    """Return rows less a center and their parts along directions, of unit length.

    Rows have shape (num_rows, width), directions (num_directions, width).
    """

def best_products(rows: Floats, queries: Ints, documents: Ints) -> tuple[Floats, Floats]:
    """Return the largest product of each row of each pair with the rows of the other span.

    Spans are (first row, the one after the last), shape (num_pairs, 2); none is empty.
    """

class NativeBody:
    """Packed weights of a body and its forward pass."""

    def __init__(
        self,
        *,
        hidden_size: int,
        num_layers: int,
        num_heads: int,
        intermediate_size: int,
        layer_norm_eps: float,
        activation: str,
        compute_dtype: str,
        isa: str,
    ) -> None: ...
    def set_tables(
        self,
        words: NDArray[Any],
        positions: NDArray[Any],
        types: NDArray[Any],
        word_scales: NDArray[Any] | None,
        bits16: str,
    ) -> None: ...
    def set_mixed_tables(
        self,
        blocks: NDArray[np.uint8],
        scales: NDArray[np.uint16],
        planes: NDArray[np.uint8],
        coarse: NDArray[np.uint16],
        codes: list[NDArray[np.uint8]],
        codebooks: list[NDArray[np.uint16]],
        num_words: int,
        positions: NDArray[Any],
        types: NDArray[Any],
        bits16: str,
    ) -> None: ...
    def set_embedding_norm(self, gamma: Floats, beta: Floats) -> None: ...
    def set_norm(self, layer: int, which: int, gamma: Floats, beta: Floats) -> None: ...
    def set_linear(
        self,
        layer: int,
        name: str,
        weights: list[Floats],
        biases: list[Floats],
        multipliers: Floats | None,
        num_threads: int,
    ) -> None: ...
    def set_linear_s8(
        self,
        layer: int,
        name: str,
        weights: NDArray[np.int8],
        scales: Floats,
        bias: Floats,
        multipliers: Floats | None,
    ) -> None: ...
    def set_linear_panels(
        self,
        layer: int,
        name: str,
        parts: list[NDArray[np.int8]],
        scales: Floats,
        bias: Floats,
        multipliers: Floats | None,
    ) -> None: ...
    def set_linear_blocks(
        self,
        layer: int,
        name: str,
        weights: list[NDArray[np.uint8]],
        scales: list[NDArray[np.uint16]],
        biases: list[Floats],
    ) -> None: ...
    def run(
        self,
        input_ids: Ints,
        token_types: Ints | None,
        positions: Ints,
        cu_seqlens: Ints,
        pooling: str,
        num_threads: int,
    ) -> Floats: ...
    def measure_inputs(self, input_ids: Ints, positions: Ints, cu_seqlens: Ints) -> Floats: ...
    def record_inputs(self, input_ids: Ints, positions: Ints, cu_seqlens: Ints) -> Floats: ...
    @property
    def isa(self) -> str: ...
    @property
    def multiplies_bfloat16(self) -> bool: ...
    @property
    def packed_bytes(self) -> int: ...
