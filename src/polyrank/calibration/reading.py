"""Reading of `polyrank_calibration.json`: whatever it says is checked before it is believed."""

import itertools

from polyrank.calibration.calibration import (
    CLASS_METHODS,
    Calibration,
    ClassCalibration,
    RankCalibration,
)
from polyrank.calibration.features import FEATURES, Offset
from polyrank.calibration.maps import METHODS, Beta, Isotonic, Map, Method, Platt
from polyrank.calibration.thresholds import MAX_ROWS, ThresholdRow
from polyrank.checkpoint.gate import fingerprint
from polyrank.checkpoint.layouts import CALIBRATION_FILE
from polyrank.checkpoint.reader import Checkpoint
from polyrank.checkpoint.settings import Settings
from polyrank.errors import CheckpointError

VERSION = 1
MAX_KNOTS = 512
_LARGEST = 1e9
_SMALLEST_SLOPE = 1e-9


def read_calibration(checkpoint: Checkpoint) -> Calibration:
    """Return the calibration of a checkpoint.

    Args:
        checkpoint: The opened checkpoint.

    Returns:
        What its folder holds; a calibration of nothing where there is no file.

    Raises:
        CheckpointError: If the file is broken, of another version, or speaks of other weights or
            other labels.
    """
    path = checkpoint.spec.folder / CALIBRATION_FILE
    content = Settings.read_optional(path)
    if not content.content:
        return Calibration()
    try:
        if (version := content.integer("version")) != VERSION:
            raise CheckpointError(f"it is of version {version}, and {VERSION} is read.")
        if content.needed_text("model_sha256") != fingerprint(checkpoint.weights.paths):
            raise CheckpointError("it speaks of other weights than the folder holds.")
        rerank = read_rank(content.mapping("rerank")) if "rerank" in content else None
        classify = None
        if "classify" in content:
            heads = checkpoint.spec.heads
            labels = heads["classify"].labels if "classify" in heads else ()
            classify = read_classes(content.mapping("classify"), labels)
    except CheckpointError as exc:
        raise CheckpointError(
            f"{path} cannot be used: {exc} Delete it, or write it anew with `polyrank calibrate`."
        ) from exc
    return Calibration(rerank, classify)


def read_rank(content: Settings) -> RankCalibration:
    """Return the calibration of rankings from its object in the file.

    Args:
        content: The object.

    Returns:
        The calibration.

    Raises:
        CheckpointError: If something is absent, no number, or does not rise.
    """
    method = content.choice("method", {name: name for name in METHODS})
    return RankCalibration(
        _number(content, "slope", low=_SMALLEST_SLOPE),
        _number(content, "intercept"),
        _offsets(content.mapping("offsets")),
        method,
        _map(content, method),
        _thresholds(content),
        content.mapping("fitted").content,
    )


def read_classes(content: Settings, labels: tuple[str, ...]) -> ClassCalibration:
    """Return the calibration of labels from its object in the file.

    Args:
        content: The object.
        labels: The checkpoint's labels.

    Returns:
        The calibration.

    Raises:
        CheckpointError: If something is absent or no number, or it has other labels.
    """
    if content.texts("labels") != labels or not labels:
        raise content.error("labels", f"the checkpoint's own, {list(labels)!r:.200}")
    return ClassCalibration(
        labels,
        content.choice("method", {name: name for name in CLASS_METHODS}),
        _numbers(content, "scales", len(labels), _SMALLEST_SLOPE),
        _numbers(content, "biases", len(labels), -_LARGEST),
        content.mapping("fitted").content,
    )


def _number(content: Settings, key: str, low: float = -_LARGEST) -> float:
    return content.number(key, low=low, high=_LARGEST)


def _numbers(content: Settings, key: str, count: int, low: float) -> tuple[float, ...]:
    values = content.content.get(key)
    if not isinstance(values, list) or len(values) != count:
        raise content.error(key, f"a list of {count} numbers")
    entries = Settings({str(i): value for i, value in enumerate(values)}, content.path, key)
    return tuple(_number(entries, name, low) for name in entries)


def _offsets(content: Settings) -> tuple[Offset, ...]:
    content.only(FEATURES)
    made = []
    for feature in content:
        own = content.mapping(feature)
        low, high = _number(own, "low"), _number(own, "high")
        if low > high:
            raise own.error("low", f"{high:g}, its high, at most")
        made.append(Offset(feature, _number(own, "weight"), low, high))
    return tuple(made)


def _map(content: Settings, method: Method) -> Map:
    if method == "beta":
        return _beta(content)
    return _isotonic(content) if method == "isotonic" else Platt()


def _beta(content: Settings) -> Beta:
    own = content.mapping("beta")
    low, high = (_number(own, key, _SMALLEST_SLOPE) for key in ("low", "high"))
    return Beta(low, high, _number(own, "intercept"))


def _isotonic(content: Settings) -> Isotonic:
    knots = content.mappings("isotonic", MAX_KNOTS)
    places = tuple(_number(knot, "at") for knot in knots)
    values = tuple(knot.number("probability", low=0.0, high=1.0) for knot in knots)
    is_rising = all(a < b for a, b in itertools.pairwise(places))
    if not knots or not is_rising or any(a > b for a, b in itertools.pairwise(values)):
        raise content.error("isotonic", "a list of places that rise, with values that do not fall")
    return Isotonic(places, values)


def _thresholds(content: Settings) -> tuple[ThresholdRow, ...]:
    keys = ("probability", "precision", "recall")
    rows = content.mappings("thresholds", MAX_ROWS)
    made = [ThresholdRow(*(row.number(key, low=0.0, high=1.0) for key in keys)) for row in rows]
    return tuple(sorted(made, key=lambda row: row.probability))
