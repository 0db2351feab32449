"""A checkpoint's calibration: what `polyrank_calibration.json` holds, checked, ready to apply."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from polyrank.calibration.features import (
    DOCUMENT_FEATURES,
    DOCUMENT_LENGTH,
    Float64Array,
    Offset,
    offset_sum,
)
from polyrank.calibration.maps import Beta, Isotonic, Map, Method, Platt
from polyrank.calibration.thresholds import (
    Threshold,
    ThresholdRow,
    choose_threshold,
    parse_threshold,
)

CLASS_METHODS: tuple["ClassMethod", ...] = ("temperature", "vector")
ClassMethod = Literal["temperature", "vector"]


@dataclass(frozen=True)
class RankCalibration:
    """From the logit of a query and a document to the probability that it answers.

    Attributes:
        slope: What a logit counts for, above 0.
        intercept: Added to it.
        offsets: What else shifts it.
        method: Name of the map.
        map: From shifted logits to probabilities; rising all the way.
        thresholds: What thresholds reached on the calibration data.
        fitted: How it was fitted, for people.
    """

    slope: float
    intercept: float
    offsets: tuple[Offset, ...] = ()
    method: Method = "platt"
    map: Map = field(default_factory=Platt)
    thresholds: tuple[ThresholdRow, ...] = ()
    fitted: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def is_reordering(self) -> bool:
        """Whether documents are shifted apart, so that probabilities may order them anew."""
        return any(offset.feature in DOCUMENT_FEATURES for offset in self.offsets)

    def shifted(
        self,
        logits: ArrayLike,
        features: Mapping[str, float],
        document_lengths: ArrayLike | None = None,
    ) -> Float64Array:
        """Return the shifted logits of one query's documents.

        Args:
            logits: The model's, shape (num_documents,).
            features: Of the query, by `query_features`.
            document_lengths: Logarithms of the documents' tokens, where the calibration is
                reordering.

        Returns:
            Shape (num_documents,).
        """
        common = self.intercept + offset_sum(self.offsets, dict(features))
        values = self.slope * np.asarray(logits, np.float64) + common
        for offset in self.offsets:
            if offset.feature == DOCUMENT_LENGTH and document_lengths is not None:
                values = values + offset(np.asarray(document_lengths, np.float64))
        return values

    def probabilities(
        self,
        logits: ArrayLike,
        features: Mapping[str, float],
        document_lengths: ArrayLike | None = None,
    ) -> Float64Array:
        """Return how probable it is that each document answers; arguments as of `shifted`."""
        return self.map(self.shifted(logits, features, document_lengths))

    def threshold(self, wanted: Threshold) -> float:
        """Return the probability that a threshold stands for.

        Args:
            wanted: A probability, or "precision:0.9", or "recall:0.9".

        Returns:
            The probability.

        Raises:
            ConfigError: If it is none of them.
            CapabilityError: If no threshold reached the target on the calibration data.
        """
        given = parse_threshold(wanted)
        if isinstance(given, float):
            return given
        return choose_threshold(self.thresholds, *given)


@dataclass(frozen=True, slots=True)
class ClassCalibration:
    """From the logits of labels to their probabilities: ``softmax(scales * logits + biases)``.

    Attributes:
        labels: The checkpoint's labels, in its order.
        method: "temperature": one scale for all, so that the likeliest label stays it; "vector":
            a scale and a bias for each label.
        scales: Above 0, one a label.
        biases: One a label.
        fitted: How it was fitted, for people.
    """

    labels: tuple[str, ...]
    method: ClassMethod
    scales: tuple[float, ...]
    biases: tuple[float, ...]
    fitted: Mapping[str, Any] = field(default_factory=dict)

    def probabilities(self, logits: ArrayLike) -> Float64Array:
        """Return the probability of each label.

        Args:
            logits: Shape (num_inputs, num_labels).

        Returns:
            Same shape, rows that sum to 1.
        """
        values = np.asarray(logits, np.float64) * self.scales + self.biases
        powers = np.exp(values - values.max(axis=-1, keepdims=True))
        return powers / powers.sum(axis=-1, keepdims=True)


@dataclass(frozen=True, slots=True)
class Calibration:
    """What a checkpoint's calibration file holds.

    Attributes:
        rerank: For rankings; None where they were not calibrated.
        classify: For labels; None where they were not calibrated.
    """

    rerank: RankCalibration | None = None
    classify: ClassCalibration | None = None


def as_content(calibration: Calibration, model_sha256: str) -> dict[str, Any]:
    """Return what is written of a calibration.

    Args:
        calibration: The calibration.
        model_sha256: Fingerprint of the weights that it speaks of.

    Returns:
        Content of `polyrank_calibration.json`, of numbers with as many digits as they need.
    """
    content: dict[str, Any] = {"version": 1, "model_sha256": model_sha256}
    if calibration.rerank is not None:
        content["rerank"] = _rank_content(calibration.rerank)
    if calibration.classify is not None:
        own = calibration.classify
        content["classify"] = {
            "method": own.method,
            "labels": list(own.labels),
            "scales": _rounded(own.scales),
            "biases": _rounded(own.biases),
            "fitted": dict(own.fitted),
        }
    return content


def _rank_content(own: RankCalibration) -> dict[str, Any]:
    content: dict[str, Any] = {
        "method": own.method,
        "slope": _rounded([own.slope])[0],
        "intercept": _rounded([own.intercept])[0],
        "offsets": {
            each.feature: dict(
                zip(
                    ("weight", "low", "high"),
                    _rounded((each.weight, each.low, each.high)),
                    strict=True,
                )
            )
            for each in own.offsets
        },
    }
    if isinstance(own.map, Beta):
        numbers = _rounded((own.map.low, own.map.high, own.map.intercept))
        content["beta"] = dict(zip(("low", "high", "intercept"), numbers, strict=True))
    if isinstance(own.map, Isotonic):
        content["isotonic"] = [
            {"at": at, "probability": value}
            for at, value in zip(_rounded(own.map.places), _rounded(own.map.values), strict=True)
        ]
    content["thresholds"] = [
        {"probability": row.probability, "precision": row.precision, "recall": row.recall}
        for row in own.thresholds
    ]
    return {**content, "fitted": dict(own.fitted)}


def _rounded(values: Sequence[float]) -> list[float]:
    return [float(f"{value:.9g}") if math.isfinite(value) else value for value in values]
