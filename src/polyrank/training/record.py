"""The record of a run, training.json: enough to judge the checkpoint and to repeat the run.

Folders are named, not located: the record travels with the checkpoint.
"""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from polyrank.training.config import TrainingConfig
from polyrank.training.data.source import TrainingSource
from polyrank.training.finetune.journal import Journal

RECORD_FILE = "training.json"
PLOT_FILE = "training.png"

_LIBRARIES = (
    "polyrank",
    "torch",
    "transformers",
    "sentence-transformers",
    "accelerate",
    "datasets",
    "peft",
    "numpy",
)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that take part."""
    found = {"python": platform.python_version()}
    for library in _LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found


def settled(config: TrainingConfig) -> dict[str, Any]:
    """Return the settings with every default of the task filled in."""
    return {**asdict(config), **config.settled, "losses": dict(config.losses)}


def describe_sources(
    sources: Sequence[TrainingSource], num_usable: Sequence[int], drawn: Sequence[int]
) -> list[dict[str, Any]]:
    """Return what each source is and how much of it was used.

    Args:
        sources: The training data.
        num_usable: Examples of each that the task can use.
        drawn: Lists drawn of each.

    Returns:
        One entry a source.
    """
    return [
        {
            "name": source.name,
            "layout": source.layout,
            "sha256": source.sha256,
            "weight": source.weight,
            "num_queries": len(source.examples),
            "num_usable": usable,
            "num_passages": len(source.passages),
            "languages": list(source.by_language),
            "num_lists": count,
        }
        for source, usable, count in zip(sources, num_usable, drawn, strict=True)
    ]


def describe_course(journal: Journal, num_steps: int, config: TrainingConfig) -> dict[str, Any]:
    """Return losses, evaluations and speed of a run.

    Args:
        journal: What happened.
        num_steps: Steps in all.
        config: The settings.

    Returns:
        Entries for the record.
    """
    best: Mapping[str, Any] | None = journal.best
    return {
        "num_steps": num_steps,
        "num_lists": num_steps * config.lists_per_step,
        "cross_language_share": round(journal.num_cross_language / max(1, journal.num_lists), 4),
        "passages_per_list": round(journal.num_passages / max(1, journal.num_lists), 2),
        "seconds": round(journal.elapsed_s, 1),
        "best": best and {key: best[key] for key in ("step", "measure", "value")},
        "evaluations": journal.evaluations,
        "losses": journal.mean_losses(),
    }
