"""The native encoder: the whole forward pass in C++ on packed sequences, without padding.

Rows depend on their own sequence alone, to the bit: order, batch mates, batch budget and thread
count change nothing.
"""

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyrank import _native
from polyrank.checkpoint.body import LAYER
from polyrank.checkpoint.reader import Checkpoint
from polyrank.config import EngineConfig
from polyrank.encoder.base import Capabilities, position_ids
from polyrank.encoder.checks import check_batch, check_rows, check_weights
from polyrank.encoder.pooling import pool
from polyrank.encoder.smoothing import input_multipliers, random_pieces
from polyrank.encoder.threads import usable_threads
from polyrank.errors import CapabilityError, ConfigError, EncoderError
from polyrank.types import Float32Array, PackedBatch, PoolingMode

ISA_VARIABLE = "POLYRANK_ISA"
POOLED_INSIDE = ("cls", "mean", "last_token")
TABLES = (
    "embeddings.word_embeddings.weight",
    "embeddings.position_embeddings.weight",
    "embeddings.token_type_embeddings.weight",
)
# Linear layers of the C++ body in its order, and the layers of the checkpoint they consist of.
LINEARS = {
    "qkv": tuple(f"attention.self.{part}" for part in ("query", "key", "value")),
    "out": ("attention.output.dense",),
    "inner": ("intermediate.dense",),
    "outer": ("output.dense",),
}
NORMS = ("attention.output.LayerNorm", "output.LayerNorm")


