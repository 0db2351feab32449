"""The rule of ``precision="auto"``: int8 only where a quality gate measured it and it passed."""

from dataclasses import dataclass

from polyrank.checkpoint.reader import Checkpoint
from polyrank.types import Precision


@dataclass(frozen=True, slots=True)
class PrecisionChoice:
    """The type of the products in linear layers, and why.

    Attributes:
        is_int8: Whether products are int8; otherwise float32.
        reason: Why, in words.
    """

    is_int8: bool
    reason: str

    @property
    def name(self) -> str:
        """The precision as users write it."""
        return "int8" if self.is_int8 else "float32"


def float32_reason(checkpoint: Checkpoint, choice: PrecisionChoice, encoder: str) -> str:
    """Return why an encoder without int8 products runs in float32.

    Args:
        checkpoint: The opened checkpoint.
        choice: What `choose_precision` says of it.
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


def choose_precision(checkpoint: Checkpoint, asked: Precision) -> PrecisionChoice:
    """Return which precision an encoder that has int8 products uses.

    Args:
        checkpoint: The opened checkpoint, whose gate record "auto" looks at.
        asked: What the caller asked for.

    Returns:
        The choice. Float32 products on an int8 folder run on its dequantised weights.

    Raises:
        CheckpointError: If the folder's gate record cannot be read.
    """
    if asked != "auto":
        return PrecisionChoice(asked == "int8", "asked for")
    gate = checkpoint.gate()
    return PrecisionChoice(gate.passed, gate.reason)
