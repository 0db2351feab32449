"""The tensors that a BERT-shaped body consists of, found and checked in the weight files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from polyrank.checkpoint.files import positive_int
from polyrank.checkpoint.int4 import BLOCK_VALUES, int4_shapes
from polyrank.checkpoint.layouts import BODIES, NONLINEARITIES
from polyrank.checkpoint.mixed import locate_mixed
from polyrank.checkpoint.panels import OUTPUTS, PANELS_NDIM, panels_shape
from polyrank.checkpoint.quantization import multiplier_name, scale_name, steps_of
from polyrank.checkpoint.spec import BodySpec, QuantizationSpec
from polyrank.checkpoint.weights import INT8_DTYPES, UINT8_DTYPES, TensorInfo, Weights
from polyrank.errors import CheckpointError, UnsupportedArchitectureError

LAYER = "encoder.layer.{}."
LEGACY_NAMES = (("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta"))


def read_body(config: Mapping[str, Any], path: Path, weights: Weights) -> BodySpec:
    """Return the sizes and conventions of a body.

    Args:
        config: Content of config.json.
        path: Where it was read, for messages.
        weights: The checkpoint's tensors, asked only for how their names begin.

    Returns:
        The body's specification.

    Raises:
        UnsupportedArchitectureError: If polyrank does not run such a body.
        CheckpointError: If a key is missing or impossible.
    """
    model_type = str(config.get("model_type"))
    if model_type not in BODIES:
        raise UnsupportedArchitectureError(
            f"{path} says model_type is {model_type!r}; polyrank runs {', '.join(BODIES)}."
        )
    _refuse_variants(config, path)
    layout = BODIES[model_type]
    hidden_size = positive_int(config, "hidden_size", path)
    num_heads = positive_int(config, "num_attention_heads", path)
    if hidden_size % num_heads:
        raise CheckpointError(
            f"{path} says hidden_size is {hidden_size} and num_attention_heads {num_heads}; "
            "the first must be a multiple of the second."
        )
    pad_token_id = config.get("pad_token_id")
    if type(pad_token_id) is not int:
        pad_token_id = 1 if layout.counts_from_padding else 0
    activation = config.get("hidden_act", "gelu")
    if activation not in NONLINEARITIES:
        raise UnsupportedArchitectureError(
            f"{path} says hidden_act is {activation!r}; polyrank knows "
            f"{', '.join(key for key in NONLINEARITIES if '.' not in key)}."
        )
    return BodySpec(
        model_type=model_type,
        hidden_size=hidden_size,
        num_layers=positive_int(config, "num_hidden_layers", path),
        num_heads=num_heads,
        intermediate_size=positive_int(config, "intermediate_size", path),
        vocab_size=positive_int(config, "vocab_size", path),
        num_positions=positive_int(config, "max_position_embeddings", path),
        position_offset=pad_token_id + 1 if layout.counts_from_padding else 0,
        type_vocab_size=positive_int({"type_vocab_size": 2, **config}, "type_vocab_size", path),
        pad_token_id=pad_token_id,
        activation=NONLINEARITIES[activation],
        layer_norm_eps=float(config.get("layer_norm_eps", 1e-12)),
        prefix=_prefix(layout.prefixes, weights),
    )


def _refuse_variants(config: Mapping[str, Any], path: Path) -> None:
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise UnsupportedArchitectureError(
            f"{path} says position_embedding_type is {config['position_embedding_type']!r}; "
            "polyrank runs learnt absolute positions."
        )
    if config.get("is_decoder"):
        raise UnsupportedArchitectureError(f"{path} describes a decoder; polyrank runs encoders.")
    if config.get("quantization_config"):
        raise UnsupportedArchitectureError(
            f"{path} describes weights quantised by another library; use the original weights."
        )


def _prefix(prefixes: tuple[str, ...], weights: Weights) -> str:
    for prefix in prefixes:
        if f"{prefix}embeddings.word_embeddings.weight" in weights:
            return prefix
    return prefixes[0]


def tensor_shapes(body: BodySpec) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor of a body, by its name without prefix.

    Args:
        body: The body.

    Returns:
        Shapes by name, embeddings first, then layer by layer.
    """
    hidden, inner = body.hidden_size, body.intermediate_size
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (body.vocab_size, hidden),
        "embeddings.position_embeddings.weight": (body.num_positions, hidden),
        "embeddings.token_type_embeddings.weight": (body.type_vocab_size, hidden),
        "embeddings.LayerNorm.weight": (hidden,),
        "embeddings.LayerNorm.bias": (hidden,),
    }
    layer_shapes: dict[str, tuple[int, ...]] = {
        "attention.self.query": (hidden, hidden),
        "attention.self.key": (hidden, hidden),
        "attention.self.value": (hidden, hidden),
        "attention.output.dense": (hidden, hidden),
        "attention.output.LayerNorm": (hidden,),
        "intermediate.dense": (inner, hidden),
        "output.dense": (hidden, inner),
        "output.LayerNorm": (hidden,),
    }
    for layer in range(body.num_layers):
        for name, shape in layer_shapes.items():
            shapes[LAYER.format(layer) + name + ".weight"] = shape
            shapes[LAYER.format(layer) + name + ".bias"] = shape[:1]
    return shapes


