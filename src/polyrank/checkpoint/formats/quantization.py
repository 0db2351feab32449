"""The int8 layout: which tensors of a body are stored as steps, and what they stand for.

`docs/reference/checkpoint-format.md` describes the folder for readers without polyrank. In short,
a weight is ``steps[o, i] * weight_scale[o] * input_multiplier[i]``, the last factor 1 where absent,
or lies in 4-bit blocks, see `polyrank.checkpoint.formats.int4`. So may the table of word
embeddings, or be mixed, see `polyrank.checkpoint.formats.mixed`.
"""

from collections.abc import Mapping
from typing import Literal

from polyrank.checkpoint.layouts import QUANTIZATION_KEY
from polyrank.checkpoint.settings import Settings
from polyrank.checkpoint.spec import TABLE_TYPES, LinearType, QuantizationSpec
from polyrank.errors import UnsupportedArchitectureError

VERSION = 1
SCHEMES: Mapping[str, LinearType] = {"int8-per-channel": "int8", "int4-blocks": "int4"}
SCALE_SUFFIX = "_scale"  # behind the name of the weight
MULTIPLIER = "input_multiplier"  # in place of "weight"
WORD_TABLE = "embeddings.word_embeddings.weight"
POSITION_TABLE = "embeddings.position_embeddings.weight"


def read_quantization(config: Settings) -> QuantizationSpec | None:
    """Return how the weights of a folder are quantised.

    Args:
        config: Content of config.json.

    Returns:
        The layout's settings, or None where the weights are floating-point numbers.

    Raises:
        UnsupportedArchitectureError: If the layout is a newer one, or of another scheme.
        CheckpointError: If the block is not what this layout asks for.
    """
    if QUANTIZATION_KEY not in config:
        return None
    block = config.mapping(QUANTIZATION_KEY)
    version, scheme = block.integer("version", high=None, default=0), block.text("scheme")
    linears = None if scheme is None else SCHEMES.get(scheme)
    if version != VERSION or linears is None:
        raise UnsupportedArchitectureError(
            f"{config.path} holds int8 weights of version {version!r:.200} and scheme "
            f"{scheme!r:.200}; this polyrank reads version {VERSION}, "
            f"{' or '.join(map(repr, SCHEMES))}. Install a newer polyrank, or quantise again with "
            "`polyrank compress quantize`."
        )
    return QuantizationSpec(
        block.choice("embeddings", {kind: kind for kind in TABLE_TYPES}), linears
    )


def scale_name(weight: str) -> str:
    """Return the name of the scales of a weight stored as steps."""
    return weight + SCALE_SUFFIX


def multiplier_name(weight: str) -> str:
    """Return the name of the input multipliers of an int8 weight."""
    return weight.removesuffix("weight") + MULTIPLIER


def steps_of(
    name: str, shape: tuple[int, ...], quantization: QuantizationSpec | None
) -> Literal["int8", "int4", "mixed"] | None:
    """Return the steps that a tensor of a body, named without prefix, is stored as, if any."""
    if quantization is None:
        return None
    if name == WORD_TABLE:
        kind = quantization.embeddings
        return kind if kind in ("int8", "int4", "mixed") else None
    return quantization.linears if name.startswith("encoder.") and len(shape) == 2 else None
