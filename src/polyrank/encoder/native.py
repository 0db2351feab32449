"""The native encoder: the whole forward pass in C++ on packed sequences, without padding.

Rows depend on their own sequence alone, to the bit: order, batch mates, batch budget and thread
count change nothing.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyrank import _native
from polyrank.checkpoint.body import LAYER
from polyrank.checkpoint.formats.mixed import is_mixed
from polyrank.checkpoint.formats.quantization import scale_name
from polyrank.checkpoint.reader import Checkpoint
from polyrank.config import EngineConfig
from polyrank.encoder.base import Capabilities, position_ids
from polyrank.encoder.checks import check_batch, check_rows, native_misfit
from polyrank.encoder.compute_dtype import choose_compute_dtype
from polyrank.encoder.native_linears import (
    LINEARS,
    Bfloat16Linears,
    BlockLinears,
    Float32Linears,
    Int4Linears,
    Int8Linears,
    Linears,
    QuantisedLinears,
    read_float32,
    read_steps,
)
from polyrank.encoder.paths import BLOCK_PATHS, ISA_VARIABLE, running_path
from polyrank.encoder.pooling import pool
from polyrank.encoder.smoothing import random_pieces
from polyrank.encoder.threads import usable_threads
from polyrank.errors import CapabilityError, ConfigError, EncoderError, PolyrankError
from polyrank.types import Float32Array, Int32Array, PackedBatch, PoolingMode

POOLED_INSIDE = ("cls", "mean", "last_token")
TABLES = (
    "embeddings.word_embeddings.weight",
    "embeddings.position_embeddings.weight",
    "embeddings.token_type_embeddings.weight",
)
NORMS = ("attention.output.LayerNorm", "output.LayerNorm")


class NativeEncoder:
    """A body in C++. Safe to call from several threads, which then take turns.

    Args:
        checkpoint: The opened checkpoint; its embedding tables are read where they are mapped.
        config: Threads and compute dtype.

    Raises:
        CapabilityError: If the body's sizes are not multiples of what the kernels take.
        CorruptWeightsError: If weights hold NaN or infinity.
        ConfigError: If POLYRANK_ISA names kernels that do not run here.
        EncoderError: If memory runs out, or threads cannot be started.
    """

    def __init__(self, checkpoint: Checkpoint, config: EngineConfig) -> None:
        self._checkpoint = checkpoint
        self._num_threads = config.num_threads or usable_threads()
        self._compute_dtype = choose_compute_dtype(
            checkpoint, config.compute_dtype, running_path()
        ).name
        if misfit := native_misfit(checkpoint.spec.body):
            raise CapabilityError(f'{misfit}. Choose encoder="auto".')
        _check_isa()
        with _translated(f"loading {checkpoint.spec.name}", self._num_threads):
            self._body: _native.NativeBody | None = self._load(self._linears())
        self._capabilities = Capabilities(
            name="native",
            is_padding=False,
            compute_dtype=self._compute_dtype,
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
            EncoderError: If an id or a length is out of range, memory runs out, threads
                cannot be started, or the encoder was closed.
        """
        check_batch(batch, self._checkpoint.spec.body)
        if self._body is None:
            raise EncoderError("this native encoder was closed. Load the checkpoint again.")
        is_inside = len(pooling) == 1 and pooling[0] in POOLED_INSIDE
        with _translated(f"a batch of {batch.total_tokens:,} tokens", self._num_threads):
            rows = self._body.run(
                np.ascontiguousarray(batch.input_ids, np.int32),
                _contiguous(batch.token_type_ids),
                np.ascontiguousarray(position_ids(batch, self._checkpoint.spec.body), np.int32),
                np.ascontiguousarray(batch.cu_seqlens, np.int32),
                pooling[0] if is_inside else "tokens",
                self._num_threads,
            )
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
        body = self._opened(batch)
        with _translated(f"a batch of {batch.total_tokens:,} tokens", self._num_threads):
            return body.measure_inputs(*_tokens(batch, self._checkpoint))

    def record_inputs(self, batch: PackedBatch) -> Float32Array:
        """Return what linear layers are given for each token.

        Args:
            batch: Sequences to run; segments are left out.

        Returns:
            Inputs, shape (num_layers, 4, total_tokens, widest input), narrower ones filled up with
            zeros, for the layers of `LINEARS` in its order.

        Raises:
            EncoderError: If the encoder was closed, or an id or a length is out of range.
        """
        body = self._opened(batch)
        with _translated(f"a batch of {batch.total_tokens:,} tokens", self._num_threads):
            return body.record_inputs(*_tokens(batch, self._checkpoint))

    def _opened(self, batch: PackedBatch) -> _native.NativeBody:
        check_batch(batch, self._checkpoint.spec.body)
        if self._body is None:
            raise EncoderError("this native encoder was closed. Load the checkpoint again.")
        return self._body

    def _linears(self) -> Linears:
        """Return how linear layers are loaded: as stored, quantised or rounded here, or float32."""
        checkpoint = self._checkpoint
        if self._compute_dtype == "float32":
            return Float32Linears(checkpoint, self._num_threads)
        if self._compute_dtype == "bfloat16":
            return Bfloat16Linears(checkpoint, self._num_threads)
        if checkpoint.spec.quantization is not None:
            if checkpoint.spec.quantization.linears == "int8":
                return Int8Linears(checkpoint)
            if running_path() in BLOCK_PATHS:
                return BlockLinears(checkpoint)
            return Int4Linears(checkpoint, self._num_threads)
        batch = random_pieces(checkpoint.spec.body)
        exact = self._load(Float32Linears(checkpoint, self._num_threads))
        widths = exact.measure_inputs(*_tokens(batch, checkpoint))
        return QuantisedLinears(checkpoint, self._num_threads, widths)

    def _load(self, linears: Linears) -> _native.NativeBody:
        spec = self._checkpoint.spec.body
        body = _native.NativeBody(
            hidden_size=spec.hidden_size,
            num_layers=spec.num_layers,
            num_heads=spec.num_heads,
            intermediate_size=spec.intermediate_size,
            layer_norm_eps=spec.layer_norm_eps,
            activation=spec.activation,
            compute_dtype=linears.compute_dtype,
            isa=os.environ.get(ISA_VARIABLE, ""),
        )
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
        return read_float32(checkpoint, f"{name}.weight"), read_float32(checkpoint, f"{name}.bias")

    def _word_scales(self) -> NDArray[Any] | None:
        """Return the scales of int8 rows, or those of 4-bit blocks as their bits."""
        name = scale_name(TABLES[0])
        if name not in self._checkpoint.body_tensors:
            return None
        if self._checkpoint.body_tensors[TABLES[0]].dtype == "U8":
            return self._table(name)[0]
        return read_steps(self._checkpoint, name)

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
        return read_float32(self._checkpoint, name), "F16"


