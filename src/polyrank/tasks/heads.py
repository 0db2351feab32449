"""Heads: from a pooled row to logits or a vector, and from logits to scores. NumPy only.

A head of late interaction takes the features of a pair in place of a pooled row; `late_interaction`
makes them.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from polyrank.checkpoint.reader import Checkpoint
from polyrank.checkpoint.spec import DenseSpec, HeadSpec, LateInteractionSpec, Nonlinearity
from polyrank.checkpoint.weights import Weights
from polyrank.encoder.unattended import UnattendedRows
from polyrank.errors import CheckpointError, CorruptWeightsError
from polyrank.types import Activation, Float32Array

_SQRT_HALF = np.float32(np.sqrt(0.5))
_LARGEST_SKEW = 1e-2  # of directions stored in bfloat16
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


@dataclass(frozen=True, slots=True)
class LateInteraction:
    """The loaded tensors of a head of late interaction.

    Attributes:
        center: Shape (hidden_size,).
        directions: Shape (num_directions, hidden_size), orthonormal; num_directions may be 0.
        weight: Of each query token, one output; None lets all count alike.
    """

    center: Float32Array
    directions: Float32Array
    weight: Dense | None


class Head:
    """A head with its tensors loaded."""

    def __init__(
        self,
        spec: HeadSpec,
        layers: tuple[Dense, ...],
        in_features: int,
        late_interaction: LateInteraction | None = None,
    ) -> None:
        """Take what was loaded.

        Args:
            spec: What the checkpoint says of it.
            layers: Its linear layers.
            in_features: Values of a row that the layers take: pooled, or features of a pair.
            late_interaction: What makes the features of a pair; None for other heads.
        """
        self.spec = spec
        self.layers = layers
        self.in_features = in_features
        self.late_interaction = late_interaction
        self.unattended: UnattendedRows | None = None

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
            CheckpointError: If the head's outputs are not as many as its labels, or the
                directions of late interaction are not orthonormal.
        """
        late, num_rows = spec.late_interaction, len(spec.pooling)
        if spec.multi_vector is not None:
            num_rows = 1  # each token's own
        in_features = width = (
            checkpoint.spec.body.hidden_size * num_rows if late is None else len(late.features)
        )
        layers: list[Dense] = []
        for layer in spec.layers:
            layers.append(_load_dense(checkpoint, layer, width))
            width = len(layers[-1].bias)
        if spec.labels and width != len(spec.labels):
            raise CheckpointError(
                f"{checkpoint.spec.folder}: the head gives {width} values but config.json names "
                f"{len(spec.labels)} labels in id2label: {list(spec.labels)}."
            )
        interaction = None if late is None else _load_interaction(checkpoint, late)
        head = cls(spec, tuple(layers), in_features, interaction)
        if spec.multi_vector is not None and not spec.multi_vector.is_attended:
            head.unattended = UnattendedRows(checkpoint)
        return head

    @property
    def out_features(self) -> int:
        """Values of a result row."""
        return len(self.layers[-1].bias) if self.layers else self.in_features

    def __call__(self, rows: Float32Array) -> Float32Array:
        """Return logits or vectors.

        Each row is multiplied alone: a product of many rows at once may round a row
        differently with the number of rows beside it.

        Args:
            rows: Pooled rows, shape (num_sequences, in_features), or features of pairs.

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
    _check_finite(weights, ((spec.weight, weight), (spec.bias, bias)))
    return Dense(np.ascontiguousarray(weight), bias, spec.nonlinearity)


def _check_finite(weights: Weights, tensors: Iterable[tuple[str | None, Float32Array]]) -> None:
    for name, tensor in tensors:
        if name is not None and not np.isfinite(tensor).all():
            raise CorruptWeightsError(
                f"tensor {name!r} in {weights.info(name).path} holds NaN or infinity. "
                "Download the file again."
            )


def _load_interaction(checkpoint: Checkpoint, spec: LateInteractionSpec) -> LateInteraction:
    hidden_size, weights = checkpoint.spec.body.hidden_size, checkpoint.weights
    center = weights.get_float32(spec.center, (hidden_size,))
    directions = np.empty((0, hidden_size), np.float32)
    if spec.directions is not None:
        num_directions = (*weights.info(spec.directions).shape, 0)[0]
        directions = weights.get_float32(spec.directions, (num_directions, hidden_size))
    _check_finite(weights, ((spec.center, center), (spec.directions, directions)))
    off = np.abs(np.einsum("id,jd->ij", directions, directions) - np.eye(len(directions)))
    if off.max(initial=0) > _LARGEST_SKEW:
        raise CheckpointError(
            f"{checkpoint.spec.folder}: the rows of {spec.directions!r} must be of unit length and "
            f"at right angles; a product of two is off by {off.max():.3g}. Orthonormalise them."
        )
    weight = None
    if spec.weight is not None:
        weight = _load_dense(checkpoint, spec.weight, hidden_size)
        if len(weight.bias) != 1:
            raise CheckpointError(
                f"{checkpoint.spec.folder}: the weight of late_interaction must give one value a "
                f"token, but {spec.weight.weight!r} gives {len(weight.bias)}."
            )
    center, directions = (np.require(x, np.float32, ["A", "C"]) for x in (center, directions))
    return LateInteraction(center, directions, weight)


def normalize(rows: Float32Array) -> Float32Array:
    """Return rows scaled to unit length; a row of zeros stays as it is.

    Args:
        rows: Shape (num_rows, dim).

    Returns:
        Same shape, float32.
    """
    lengths = np.sqrt(np.einsum("nd,nd->n", rows, rows))
    return rows / np.maximum(lengths, np.float32(1e-12))[:, None]
