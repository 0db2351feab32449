"""The native encoder: the whole forward pass in C++ on packed sequences, without padding.

Rows depend on their own sequence alone, to the bit: order, batch mates, batch budget and thread
count change nothing.
"""

import os
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from polyrank import _native
from polyrank.checkpoint.body import LAYER
from polyrank.checkpoint.mixed import is_mixed
from polyrank.checkpoint.panels import PANELS_NDIM
from polyrank.checkpoint.quantization import multiplier_name, scale_name
from polyrank.checkpoint.reader import Checkpoint
from polyrank.config import EngineConfig
from polyrank.encoder.base import Capabilities, position_ids
from polyrank.encoder.checks import check_batch, check_rows, check_weights
from polyrank.encoder.pooling import pool
from polyrank.encoder.precision import choose_precision
from polyrank.encoder.smoothing import input_multipliers, random_pieces
from polyrank.encoder.threads import usable_threads
from polyrank.errors import (
    CapabilityError,
    ConfigError,
    CorruptWeightsError,
    EncoderError,
    MissingWeightError,
)
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
        self._is_int8 = choose_precision(checkpoint, config.precision).is_int8
        body = checkpoint.spec.body
        if body.hidden_size % 32 or body.intermediate_size % 32 or body.head_size % 16:
            raise CapabilityError(
                f"the native encoder needs hidden and intermediate sizes that are multiples of 32 "
                f"and heads of a multiple of 16; {checkpoint.spec.name} has {body.hidden_size}, "
                f'{body.intermediate_size} and {body.head_size}. Choose encoder="onnx".'
            )
        try:
            self._body: _native.NativeBody | None = self._load(self._linears())
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

    def measure_inputs(self, batch: PackedBatch) -> Float32Array:
        """Return how wide the inputs of linear layers get, to smooth them by before int8.

        Args:
            batch: Sequences to run; segments are left out.

        Returns:
            Largest magnitude of each input, shape (num_layers, 4, widest input), for the layers
            of `LINEARS` in its order.

        Raises:
            EncoderError: If the encoder was closed, or an id or a length is out of range.
        """
        check_batch(batch, self._checkpoint.spec.body)
        if self._body is None:
            raise EncoderError("this native encoder was closed. Load the checkpoint again.")
        return _measure(self._body, batch, self._checkpoint)

    def _linears(self) -> "_Linears":
        """Return how linear layers are loaded: as stored, quantised here, or float32."""
        checkpoint = self._checkpoint
        if not self._is_int8:
            return _Float32(checkpoint, self._num_threads)
        if checkpoint.spec.quantization is not None:
            is_int8 = checkpoint.spec.quantization.linears == "int8"
            return (
                _StoredInt8(checkpoint) if is_int8 else _StoredInt4(checkpoint, self._num_threads)
            )
        batch = random_pieces(checkpoint.spec.body)
        exact = self._load(_Float32(checkpoint, self._num_threads))
        return _QuantisedHere(checkpoint, self._num_threads, _measure(exact, batch, checkpoint))

    def _load(self, linears: "_Linears") -> _native.NativeBody:
        spec = self._checkpoint.spec.body
        try:
            body = _native.NativeBody(
                hidden_size=spec.hidden_size,
                num_layers=spec.num_layers,
                num_heads=spec.num_heads,
                intermediate_size=spec.intermediate_size,
                layer_norm_eps=spec.layer_norm_eps,
                activation=spec.activation,
                is_int8=linears.is_int8,
                isa=os.environ.get(ISA_VARIABLE, ""),
            )
        except ValueError as exc:
            raise ConfigError(
                f"{ISA_VARIABLE} is {os.environ.get(ISA_VARIABLE)!r}; this processor runs "
                f"{', '.join(_native.usable_paths())}."
            ) from exc
        if is_mixed(TABLES[0], self._checkpoint.body_tensors):
            self._set_mixed(body)
        else:
            words, positions, types = (self._table(name) for name in TABLES)
            body.set_tables(words[0], positions[0], types[0], self._word_scales(), words[1])
        body.set_embedding_norm(*self._norm("embeddings.LayerNorm"))
        for layer in range(spec.num_layers):
            for number, name in enumerate(LINEARS):
                linears.load(body, layer, number, name)
            for which, norm in enumerate(NORMS):
                body.set_norm(layer, which, *self._norm(LAYER.format(layer) + norm))
        return body

    def _set_mixed(self, body: _native.NativeBody) -> None:
        table = self._checkpoint.body_mixed(TABLES[0])
        (positions, bits), (types, _) = (self._table(name) for name in TABLES[1:])
        body.set_mixed_tables(
            blocks=_in_place(table.blocks),
            scales=_in_place(table.scales).view(np.uint16),
            planes=_in_place(table.planes),
            coarse=_in_place(table.coarse).view(np.uint16),
            codes=[_in_place(tier.codes) for tier in table.coded],
            codebooks=[_in_place(tier.codebook).view(np.uint16) for tier in table.coded],
            num_words=table.num_rows,
            positions=positions,
            types=types,
            bits16=bits,
        )

    def _norm(self, name: str) -> tuple[Float32Array, Float32Array]:
        checkpoint = self._checkpoint
        return _float32(checkpoint, f"{name}.weight"), _float32(checkpoint, f"{name}.bias")

    def _word_scales(self) -> NDArray[Any] | None:
        """Return the scales of int8 rows, or those of 4-bit blocks as their bits."""
        name = scale_name(TABLES[0])
        if name not in self._checkpoint.body_tensors:
            return None
        if self._checkpoint.body_tensors[TABLES[0]].dtype == "U8":
            return self._table(name)[0]
        return _steps(self._checkpoint, name)

    def _table(self, name: str) -> tuple[NDArray[Any], str]:
        """Return a table in the file's own type, 16-bit types as their bits."""
        info, weights = self._checkpoint.body_tensors[name], self._checkpoint.weights
        if info.dtype in ("F16", "BF16"):
            array = np.require(weights.get(info.name), requirements=["A", "C"])
            return array.view(np.uint16), info.dtype
        if info.dtype == "I8":
            return np.require(weights.get_int8(info.name), requirements=["A", "C"]), "F16"
        if info.dtype == "U8":
            return np.require(weights.get_uint8(info.name), requirements=["A", "C"]), "F16"
        return _float32(self._checkpoint, name), "F16"