def _check_isa() -> None:
    paths, forced = _native.usable_paths(), os.environ.get(ISA_VARIABLE, "")
    if forced and forced not in paths:
        raise ConfigError(f"{ISA_VARIABLE} is {forced!r}; this processor runs {', '.join(paths)}.")


@contextmanager
def _translated(action: str, num_threads: int) -> Iterator[None]:
    """Raise what C++ throws as errors of polyrank's own."""
    try:
        yield
    except PolyrankError:
        raise
    except MemoryError as exc:
        raise EncoderError(
            f"memory ran out in {action}. Lower max_batch_tokens, or max_length for one long text, "
            "or give the process more memory."
        ) from exc
    except RuntimeError as exc:  # std::system_error: the stacks of threads need memory, too
        raise EncoderError(
            f"{action} did not get its {num_threads} threads ({exc}): memory or the system's limit "
            "on threads ran out. Lower num_threads, or raise the limits (ulimit -v, ulimit -u)."
        ) from exc
    except (ValueError, IndexError) as exc:  # what C++ checks, if checks here have a gap
        raise EncoderError(f"the native encoder refused {action}: {exc}. Report this.") from exc


def _in_place(array: NDArray[Any]) -> NDArray[Any]:
    """Return an array as C++ reads it: where it is, or a copy if it is not aligned."""
    return np.require(array, requirements=["A", "C"])


def _tokens(
    batch: PackedBatch, checkpoint: Checkpoint
) -> tuple[Int32Array, Int32Array, Int32Array]:
    positions = position_ids(batch, checkpoint.spec.body)
    first, second, third = (
        np.ascontiguousarray(values, np.int32)
        for values in (batch.input_ids, positions, batch.cu_seqlens)
    )
    return first, second, third


def _contiguous(values: NDArray[np.int32] | None) -> NDArray[np.int32] | None:
    return None if values is None else np.ascontiguousarray(values, np.int32)
