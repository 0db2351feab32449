"""What a checkpoint can do: its heads, read from config.json and sentence-transformers files."""

from pathlib import Path
from typing import Any, cast, get_args

from polyrank.checkpoint.layouts import (
    ACTIVATIONS,
    BODIES,
    CLASSIFIER_SUFFIX,
    EXTRA_HEADS_KEY,
    POOLING_MODES,
    PROMPTS_FILE,
)
from polyrank.checkpoint.modules import Modules
from polyrank.checkpoint.multi_vector import read_multi_vector
from polyrank.checkpoint.settings import (
    MAX_ITEMS,
    MAX_SIZE,
    Settings,
    is_text,
)
from polyrank.checkpoint.spec import (
    MATCH_FEATURES,
    BodySpec,
    DenseSpec,
    HeadSpec,
    LateInteractionSpec,
    Nonlinearity,
)
from polyrank.errors import CheckpointError, UnsupportedArchitectureError
from polyrank.types import Activation, PoolingMode, TaskName

MAX_LAYERS = 16  # linear layers of a head
_HEAD_KEYS = ("pooling", "layers", "normalize", "activation", "labels", "late_interaction")
_LATE_INTERACTION_KEYS = ("center", "directions", "weight", "features")

_NONLINEARITIES: dict[str, Nonlinearity] = {name: name for name in get_args(Nonlinearity)}
_ACTIVATIONS: dict[str, Activation] = {name: name for name in get_args(Activation)}

Heads = dict[TaskName, HeadSpec]


def read_heads(config: Settings, body: BodySpec, modules: Modules) -> tuple[Heads, tuple[str, ...]]:
    """Return the heads of a checkpoint and what had to be assumed.

    Args:
        config: Content of config.json.
        body: The body that the heads stand on.
        modules: Sentence-transformers modules of the folder.

    Returns:
        Heads by task, and one sentence for each assumption.

    Raises:
        UnsupportedArchitectureError: If a head cannot be run.
        CheckpointError: If a head is described wrongly.
    """
    settings = Settings.read_optional(modules.folder / PROMPTS_FILE)
    architecture = next(iter(config.texts("architectures")), "")
    assumptions: tuple[str, ...] = ()
    heads: Heads = {}
    multi_vector = read_multi_vector(config, modules)
    if multi_vector is not None:
        return {"rerank": multi_vector}, ()
    modules.check_pooled()
    if modules.has_pooling and settings.text("model_type") == "CrossEncoder":
        head = modules.head()
        heads = _scoring(head.pooling, head.layers, config, settings)
    elif modules.has_pooling:
        heads = {"embed": modules.head()}
    elif architecture.endswith(CLASSIFIER_SUFFIX):
        layers = _classifier_layers(body)
        heads = _scoring(("cls",), layers, config, settings)
    elif EXTRA_HEADS_KEY not in config:
        heads = {"embed": HeadSpec(("mean",))}
        assumptions = (
            "The folder describes no head: vectors are the mean of the token rows, not normalised.",
        )
    heads.update(_extra_heads(config, body))
    _check_late_interaction(heads, config.path)
    return heads, assumptions


def _classifier_layers(body: BodySpec) -> tuple[DenseSpec, ...]:
    if BODIES[body.model_type].has_pooler_head:
        pooler = f"{body.prefix}pooler.dense."
        return (
            DenseSpec(pooler + "weight", pooler + "bias", "tanh"),
            DenseSpec("classifier.weight", "classifier.bias", "identity"),
        )
    return (
        DenseSpec("classifier.dense.weight", "classifier.dense.bias", "tanh"),
        DenseSpec("classifier.out_proj.weight", "classifier.out_proj.bias", "identity"),
    )


def _scoring(
    pooling: tuple[PoolingMode, ...],
    layers: tuple[DenseSpec, ...],
    config: Settings,
    settings: Settings,
) -> Heads:
    """One label makes a reranker, several make a classifier."""
    labels, problem = _labels(config), config.text("problem_type")
    if len(labels) == 1:
        activation = _score_activation(config, settings)
        return {"rerank": HeadSpec(pooling, layers, activation=activation, labels=labels)}
    activations: dict[str | None, Activation] = {
        "multi_label_classification": "sigmoid",
        "regression": "identity",
    }
    activation = activations.get(problem, "softmax")
    return {"classify": HeadSpec(pooling, layers, activation=activation, labels=labels)}


