"""What a checkpoint can do: its heads, read from config.json and sentence-transformers files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np

from polyrank.checkpoint.files import read_json, read_object, read_optional
from polyrank.checkpoint.layouts import (
    ACTIVATIONS,
    BODIES,
    CLASSIFIER_SUFFIX,
    LEGACY_POOLING_FLAGS,
    MODULES,
    MODULES_FILE,
    NONLINEARITIES,
    POOLING_MODES,
    PROMPTS_FILE,
)
from polyrank.checkpoint.spec import (
    MATCH_FEATURES,
    BodySpec,
    DenseSpec,
    HeadSpec,
    LateInteractionSpec,
)
from polyrank.errors import CheckpointError, UnsupportedArchitectureError
from polyrank.types import Activation, LayerWeights, PoolingMode, TaskName

EXTRA_HEADS_KEY = "polyrank_heads"

_LARGEST_FLOAT32 = float(np.finfo(np.float32).max)

Heads = dict[TaskName, HeadSpec]


class Modules:
    """The chain of modules of a sentence-transformers folder (empty for a plain one)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.chain: list[tuple[str, Path]] = []
        path = folder / MODULES_FILE
        if not path.is_file():
            return
        content = read_json(path)
        try:
            for entry in content:
                kind = entry["type"].rsplit(".", 1)[-1]
                self.chain.append((MODULES.get(kind, kind), self._subfolder(entry["path"], path)))
        except (KeyError, TypeError, AttributeError) as exc:
            raise CheckpointError(f"{path} does not list modules: {exc!r}.") from exc
        self._check(path)

    def _subfolder(self, relative: str, path: Path) -> Path:
        if relative and (Path(relative).is_absolute() or ".." in Path(relative).parts):
            raise CheckpointError(f"{path} names a folder outside the checkpoint: {relative!r}.")
        return self.folder / relative

    def _check(self, path: Path) -> None:
        kinds = [kind for kind, _ in self.chain]
        unknown = [kind for kind in kinds if kind not in MODULES.values()]
        if unknown:
            raise UnsupportedArchitectureError(
                f"{path} uses the module {unknown[0]}; polyrank runs {', '.join(MODULES)}."
            )
        if kinds[:1] != ["transformer"] or kinds.count("transformer") != 1:
            raise UnsupportedArchitectureError(
                f"{path} must begin with one Transformer module, not {kinds}."
            )
        if kinds.count("pooling") > 1 or ("dense" in kinds and "pooling" not in kinds):
            raise UnsupportedArchitectureError(
                f"{path} must hold one Pooling module before any Dense one, not {kinds}."
            )

    @property
    def body_folder(self) -> Path:
        """Folder of the transformer: the checkpoint's own, or 0_Transformer in old ones."""
        return self.chain[0][1] if self.chain else self.folder

    @property
    def has_pooling(self) -> bool:
        """Whether the chain pools token rows."""
        return any(kind == "pooling" for kind, _ in self.chain)

    def head(self) -> HeadSpec:
        """Return pooling, linear layers and normalisation of the chain as one head."""
        pooling: tuple[PoolingMode, ...] = ("mean",)
        layers: list[DenseSpec] = []
        is_normalized = False
        for kind, folder in self.chain:
            if kind == "pooling":
                pooling = _pooling(folder / "config.json")
            elif kind == "dense":
                layers.append(self._dense(folder))
            elif kind == "normalize":
                is_normalized = True
        return HeadSpec(pooling, tuple(layers), is_normalized)

    def _dense(self, folder: Path) -> DenseSpec:
        path = folder / "config.json"
        config = read_object(path)
        name = config.get("activation_function", "torch.nn.modules.activation.Tanh")
        if name not in NONLINEARITIES:
            raise UnsupportedArchitectureError(
                f"{path} uses the activation {name!r}; polyrank knows "
                f"{', '.join(key for key in NONLINEARITIES if '.' in key)}."
            )
        bias = "linear.bias" if config.get("bias", True) else None
        relative = folder.relative_to(self.folder).as_posix()
        return DenseSpec("linear.weight", bias, NONLINEARITIES[name], relative)


