"""What to make of tensors that no part of the plan reads.

A head that polyrank does not run, an adapter, a projection: leaving it out gives scores that look
right and are another model's. So whatever is in the weight files must be used, be known to be
harmless, or be refused by name. `polyrank.checkpoint.layouts.LEFTOVERS` is the table of what is
known.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from polyrank.checkpoint.files import is_file
from polyrank.checkpoint.layouts import (
    ADAPTER_FILE,
    EXTRA_HEADS_KEY,
    LEFTOVERS,
    OTHER_HEADS,
    Leftover,
)
from polyrank.checkpoint.settings import Settings
from polyrank.checkpoint.spec import BodySpec
from polyrank.checkpoint.weights import Weights
from polyrank.errors import UnsupportedArchitectureError

_SHOWN = 4  # names of a message

_ADVICE = (
    "polyrank would leave that out and give scores of another model. Use a checkpoint that it "
    "runs: a reranker or classifier (…ForSequenceClassification), or a sentence-transformers "
    "embedder (with modules.json)."
)


def refuse_adapters(folder: Path, weights: Weights) -> None:
    """Raise where the weights are, or are changed by, an adapter that is not merged.

    Args:
        folder: Folder of the transformer.
        weights: Its tensors.

    Raises:
        UnsupportedArchitectureError: If there is such an adapter.
    """
    names = [name for name in weights if "lora_" in name or ".base_layer." in name]
    if not names and not is_file(folder / ADAPTER_FILE):
        return
    what = f"tensors of an adapter, {_listed(names)}" if names else ADAPTER_FILE
    raise UnsupportedArchitectureError(
        f"{folder} holds {what}: weights that are to be added to others. Merge them once with "
        "peft (`PeftModel.from_pretrained(base, adapter).merge_and_unload()`), save the result, "
        "and name that folder."
    )


def check_leftovers(
    config: Settings, weights: Weights, used: Iterable[str], body: BodySpec, *, is_declared: bool
) -> tuple[str, ...]:
    """Raise unless every tensor that nothing reads is known to be harmless.

    Args:
        config: Content of config.json.
        weights: The checkpoint's tensors.
        used: Names of those that the body and the heads read.
        body: The body.
        is_declared: Whether modules.json or config.json say what the checkpoint does, so that the
            head that its body was trained with before has had its day.

    Returns:
        One sentence for each kind of tensor that is left out and might be missed.

    Raises:
        UnsupportedArchitectureError: If any is not harmless, or the checkpoint is said to be of an
            architecture that does something else.
    """
    unused = sorted(set(weights).difference(used))
    remarks: list[str] = []
    unknown: list[str] = []
    for name in unused:
        found = _known(name.removeprefix(body.prefix)) or _known(name)
        is_harmless = {
            "always": True,
            "declared": is_declared,
            "own heads": EXTRA_HEADS_KEY in config,
            "never": False,
        }
        if found is None or not is_harmless[found.harmless]:
            unknown.append(name)
        elif found.harmless == "declared" and found.what not in remarks:
            remarks.append(found.what)
    if unknown:
        raise UnsupportedArchitectureError(
            f"{weights.folder} holds tensors that polyrank does not read: {_listed(unknown)}. "
            f"{_guess(config, unknown, body)} {_ADVICE}"
        )
    if not is_declared:
        _check_architecture(config)
    return tuple(f"The weights hold {what}, which is not used." for what in remarks)


def check_module_leftovers(weights: Weights, used: Iterable[str]) -> None:
    """Raise unless every tensor of a Dense module's own folder is read.

    Args:
        weights: The module's tensors.
        used: Names of those that are read.

    Raises:
        UnsupportedArchitectureError: If there are others.
    """
    unknown = sorted(set(weights).difference(used))
    if unknown:
        raise UnsupportedArchitectureError(
            f"{weights.folder} holds tensors that its config.json does not speak of: "
            f"{_listed(unknown)}. {_ADVICE}"
        )


def _known(name: str) -> Leftover | None:
    return next((entry for entry in LEFTOVERS if entry.pattern.fullmatch(name)), None)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(f"{name!r:.100}" for name in names[:_SHOWN])
    more = len(names) - _SHOWN
    return f"{shown} and {more:,} more" if more > 0 else shown


def _guess(config: Settings, names: Sequence[str], body: BodySpec) -> str:
    """Return what the tensors probably are, in words."""
    for name in names:
        found = _known(name.removeprefix(body.prefix)) or _known(name)
        if found is not None:
            return f"They are probably {found.what}."
    for other in _architectures(config):
        return f"config.json calls it {other!r:.100}."
    if any(name.removeprefix(body.prefix).startswith("encoder.layer.") for name in names):
        return f"config.json speaks of {body.num_layers} layers; these may be of others."
    return "They may be a head, or of an architecture that config.json does not speak of."


def _architectures(config: Settings) -> list[str]:
    return [
        name
        for name in config.texts("architectures")
        if any(name.endswith(suffix) for suffix in OTHER_HEADS)
    ]


def _check_architecture(config: Settings) -> None:
    for name in _architectures(config):
        raise UnsupportedArchitectureError(
            f"{config.path} says the architecture is {name!r:.100}, which neither embeds nor "
            f"scores texts. {_ADVICE}"
        )