class _Linears(Protocol):
    """Loads one linear layer of the C++ body after the other."""

    @property
    def is_int8(self) -> bool: ...

    def load(self, body: _native.NativeBody, layer: int, number: int, name: str) -> None: ...


class _Float32:
    is_int8 = False

    def __init__(self, checkpoint: Checkpoint, num_threads: int) -> None:
        self.checkpoint = checkpoint
        self.num_threads = num_threads

    def load(self, body: _native.NativeBody, layer: int, number: int, name: str) -> None:
        names = [f"{part}.weight" for part in _parts(layer, name)]
        matrices = [_float32(self.checkpoint, weight) for weight in names]
        biases = [_float32(self.checkpoint, f"{part}.bias") for part in _parts(layer, name)]
        multipliers = self.multipliers(names, matrices, layer, number)
        body.set_linear(layer, name, matrices, biases, multipliers, self.num_threads)

    def multipliers(
        self, names: list[str], matrices: list[Float32Array], layer: int, number: int
    ) -> Float32Array | None:
        return None


class _QuantisedHere(_Float32):
    is_int8 = True

    def __init__(self, checkpoint: Checkpoint, num_threads: int, widths: Float32Array) -> None:
        super().__init__(checkpoint, num_threads)
        self.widths = widths

    def multipliers(
        self, names: list[str], matrices: list[Float32Array], layer: int, number: int
    ) -> Float32Array | None:
        check_weights(self.checkpoint, names, matrices)
        return input_multipliers(matrices, self.widths[layer, number, : matrices[0].shape[1]])