def _pooling(path: Path) -> tuple[PoolingMode, ...]:
    config = read_object(path)
    if not config.get("include_prompt", True):
        raise UnsupportedArchitectureError(
            f"{path} pools without the prompt's tokens (include_prompt: false), "
            "which polyrank does not do."
        )
    named = config.get("pooling_mode")
    if named is None:
        modes = [mode for flag, mode in LEGACY_POOLING_FLAGS.items() if config.get(flag)]
    else:
        names = [named] if isinstance(named, str) else list(named)
        unknown = [name for name in names if name not in POOLING_MODES]
        if unknown:
            raise UnsupportedArchitectureError(
                f"{path} pools by {unknown[0]!r}; polyrank knows {', '.join(POOLING_MODES)}."
            )
        modes = [POOLING_MODES[name] for name in names]
    return tuple(modes) or ("mean",)


def read_heads(
    config: Mapping[str, Any], path: Path, body: BodySpec, modules: Modules
) -> tuple[Heads, tuple[str, ...]]:
    """Return the heads of a checkpoint and what had to be assumed.

    Args:
        config: Content of config.json.
        path: Where it was read.
        body: The body that the heads stand on.
        modules: Sentence-transformers modules of the folder.

    Returns:
        Heads by task, and one sentence for each assumption.

    Raises:
        UnsupportedArchitectureError: If a head cannot be run.
        CheckpointError: If a head is described wrongly.
    """
    settings = read_optional(modules.folder / PROMPTS_FILE)
    architecture = str((config.get("architectures") or [""])[0])
    assumptions: tuple[str, ...] = ()
    heads: Heads = {}
    if modules.has_pooling and settings.get("model_type") == "CrossEncoder":
        head = modules.head()
        heads = _scoring(head.pooling, head.layers, config, settings, path)
    elif modules.has_pooling:
        heads = {"embed": modules.head()}
    elif architecture.endswith(CLASSIFIER_SUFFIX):
        layers = _classifier_layers(body)
        heads = _scoring(("cls",), layers, config, settings, path)
    elif EXTRA_HEADS_KEY not in config:
        heads = {"embed": HeadSpec(("mean",))}
        assumptions = (
            "The folder describes no head: vectors are the mean of the token rows, not normalised.",
        )
    heads.update(_extra_heads(config, path, body))
    _check_late_interaction(heads, path)
    _check_similarity(heads, path)
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
    config: Mapping[str, Any],
    settings: Mapping[str, Any],
    path: Path,
) -> Heads:
    """One label makes a reranker, several make a classifier."""
    labels = _labels(config, path)
    if len(labels) == 1:
        activation = _score_activation(config, settings)
        return {"rerank": HeadSpec(pooling, layers, activation=activation, labels=labels)}
    problem = config.get("problem_type")
    activations: dict[str | None, Activation] = {
        "multi_label_classification": "sigmoid",
        "regression": "identity",
    }
    activation = activations.get(problem, "softmax")
    return {"classify": HeadSpec(pooling, layers, activation=activation, labels=labels)}


def _score_activation(config: Mapping[str, Any], settings: Mapping[str, Any]) -> Activation:
    """Sigmoid unless the checkpoint names another, in any of the three places used over time."""
    nested = config.get("sentence_transformers")
    candidates = (
        settings.get("activation_fn"),
        nested.get("activation_fn") if isinstance(nested, dict) else None,
        config.get("sbert_ce_default_activation_function"),
    )
    for name in candidates:
        if isinstance(name, str) and name.rsplit(".", 1)[-1] in ACTIVATIONS:
            return ACTIVATIONS[name.rsplit(".", 1)[-1]]
    return "sigmoid"


