"""Heads: from a pooled row to logits or a vector, and from logits to scores. NumPy only."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from polyrank.checkpoint.reader import Checkpoint
from polyrank.checkpoint.spec import DenseSpec, HeadSpec, Nonlinearity
from polyrank.errors import CheckpointError, CorruptWeightsError
from polyrank.types import Activation, Float32Array

_SQRT_HALF = np.float32(np.sqrt(0.5))
_GELU_TANH_SCALE = np.float32(np.sqrt(2 / np.pi))


def sigmoid(values: Float32Array) -> Float32Array:
    """Return the logistic function of each value, in float32 and without overflow."""
    values = np.asarray(values, np.float32)
    exponential = np.exp(-np.abs(values))
    return np.where(values >= 0, 1 / (1 + exponential), exponential / (1 + exponential))


def softmax(values: Float32Array) -> Float32Array:
    """Return probabilities along the last axis, in float32 and without overflow."""
    shifted = np.exp(values - values.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True), np.float32)


def _erf(values: Float32Array) -> Float32Array:
    # math.erf one by one: heads are small and NumPy has no erf
    from math import erf

    flat = np.fromiter((erf(float(value)) for value in values.ravel()), np.float32, values.size)
    return flat.reshape(values.shape)


def _gelu(values: Float32Array) -> Float32Array:
    return np.float32(0.5) * values * (1 + _erf(values * _SQRT_HALF))


def _gelu_tanh(values: Float32Array) -> Float32Array:
    inner = _GELU_TANH_SCALE * (values + np.float32(0.044715) * values**3)
    return np.float32(0.5) * values * (1 + np.tanh(inner))


NONLINEARITIES: Mapping[Nonlinearity, Callable[[Float32Array], Float32Array]] = {
    "identity": lambda values: values,
    "tanh": np.tanh,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "relu": lambda values: np.maximum(values, np.float32(0)),
    "silu": lambda values: values * sigmoid(values),
    "sigmoid": sigmoid,
}

ACTIVATIONS: Mapping[Activation, Callable[[Float32Array], Float32Array]] = {
    "sigmoid": sigmoid,
    "softmax": softmax,
    "identity": lambda values: values,
}


@dataclass(frozen=True, slots=True)
class Dense:
    """A loaded linear layer.

    Attributes:
        weight: Shape (out_features, in_features).
        bias: Shape (out_features,).
        nonlinearity: Applied to the result.
    """

    weight: Float32Array
    bias: Float32Array
    nonlinearity: Nonlinearity

    def __call__(self, row: Float32Array) -> Float32Array:
        """Return the layer's result for one row."""
        # not `@`: OpenBLAS wakes its threads for a product as small as this, and they then spin for
        # tens of milliseconds on the processors that the encoder's next call needs
        sums = np.einsum("oi,i->o", self.weight, row)
        return NONLINEARITIES[self.nonlinearity](sums + self.bias)


class Head:
    """A head with its tensors loaded."""

    def __init__(self, spec: HeadSpec, layers: tuple[Dense, ...], in_features: int) -> None:
        self.spec = spec
        self.layers = layers
        self.in_features = in_features

    @classmethod
    def load(cls, checkpoint: Checkpoint, spec: HeadSpec) -> "Head":
        """Load a head's tensors.

        Args:
            checkpoint: The opened checkpoint.
            spec: One of its heads.

        Returns:
            The head.

        Raises:
            MissingWeightError: If a tensor is absent.
            CorruptWeightsError: If a tensor's shape does not fit the row before it.
            CheckpointError: If the head's outputs are not as many as its labels.
        """
        in_features = width = checkpoint.spec.body.hidden_size * len(spec.pooling)
        layers: list[Dense] = []
        for layer in spec.layers:
            layers.append(_load_dense(checkpoint, layer, width))
            width = len(layers[-1].bias)
        if spec.labels and width != len(spec.labels):
            raise CheckpointError(
                f"{checkpoint.spec.folder}: the head gives {width} values but config.json names "
                f"{len(spec.labels)} labels in id2label: {list(spec.labels)}."
            )
        return cls(spec, tuple(layers), in_features)

    @property
    def out_features(self) -> int:
        """Values of a result row."""
        return len(self.layers[-1].bias) if self.layers else self.in_features

    def __call__(self, rows: Float32Array) -> Float32Array:
        """Return logits or vectors.

        Each row is multiplied alone: a product of many rows at once may round a row
        differently with the number of rows beside it.

        Args:
            rows: Pooled rows, shape (num_sequences, in_features).

        Returns:
            Shape (num_sequences, out_features), before the activation.
        """
        results = np.empty((len(rows), self.out_features), np.float32)
        for i, row in enumerate(rows):
            for layer in self.layers:
                row = layer(row)
            results[i] = row
        return normalize(results) if self.spec.is_normalized else results

    def activate(self, logits: Float32Array, activation: Activation | None = None) -> Float32Array:
        """Return scores or probabilities of logits, by the checkpoint's activation or another."""
        return ACTIVATIONS[activation or self.spec.activation](logits)


def _load_dense(checkpoint: Checkpoint, spec: DenseSpec, in_features: int) -> Dense:
    weights = checkpoint.module_weights(spec.folder)
    shape = weights.info(spec.weight).shape
    out_features = shape[0] if shape else 0
    weight = weights.get_float32(spec.weight, (out_features, in_features))
    bias = (
        np.zeros(out_features, np.float32)
        if spec.bias is None
        else weights.get_float32(spec.bias, (out_features,))
    )
    for name, tensor in ((spec.weight, weight), (spec.bias, bias)):
        if not np.isfinite(tensor).all():
            path = weights.info(spec.weight).path
            raise CorruptWeightsError(
                f"tensor {name!r} in {path} holds NaN or infinity. Download the file again."
            )
    return Dense(np.ascontiguousarray(weight), bias, spec.nonlinearity)


def normalize(rows: Float32Array) -> Float32Array:
    """Return rows scaled to unit length; a row of zeros stays as it is.

    Args:
        rows: Shape (num_rows, dim).

    Returns:
        Same shape, float32.
    """
    lengths = np.sqrt(np.einsum("nd,nd->n", rows, rows))
    return rows / np.maximum(lengths, np.float32(1e-12))[:, None]