class NativeEncoder:
    """A body in C++. Safe to call from several threads, which then take turns.

    Args:
        checkpoint: The opened checkpoint; its embedding tables are read where they are mapped.
        config: Threads and precision.

    Raises:
        CapabilityError: If the body's sizes are not multiples of what the kernels take.
        CorruptWeightsError: If weights hold NaN or infinity.
        ConfigError: If POLYRANK_ISA names kernels that do not run here.
        EncoderError: If memory runs out.
    """

    def __init__(self, checkpoint: Checkpoint, config: EngineConfig) -> None:
        self._checkpoint = checkpoint
        self._num_threads = config.num_threads or usable_threads()
        self._is_int8 = config.precision == "int8"
        body = checkpoint.spec.body
        if body.hidden_size % 32 or body.intermediate_size % 32 or body.head_size % 16:
            raise CapabilityError(
                f"the native encoder needs hidden and intermediate sizes that are multiples of 32 "
                f"and heads of a multiple of 16; {checkpoint.spec.name} has {body.hidden_size}, "
                f'{body.intermediate_size} and {body.head_size}. Choose encoder="onnx".'
            )
        try:
            widths = self._measure_inputs() if self._is_int8 else None
            self._body: _native.NativeBody | None = self._load(widths)
        except MemoryError as exc:
            raise EncoderError(
                f"there is not enough memory to load {checkpoint.spec.name}."
            ) from exc
        self._capabilities = Capabilities(
            name="native",
            is_padding=False,
            precision="int8" if self._is_int8 else "float32",
            device=f"cpu ({self._body.isa})",
            tolerance=0.0,
        )

    @property
    def capabilities(self) -> Capabilities:
        """What this encoder is."""
        return self._capabilities

    def run(self, batch: PackedBatch, pooling: tuple[PoolingMode, ...]) -> Float32Array:
        """Return one row per sequence, or one per token; see `Encoder.run`.

        Args:
            batch: At least one sequence, none empty.
            pooling: Modes whose rows are laid side by side; empty for token rows.

        Returns:
            Shape (num_sequences, hidden_size * len(pooling)), or (total_tokens, hidden_size).

        Raises:
            EncoderError: If an id or a length is out of range, memory runs out, or the encoder
                was closed.
        """
        check_batch(batch, self._checkpoint.spec.body)
        if self._body is None:
            raise EncoderError("this native encoder was closed. Load the checkpoint again.")
        is_inside = len(pooling) == 1 and pooling[0] in POOLED_INSIDE
        try:
            rows = self._body.run(
                np.ascontiguousarray(batch.input_ids, np.int32),
                _contiguous(batch.token_type_ids),
                np.ascontiguousarray(position_ids(batch, self._checkpoint.spec.body), np.int32),
                np.ascontiguousarray(batch.cu_seqlens, np.int32),
                pooling[0] if is_inside else "tokens",
                self._num_threads,
            )
        except MemoryError as exc:
            raise EncoderError(
                f"memory ran out in a batch of {batch.total_tokens:,} tokens: lower "
                "max_batch_tokens, or max_length for one long text."
            ) from exc
        check_rows(rows, self._checkpoint)
        return pool(rows, batch.cu_seqlens, pooling) if pooling and not is_inside else rows

    def close(self) -> None:
        """Free memory."""
        self._body = None

    def _measure_inputs(self) -> Float32Array:
        """Run the body in float32 on random pieces: (num_layers, 4, widest) of input widths."""
        batch = random_pieces(self._checkpoint.spec.body)
        positions = position_ids(batch, self._checkpoint.spec.body)
        return self._load(None).measure_inputs(batch.input_ids, positions, batch.cu_seqlens)

    def _load(self, widths: Float32Array | None) -> _native.NativeBody:
        """Pack the weights: as int8 where the widths of inputs are given, else as float32."""
        spec = self._checkpoint.spec.body
        try:
            body = _native.NativeBody(
                hidden_size=spec.hidden_size,
                num_layers=spec.num_layers,
                num_heads=spec.num_heads,
                intermediate_size=spec.intermediate_size,
                layer_norm_eps=spec.layer_norm_eps,
                activation=spec.activation,
                is_int8=widths is not None,
                isa=os.environ.get(ISA_VARIABLE, ""),
            )
        except ValueError as exc:
            raise ConfigError(
                f"{ISA_VARIABLE} is {os.environ.get(ISA_VARIABLE)!r}; this processor runs "
                f"{', '.join(_native.usable_paths())}."
            ) from exc
        words, positions, types = (self._table(name) for name in TABLES)
        body.set_tables(words[0], positions[0], types[0], None, words[1])
        body.set_embedding_norm(*self._norm("embeddings.LayerNorm"))
        for layer in range(spec.num_layers):
            self._load_layer(body, layer, None if widths is None else widths[layer])
        return body

    def _load_layer(
        self, body: _native.NativeBody, layer: int, widths: Float32Array | None
    ) -> None:
        prefix = LAYER.format(layer)
        for number, (name, parts) in enumerate(LINEARS.items()):
            names = [f"{prefix}{part}.weight" for part in parts]
            matrices = [self._float32(weight) for weight in names]
            biases = [self._float32(f"{prefix}{part}.bias") for part in parts]
            multipliers = None
            if widths is not None:
                check_weights(self._checkpoint, names, matrices)
                inputs = matrices[0].shape[1]
                multipliers = input_multipliers(matrices, widths[number, :inputs])
            body.set_linear(layer, name, matrices, biases, multipliers, self._num_threads)
        for which, norm in enumerate(NORMS):
            body.set_norm(layer, which, *self._norm(prefix + norm))

    def _float32(self, name: str) -> Float32Array:
        info = self._checkpoint.body_tensors[name]
        array = self._checkpoint.weights.get_float32(info.name)
        return np.require(array, requirements=["A", "C"])

    def _norm(self, name: str) -> tuple[Float32Array, Float32Array]:
        return self._float32(f"{name}.weight"), self._float32(f"{name}.bias")

    def _table(self, name: str) -> tuple[NDArray[Any], str]:
        """Return a table in the file's own type, 16-bit types as their bits."""
        info, weights = self._checkpoint.body_tensors[name], self._checkpoint.weights
        if info.dtype in ("F16", "BF16"):
            array = np.require(weights.get(info.name), requirements=["A", "C"])
            return array.view(np.uint16), info.dtype
        return self._float32(name), "F16"


def _contiguous(values: NDArray[np.int32] | None) -> NDArray[np.int32] | None:
    return None if values is None else np.ascontiguousarray(values, np.int32)
