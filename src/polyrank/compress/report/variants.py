"""Variants of a checkpoint: what each takes, how well it ranks, what its gate says."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from polyrank.checkpoint.reader import read_checkpoint
from polyrank.compress.report.footprint import NUM_DOCUMENTS, Footprint, measure_footprint
from polyrank.errors import ConfigError
from polyrank.evaluation import Comparison, Dataset, EvaluationConfig, System, compare
from polyrank.progress import StepProgress


@dataclass(frozen=True, slots=True)
class Variant:
    """A checkpoint that is compared.

    Attributes:
        name: As reports call it.
        folder: Where it lies.
    """

    name: str
    folder: Path


@dataclass(frozen=True, slots=True)
class VariantResult:
    """What was found of one variant.

    Attributes:
        variant: The checkpoint.
        footprint: Bytes, memory and time.
        gate: What its quality gate says, in words.
    """

    variant: Variant
    footprint: Footprint
    gate: str


@dataclass(frozen=True, slots=True)
class VariantReport:
    """What was found of all.

    Attributes:
        variants: In the order given; the first is the source of the others.
        quality: Of the same, in their order, on an evaluation set; None without one.
        settings: Of the models.
    """

    variants: tuple[VariantResult, ...]
    quality: Comparison | None
    settings: Mapping[str, Any]


def report_variants(
    variants: Sequence[Variant],
    settings: Mapping[str, Any],
    *,
    dataset: Dataset | None = None,
    system_of: Callable[[Variant], System] | None = None,
    config: EvaluationConfig | None = None,
    progress: StepProgress | None = None,
) -> VariantReport:
    """Measure variants side by side.

    Args:
        variants: The source first; with names of their own.
        settings: Of `Reranker`: encoder, threads and so on.
        dataset: Measures quality, and gives the documents that are timed.
        system_of: Makes of a variant what searches the set; wanted with `dataset`.
        config: Of the evaluation.
        progress: Called as work goes on.

    Returns:
        What was found.

    Raises:
        ConfigError: If two variants have one name, or there is none.
        CheckpointError: If a folder cannot be read.
        EncoderError: If a variant cannot be run.
    """
    names = [variant.name for variant in variants]
    if not names or len(set(names)) < len(names):
        raise ConfigError(
            f"variants must have names of their own, and be one at least, not {names}. "
            "Write NAME=FOLDER."
        )
    gates = [_gate(variant) for variant in variants]  # what cannot be read fails before the work
    documents = _sample(dataset)
    found = []
    for i, (variant, gate) in enumerate(zip(variants, gates, strict=True)):
        footprint = measure_footprint(variant.folder, settings, documents)
        found.append(VariantResult(variant, footprint, gate))
        if progress is not None:
            progress("variants timed", i + 1, len(variants))
    quality = None
    if dataset is not None:
        assert system_of is not None
        systems = [system_of(variant) for variant in variants]
        quality = compare(dataset, systems, config=config, progress=progress)
    return VariantReport(tuple(found), quality, settings)


def _gate(variant: Variant) -> str:
    return read_checkpoint(variant.folder, variant.name).gate().reason


def _sample(dataset: Dataset | None) -> list[str]:
    """Return some documents, drawn by a seed."""
    if dataset is None:
        return []
    drawn = np.random.default_rng(0).permutation(len(dataset.documents))[:NUM_DOCUMENTS]
    return [dataset.documents[int(i)].text for i in drawn]
