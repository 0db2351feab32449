"""The tensors that a BERT-shaped body consists of, found and checked in the weight files."""

from polyrank.checkpoint.formats.int4 import BLOCK_VALUES, int4_shapes
from polyrank.checkpoint.formats.mixed import locate_mixed
from polyrank.checkpoint.formats.panels import OUTPUTS, PANELS_NDIM, panels_shape
from polyrank.checkpoint.formats.quantization import multiplier_name, scale_name, steps_of
from polyrank.checkpoint.header import TensorInfo
from polyrank.checkpoint.layouts import BODIES, NONLINEARITIES
from polyrank.checkpoint.settings import Settings
from polyrank.checkpoint.spec import BodySpec, Nonlinearity, QuantizationSpec
from polyrank.checkpoint.weights import INT8_DTYPES, UINT8_DTYPES, Weights
from polyrank.errors import CheckpointError, UnsupportedArchitectureError

LAYER = "encoder.layer.{}."
MAX_LAYERS = 4096
LEGACY_NAMES = (("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta"))


def read_body(config: Settings, weights: Weights) -> BodySpec:
    """Return the sizes and conventions of a body.

    Args:
        config: Content of config.json.
        weights: The checkpoint's tensors, asked only for their names.

    Returns:
        The body's specification. As many layers as it has are in the weight files.

    Raises:
        UnsupportedArchitectureError: If polyrank does not run such a body.
        CheckpointError: If a key is missing or impossible.
        MissingWeightError: If the weight files lack the last layer.
    """
    model_type = config.text("model_type") or ""
    if model_type not in BODIES:
        raise UnsupportedArchitectureError(
            f"{config.path} says model_type is {model_type!r:.200}; polyrank runs "
            f"{', '.join(BODIES)}."
        )
    _refuse_variants(config)
    layout = BODIES[model_type]
    hidden_size = config.integer("hidden_size", low=1)
    num_heads = config.integer("num_attention_heads", low=1)
    if hidden_size % num_heads:
        raise CheckpointError(
            f"{config.path} says hidden_size is {hidden_size} and num_attention_heads {num_heads}; "
            "the first must be a multiple of the second."
        )
    vocab_size = config.integer("vocab_size", low=1)
    # encoders count positions from this id, so that any other would point outside their tables
    default = min(1 if layout.counts_from_padding else 0, vocab_size - 1)
    pad_token_id = config.integer("pad_token_id", high=vocab_size - 1, default=default)
    body = BodySpec(
        model_type=model_type,
        hidden_size=hidden_size,
        num_layers=config.integer("num_hidden_layers", low=1, high=MAX_LAYERS),
        num_heads=num_heads,
        intermediate_size=config.integer("intermediate_size", low=1),
        vocab_size=vocab_size,
        num_positions=config.integer("max_position_embeddings", low=1),
        position_offset=pad_token_id + 1 if layout.counts_from_padding else 0,
        type_vocab_size=config.integer("type_vocab_size", low=1, default=2),
        pad_token_id=pad_token_id,
        activation=_activation(config),
        layer_norm_eps=config.number("layer_norm_eps", low=1e-30, high=1.0, default=1e-12),
        prefix=_prefix(layout.prefixes, weights),
    )
    if body.max_seqlen < 1:
        raise CheckpointError(
            f"{config.path} says max_position_embeddings is {body.num_positions} and pad_token_id "
            f"{pad_token_id}; positions of {model_type} begin behind the latter, so none is left."
        )
    _check_last_layer(body, weights)
    return body


def _check_last_layer(body: BodySpec, weights: Weights) -> None:
    """Look into the files before layers are listed: a list of 10^8 of them takes gigabytes."""
    name = f"{body.prefix}{LAYER.format(body.num_layers - 1)}attention.self.query.weight"
    if name not in weights:
        raise weights.missing(name)


def _activation(config: Settings) -> Nonlinearity:
    name = config.text("hidden_act") or "gelu"
    if name not in NONLINEARITIES:
        raise UnsupportedArchitectureError(
            f"{config.path} says hidden_act is {name!r:.200}; polyrank knows "
            f"{', '.join(key for key in NONLINEARITIES if '.' not in key)}."
        )
    return NONLINEARITIES[name]


def _refuse_variants(config: Settings) -> None:
    positions = config.text("position_embedding_type") or "absolute"
    if positions != "absolute":
        raise UnsupportedArchitectureError(
            f"{config.path} says position_embedding_type is {positions!r:.200}; "
            "polyrank runs learnt absolute positions."
        )
    if config.flag("is_decoder", default=False):
        raise UnsupportedArchitectureError(
            f"{config.path} describes a decoder; polyrank runs encoders."
        )
    if "quantization_config" in config:
        raise UnsupportedArchitectureError(
            f"{config.path} describes weights quantised by another library; use the original "
            "weights."
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
