"""How linear layers are given to the C++ body: float32, quantised at load, or as stored."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from polyrank import _native
from polyrank.checkpoint.body import LAYER
from polyrank.checkpoint.formats.panels import PANELS_NDIM
from polyrank.checkpoint.formats.quantization import multiplier_name, scale_name
from polyrank.checkpoint.reader import Checkpoint
from polyrank.encoder.checks import check_weights
from polyrank.encoder.smoothing import MIGRATION, input_multipliers
from polyrank.errors import CorruptWeightsError, MissingWeightError
from polyrank.types import Float32Array, ProductDtype

# Linear layers of the C++ body in its order, and the layers of the checkpoint they consist of.
LINEARS = {
    "qkv": tuple(f"attention.self.{part}" for part in ("query", "key", "value")),
    "out": ("attention.output.dense",),
    "inner": ("intermediate.dense",),
    "outer": ("output.dense",),
}


class Linears(Protocol):
    """Loads one linear layer of the C++ body after the other."""

    @property
    def compute_dtype(self) -> ProductDtype:
        """Type of the products."""
        ...

    def load(self, body: _native.NativeBody, layer: int, number: int, name: str) -> None:
        """Give the body one of its layers.

        Args:
            body: What computes.
            layer: Transformer layer.
            number: Place of the linear layer in `LINEARS`.
            name: Its name there.
        """
        ...


class Float32Linears:
    """Weights in float32, dequantised where the folder holds steps."""

    compute_dtype: ProductDtype = "float32"

    def __init__(self, checkpoint: Checkpoint, num_threads: int) -> None:
        self.checkpoint = checkpoint
        self.num_threads = num_threads

    def load(self, body: _native.NativeBody, layer: int, number: int, name: str) -> None:
        """Give the body one of its layers."""
        names = [f"{part}.weight" for part in _parts(layer, name)]
        matrices = [read_float32(self.checkpoint, weight) for weight in names]
        biases = [read_float32(self.checkpoint, f"{part}.bias") for part in _parts(layer, name)]
        multipliers = self.multipliers(names, matrices, layer, number)
        body.set_linear(layer, name, matrices, biases, multipliers, self.num_threads)

    def multipliers(
        self, names: list[str], matrices: list[Float32Array], layer: int, number: int
    ) -> Float32Array | None:
        """Return the factors of the inputs, by which weights are divided; None for none."""
        return None


class Bfloat16Linears(Float32Linears):
    """Weights rounded to bfloat16, or as they are where the folder holds such."""

    compute_dtype: ProductDtype = "bfloat16"


class QuantisedLinears(Float32Linears):
    """Float weights, from which int8 steps are made now, by widths that were measured."""

    compute_dtype: ProductDtype = "int8"

    def __init__(self, checkpoint: Checkpoint, num_threads: int, widths: Float32Array) -> None:
        super().__init__(checkpoint, num_threads)
        self.widths = widths

    def multipliers(
        self, names: list[str], matrices: list[Float32Array], layer: int, number: int
    ) -> Float32Array | None:
        """Return the factors of the inputs, by which weights are divided."""
        check_weights(self.checkpoint, names, matrices)
        widths = self.widths[layer, number, : matrices[0].shape[1]]
        return input_multipliers(matrices, widths, MIGRATION[number])


class Int8Linears:
    """int8 steps, used where they are mapped if they lie in panels."""

    compute_dtype: ProductDtype = "int8"

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint

    def load(self, body: _native.NativeBody, layer: int, number: int, name: str) -> None:
        """Give the body one of its layers."""
        checkpoint, parts = self.checkpoint, _parts(layer, name)
        weights = [f"{part}.weight" for part in parts]
        steps = [
            checkpoint.weights.get_int8(checkpoint.body_tensors[weight].name) for weight in weights
        ]
        scales = [read_steps(checkpoint, scale_name(weight)) for weight in weights]
        biases = [read_float32(checkpoint, f"{part}.bias") for part in parts]
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


class Int4Linears(Float32Linears):
    """4-bit blocks, from which the int8 steps of quantising at load are made."""

    compute_dtype: ProductDtype = "int8"

    def multipliers(
        self, names: list[str], matrices: list[Float32Array], layer: int, number: int
    ) -> Float32Array | None:
        """Return the stored factors of the inputs, by which weights are divided."""
        check_weights(self.checkpoint, names, matrices)
        found = _stored_multipliers(self.checkpoint, names)
        if found is not None and not found.all():
            raise CorruptWeightsError(
                f"{multiplier_name(names[0])!r} in {self.checkpoint.spec.folder} holds 0; weights "
                "are divided by it. Quantise the checkpoint again."
            )
        return found


class BlockLinears:
    """4-bit blocks, multiplied as they are on paths whose sums of 16 bits hold such a block."""

    compute_dtype: ProductDtype = "int8"

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint

    def load(self, body: _native.NativeBody, layer: int, number: int, name: str) -> None:
        """Give the body one of its layers."""
        checkpoint, parts = self.checkpoint, _parts(layer, name)
        blocks = [checkpoint.body_int4(f"{part}.weight") for part in parts]
        names = [scale_name(f"{part}.weight") for part in parts]
        check_weights(checkpoint, names, [scales.astype(np.float32) for _, scales in blocks])
        body.set_linear_blocks(
            layer,
            name,
            [_in_place(packed) for packed, _ in blocks],
            [_in_place(scales).view(np.uint16) for _, scales in blocks],
            [read_float32(checkpoint, f"{part}.bias") for part in parts],
        )


def _in_place(array: NDArray[Any]) -> NDArray[Any]:
    return np.require(array, requirements=["A", "C"])


def _stored_multipliers(checkpoint: Checkpoint, weights: list[str]) -> Float32Array | None:
    names = [multiplier_name(weight) for weight in weights]
    if all(name not in checkpoint.body_tensors for name in names):
        return None
    found = [read_steps(checkpoint, name) for name in names]
    if any(not np.array_equal(found[0], other) for other in found[1:]):
        raise CorruptWeightsError(
            f"{names[0]!r} in {checkpoint.spec.folder} differs from {names[1:]}: layers "
            "that read the same input share its multipliers. Quantise the checkpoint again."
        )
    return found[0]


def _parts(layer: int, name: str) -> list[str]:
    return [LAYER.format(layer) + part for part in LINEARS[name]]


def _joined(parts: list[NDArray[Any]]) -> NDArray[Any]:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def read_float32(checkpoint: Checkpoint, name: str) -> Float32Array:
    """Return a tensor of the body in float32, as C++ reads it."""
    return np.require(checkpoint.body_float32(name), requirements=["A", "C"])


def read_steps(checkpoint: Checkpoint, name: str) -> Float32Array:
    """Return scales or multipliers, which must be finite and not negative."""
    if name not in checkpoint.body_tensors:
        raise MissingWeightError(
            f"{name!r} is not in {checkpoint.spec.folder}, though its neighbours have one. "
            "Quantise the checkpoint again."
        )
    values = read_float32(checkpoint, name)
    if not (np.isfinite(values).all() and (values >= 0).all()):
        info = checkpoint.body_tensors[name]
        raise CorruptWeightsError(
            f"tensor {info.name!r} in {info.path} holds NaN, infinity or a negative value; it must "
            "hold the sizes of int8 steps. Quantise the checkpoint again."
        )
    return values