class _StoredInt8:
    is_int8 = True

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint

    def load(self, body: _native.NativeBody, layer: int, number: int, name: str) -> None:
        checkpoint, parts = self.checkpoint, _parts(layer, name)
        weights = [f"{part}.weight" for part in parts]
        steps = [
            checkpoint.weights.get_int8(checkpoint.body_tensors[weight].name) for weight in weights
        ]
        scales = [_steps(checkpoint, scale_name(weight)) for weight in weights]
        biases = [_float32(checkpoint, f"{part}.bias") for part in parts]
        multipliers = _stored_multipliers(checkpoint, weights)
        if len({part.ndim for part in steps}) > 1:
            raise CorruptWeightsError(
                f"{weights} in {checkpoint.spec.folder} lie partly in panels, partly in rows; "
                "layers that read the same input must agree. Quantise the checkpoint again."
            )
        if steps[0].ndim == PANELS_NDIM:
            body.set_linear_panels(
                layer, name, steps, _joined(scales), _joined(biases), multipliers
            )
            return
        joined = np.require(_joined(steps), requirements=["A", "C"])
        body.set_linear_s8(layer, name, joined, _joined(scales), _joined(biases), multipliers)


class _StoredInt4(_Float32):
    """4-bit blocks, from which the int8 steps of quantising at load are made."""

    is_int8 = True

    def multipliers(
        self, names: list[str], matrices: list[Float32Array], layer: int, number: int
    ) -> Float32Array | None:
        check_weights(self.checkpoint, names, matrices)
        found = _stored_multipliers(self.checkpoint, names)
        if found is not None and not found.all():
            raise CorruptWeightsError(
                f"{multiplier_name(names[0])!r} in {self.checkpoint.spec.folder} holds 0; weights "
                "are divided by it. Quantise the checkpoint again."
            )
        return found


def _stored_multipliers(checkpoint: Checkpoint, weights: list[str]) -> Float32Array | None:
    names = [multiplier_name(weight) for weight in weights]
    if all(name not in checkpoint.body_tensors for name in names):
        return None
    found = [_steps(checkpoint, name) for name in names]
    if any(not np.array_equal(found[0], other) for other in found[1:]):
        raise CorruptWeightsError(
            f"{names[0]!r} in {checkpoint.spec.folder} differs from {names[1:]}: layers "
            "that read the same input share its multipliers. Quantise the checkpoint again."
        )
    return found[0]


def _in_place(array: NDArray[Any]) -> NDArray[Any]:
    """Return an array as C++ reads it: where it is, or a copy if it is not aligned."""
    return np.require(array, requirements=["A", "C"])


def _parts(layer: int, name: str) -> list[str]:
    return [LAYER.format(layer) + part for part in LINEARS[name]]


def _joined(parts: list[NDArray[Any]]) -> NDArray[Any]:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _float32(checkpoint: Checkpoint, name: str) -> Float32Array:
    return np.require(checkpoint.body_float32(name), requirements=["A", "C"])


def _steps(checkpoint: Checkpoint, name: str) -> Float32Array:
    """Return scales or multipliers, which must be finite and not negative."""
    if name not in checkpoint.body_tensors:
        raise MissingWeightError(
            f"{name!r} is not in {checkpoint.spec.folder}, though its neighbours have one. "
            "Quantise the checkpoint again."
        )
    values = _float32(checkpoint, name)
    if not (np.isfinite(values).all() and (values >= 0).all()):
        info = checkpoint.body_tensors[name]
        raise CorruptWeightsError(
            f"tensor {info.name!r} in {info.path} holds NaN, infinity or a negative value; it must "
            "hold the sizes of int8 steps. Quantise the checkpoint again."
        )
    return values


def _measure(body: _native.NativeBody, batch: PackedBatch, checkpoint: Checkpoint) -> Float32Array:
    positions = np.ascontiguousarray(position_ids(batch, checkpoint.spec.body), np.int32)
    return body.measure_inputs(
        np.ascontiguousarray(batch.input_ids, np.int32),
        positions,
        np.ascontiguousarray(batch.cu_seqlens, np.int32),
    )


def _contiguous(values: NDArray[np.int32] | None) -> NDArray[np.int32] | None:
    return None if values is None else np.ascontiguousarray(values, np.int32)