def _score_activation(config: Settings, settings: Settings) -> Activation:
    """Sigmoid unless the checkpoint names another, in any of the three places used over time."""
    key = "activation_fn"
    places = (
        (settings, key),
        (config.mapping("sentence_transformers"), key),
        (config, "sbert_ce_default_activation_function"),
    )
    for place, key in places:
        name = place.text(key)
        if name is None:
            continue
        last = name.rsplit(".", 1)[-1]
        if last not in ACTIVATIONS:
            raise UnsupportedArchitectureError(
                f"{place.path} says {place.name(key)} is {name!r:.200}; polyrank knows "
                f"{', '.join(ACTIVATIONS)}."
            )
        return ACTIVATIONS[last]
    return "sigmoid"


def _labels(config: Settings) -> tuple[str, ...]:
    if "id2label" not in config:
        # transformers' own default is two labels
        count = config.integer("num_labels", low=1, high=MAX_ITEMS, default=2)
        return tuple(f"LABEL_{i}" for i in range(count))
    names = config.mapping("id2label").content
    labels = [names.get(str(i)) for i in range(len(names))]
    if not labels or len(labels) > MAX_ITEMS or not all(map(_is_label, labels)):
        raise CheckpointError(
            f"{config.path} must name labels 0 to n-1 in id2label, not {names!r:.200}."
        )
    return tuple(str(label) for label in labels)


def _is_label(value: Any) -> bool:
    return is_text(value) or (type(value) is int and abs(value) <= MAX_SIZE)


def _extra_heads(config: Settings, body: BodySpec) -> Heads:
    """Heads beyond what transformers can describe: several tasks on one body.

    ``"polyrank_heads": {"classify": {"pooling": "mean", "layers": [{"weight": …, "bias": …,
    "nonlinearity": …}], "activation": "softmax", "labels": […]}, …}`` in config.json; instead of
    "pooling" there may be "late_interaction".
    """
    heads: Heads = {}
    entries = config.mapping(EXTRA_HEADS_KEY)
    for task in entries:
        try:
            if task not in get_args(TaskName):
                raise ValueError(f"unknown task {task!r}")
            heads[cast(TaskName, task)] = _extra_head(entries.mapping(task), body)
        except (CheckpointError, ValueError) as exc:
            raise CheckpointError(
                f"{config.path} describes the head {task!r:.200} of {EXTRA_HEADS_KEY} wrongly: "
                f"{exc}"
            ) from exc
    return heads


def _extra_head(entry: Settings, body: BodySpec) -> HeadSpec:
    entry.only(_HEAD_KEYS)
    late = entry.mapping("late_interaction") if "late_interaction" in entry else None
    if late is not None and "pooling" in entry:
        raise ValueError("pooling beside late_interaction")
    return HeadSpec(
        (entry.choice("pooling", POOLING_MODES),) if late is None else (),
        tuple(_dense(layer) for layer in entry.mappings("layers", MAX_LAYERS)),
        entry.flag("normalize", default=False),
        entry.choice("activation", _ACTIVATIONS, "identity"),
        entry.texts("labels"),
        None if late is None else _late_interaction(late),
    )


def _dense(entry: Settings) -> DenseSpec:
    nonlinearity = entry.choice("nonlinearity", _NONLINEARITIES, "identity")
    return DenseSpec(entry.needed_text("weight"), entry.text("bias"), nonlinearity)


def _late_interaction(entry: Settings) -> LateInteractionSpec:
    entry.only(_LATE_INTERACTION_KEYS)
    features = entry.texts("features")
    known = {name: name for name in MATCH_FEATURES}
    if not features or not set(features) <= set(known) or len(set(features)) < len(features):
        raise ValueError(
            f"features must be different ones of {', '.join(known)}, not {list(features)!r:.200}"
        )
    weight = entry.mapping("weight") if "weight" in entry else None
    return LateInteractionSpec(
        entry.needed_text("center"),
        entry.text("directions"),
        None
        if weight is None
        else DenseSpec(weight.needed_text("weight"), weight.text("bias"), "identity"),
        tuple(known[name] for name in features if name in known),
    )


def _check_late_interaction(heads: Heads, path: Path) -> None:
    """Such a head compares pairs, beside an embed head that pools the rows it reads."""
    for task, head in heads.items():
        if head.late_interaction is None:
            continue
        if task == "embed" or head.is_normalized:
            raise CheckpointError(
                f"{path} gives the head {task!r} late_interaction; only rerank and classify heads "
                "take it, without normalize."
            )
        if "embed" not in heads or not heads["embed"].pooling:
            raise CheckpointError(
                f"{path} describes a {task} head of late_interaction, which reads texts as an "
                "embedder does, but no embed head. Add the checkpoint's Pooling module, or an "
                f"embed head to {EXTRA_HEADS_KEY}."
            )
        if not head.labels or (task == "rerank" and len(head.labels) != 1):
            raise CheckpointError(
                f"{path} must name {'one label' if task == 'rerank' else 'the labels'} of the "
                f"{task} head of late_interaction, not {list(head.labels)}."
            )