def _labels(config: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    id2label = config.get("id2label")
    if id2label is None:
        # transformers' own default is two labels
        return tuple(f"LABEL_{i}" for i in range(int(config.get("num_labels", 2))))
    try:
        return tuple(str(id2label[str(i)]) for i in range(len(id2label)))
    except (KeyError, TypeError) as exc:
        raise CheckpointError(
            f"{path} must name labels 0 to n-1 in id2label, not {id2label!r}."
        ) from exc


def _extra_heads(config: Mapping[str, Any], path: Path, body: BodySpec) -> Heads:
    """Heads beyond what transformers can describe: several tasks on one body.

    ``"polyrank_heads": {"classify": {"pooling": "mean", "layers": [{"weight": …, "bias": …,
    "nonlinearity": …}], "activation": "softmax", "labels": […]}, …}`` in config.json; instead of
    "pooling" there may be "late_interaction".
    """
    heads: Heads = {}
    for task, entry in dict(config.get(EXTRA_HEADS_KEY, {})).items():
        try:
            if task not in get_args(TaskName):
                raise ValueError(f"unknown task {task!r}")
            late = entry.get("late_interaction")
            if late is not None and "pooling" in entry:
                raise ValueError("pooling beside late_interaction")
            heads[cast(TaskName, task)] = HeadSpec(
                (POOLING_MODES[entry["pooling"]],) if late is None else (),
                tuple(_dense(layer) for layer in entry.get("layers", ())),
                bool(entry.get("normalize", False)),
                entry.get("activation", "identity"),
                tuple(entry.get("labels", ())),
                float(entry.get("similarity_weight", 0.0)),
                None if late is None else _late_interaction(late, body.num_layers),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as exc:
            raise CheckpointError(
                f"{path} describes the head {task!r} of {EXTRA_HEADS_KEY} wrongly: {exc!r}."
            ) from exc
    return heads


def _dense(entry: Mapping[str, Any]) -> DenseSpec:
    return DenseSpec(entry["weight"], entry.get("bias"), entry.get("nonlinearity", "identity"))


def _late_interaction(entry: Mapping[str, Any], num_layers: int) -> LateInteractionSpec:
    features = tuple(entry["features"])
    unknown = [name for name in features if name not in MATCH_FEATURES]
    if unknown or not features or len(set(features)) < len(features):
        raise ValueError(
            f"features must be different ones of {', '.join(MATCH_FEATURES)}, not {list(features)}"
        )
    weight, directions = entry.get("weight"), entry.get("directions")
    for name in (entry["center"], "" if directions is None else directions):
        if not isinstance(name, str):
            raise TypeError(f"center and directions are names of tensors, not {name!r}")
    layers = _layer_weights(entry["layers"], num_layers) if "layers" in entry else ()
    if layers and "cosine" in features:
        raise ValueError(
            "the feature cosine needs the last layer's rows, which are not at hand where layers "
            "are summed up; take clean_cosine"
        )
    return LateInteractionSpec(
        entry["center"],
        directions,
        None if weight is None else DenseSpec(weight["weight"], weight.get("bias"), "identity"),
        features,
        layers,
    )


def _layer_weights(entry: Any, num_layers: int) -> LayerWeights:
    if not isinstance(entry, dict) or not entry:
        raise ValueError(f"layers must give the weight of one layer or more, not {entry!r}")
    numbers = {str(number): number for number in range(num_layers + 1)}
    for name, weight in entry.items():
        if name not in numbers:
            raise ValueError(f"layers are numbered 0 to {num_layers}, not {name!r}")
        is_number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not is_number or not abs(weight) <= _LARGEST_FLOAT32:
            raise ValueError(f"the weight of layer {name} must be a finite number, not {weight!r}")
    return tuple(sorted((numbers[name], float(weight)) for name, weight in entry.items()))


def _check_late_interaction(heads: Heads, path: Path) -> None:
    """Such a head compares pairs, beside an embed head that pools the rows it reads."""
    for task, head in heads.items():
        if head.late_interaction is None:
            continue
        if task == "embed" or head.similarity_weight or head.is_normalized:
            raise CheckpointError(
                f"{path} gives the head {task!r} late_interaction; only rerank and classify heads "
                "take it, without similarity_weight (the feature cosine is that) or normalize."
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


def _check_similarity(heads: Heads, path: Path) -> None:
    """A head that adds cosines needs an embed head with the same pooling: one pass makes both."""
    for task, head in heads.items():
        if not head.similarity_weight:
            continue
        if task != "rerank" or not np.isfinite(head.similarity_weight):
            raise CheckpointError(
                f"{path} gives the head {task!r} the similarity_weight {head.similarity_weight}; "
                "only a rerank head takes one, and it is a finite number."
            )
        if "embed" not in heads or heads["embed"].pooling != head.pooling:
            raise CheckpointError(
                f"{path} describes a rerank head that adds cosines of vectors, but no embed head "
                f"that pools by {head.pooling[0]!r} as it does."
            )
