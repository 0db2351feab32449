"""The rule of ``compute_dtype="auto"``: int8 where a quality gate passed it and it is quicker."""

from dataclasses import dataclass

from polyrank.checkpoint.reader import Checkpoint
from polyrank.encoder.paths import BFLOAT16_PATHS, is_int8_quicker
from polyrank.types import ComputeDtype, ProductDtype


@dataclass(frozen=True, slots=True)
class ComputeDtypeChoice:
    """The type of the products in linear layers, and why.

    Attributes:
        name: The type as users write it.
        reason: Why, in words.
        is_for_speed: Whether it is float32 though the gate passed, since that is as quick here.
    """

    name: ProductDtype
    reason: str
    is_for_speed: bool = False

    @property
    def is_int8(self) -> bool:
        """Whether products are int8."""
        return self.name == "int8"


def float32_reason(checkpoint: Checkpoint, choice: ComputeDtypeChoice, encoder: str) -> str:
    """Return why an encoder without int8 products runs in float32.

    Args:
        checkpoint: The opened checkpoint.
        choice: What `choose_compute_dtype` says of it.
        encoder: Name of the encoder.

    Returns:
        The reason in words, with what becomes of int8 weights.
    """
    reason = choice.reason
    if choice.is_int8:
        reason += f", but the {encoder} encoder has no int8 products"
    if checkpoint.spec.quantization is not None:
        reason += "; the folder's int8 weights are computed in float32"
    return reason


def choose_compute_dtype(
    checkpoint: Checkpoint, asked: ComputeDtype, path: str = ""
) -> ComputeDtypeChoice:
    """Return which compute dtype an encoder that has products of every type uses.

    Args:
        checkpoint: The opened checkpoint, whose gate record "auto" looks at.
        asked: What the caller asked for.
        path: Kernels that would compute; empty for an encoder of which nothing is known.

    Returns:
        The choice. Float32 products on an int8 folder run on its dequantised weights.

    Raises:
        CheckpointError: If the folder's gate record cannot be read.
    """
    if asked == "bfloat16":
        return ComputeDtypeChoice("bfloat16", _bfloat16_reason(checkpoint, path))
    if asked != "auto":
        return ComputeDtypeChoice(asked, "asked for")
    gate, quantization = checkpoint.gate(), checkpoint.spec.quantization
    linears = quantization.linears if quantization else "int8"
    if gate.passed and not is_int8_quicker(path, linears):
        reason = f"{gate.reason}, but float32 products are as quick on path {path}"
        return ComputeDtypeChoice("float32", reason, is_for_speed=True)
    return ComputeDtypeChoice("int8" if gate.passed else "float32", gate.reason)


def _bfloat16_reason(checkpoint: Checkpoint, path: str) -> str:
    reason = "asked for"
    if path and path not in BFLOAT16_PATHS:
        reason += (
            f", though path {path} has no bfloat16 products: float32 ones of the same rounded "
            "values stand in, which saves memory but no time"
        )
    if checkpoint.spec.quantization is not None:
        reason += "; the folder's int8 weights are rounded to bfloat16"
    return reason