def locate_body(
    body: BodySpec, weights: Weights, quantization: QuantizationSpec | None = None
) -> dict[str, TensorInfo]:
    """Return where each tensor of a body lies, all of them checked for shape and type.

    Args:
        body: The body.
        weights: The checkpoint's tensors.
        quantization: Which tensors are steps, or None where all are floating-point numbers.

    Returns:
        Places by name without prefix, with the scales and multipliers of quantised tensors.
        `TensorInfo.name` is the name in the file, which for old checkpoints ends in gamma or beta.

    Raises:
        MissingWeightError: If a tensor is absent.
        CorruptWeightsError: If one has another shape or type.
        CheckpointError: If rows are no whole 4-bit blocks.
    """
    places: dict[str, TensorInfo] = {}
    for name, shape in tensor_shapes(body).items():
        stored = _stored_name(body.prefix + name, weights)
        kind = steps_of(name, shape, quantization)
        if kind == "int4":
            packed, scales = _int4_shapes(name, shape, weights)
            places[name] = weights.info(stored, packed, UINT8_DTYPES)
            places[scale_name(name)] = weights.info(scale_name(stored), scales, ("F16",))
        elif kind == "mixed":
            places.update(locate_mixed(name, stored, shape, weights))
        elif kind == "int8":
            places[name] = _int8_info(stored, shape, weights)
            places[scale_name(name)] = weights.info(scale_name(stored), shape[:1])
        else:
            places[name] = weights.info(stored, shape)
        if kind in ("int8", "int4") and multiplier_name(stored) in weights:
            places[multiplier_name(name)] = weights.info(multiplier_name(stored), shape[1:])
    return places


def _int8_info(name: str, shape: tuple[int, ...], weights: Weights) -> TensorInfo:
    """Return where the steps of a matrix lie: in rows, or in panels as their shape tells."""
    info = weights.info(name, dtypes=INT8_DTYPES)
    if len(info.shape) == PANELS_NDIM:
        if shape[0] % OUTPUTS:
            raise CheckpointError(
                f"{weights.folder} stores {name!r} of {shape[0]} outputs in panels, which hold "
                f"{OUTPUTS} each. Quantise the checkpoint again."
            )
        shape = panels_shape(shape)
    return weights.info(name, shape, INT8_DTYPES)


def _int4_shapes(
    name: str, shape: tuple[int, ...], weights: Weights
) -> tuple[tuple[int, int], tuple[int, int]]:
    if shape[1] % BLOCK_VALUES:
        raise CheckpointError(
            f"{weights.folder} stores {name!r} of shape {list(shape)} as int4, whose blocks need "
            f"rows of a multiple of {BLOCK_VALUES} values. Quantise the checkpoint again."
        )
    return int4_shapes(shape)


def _stored_name(name: str, weights: Weights) -> str:
    if name not in weights:
        for modern, legacy in LEGACY_NAMES:
            if name.endswith(modern) and name.replace(modern, legacy) in weights:
                return name.replace(modern, legacy)
    return name
