"""From labelled pairs to a calibration: candidates fitted, the one chosen that errs least. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from polyrank.calibration.calibration import ClassCalibration, ClassMethod, RankCalibration
from polyrank.calibration.features import (
    DOCUMENT_LENGTH,
    QUERY_LENGTH,
    SCRIPTS,
    SHARE,
    Float64Array,
    Offset,
)
from polyrank.calibration.maps import METHODS, Beta, Isotonic, Map, Method, Platt, softplus
from polyrank.calibration.measures import log_loss
from polyrank.calibration.thresholds import threshold_table
from polyrank.errors import DataError, TrainingError
from polyrank.training.calibration.logistic import fit_logistic, fit_softmax, pool_adjacent

LEAST_OF_EACH = 10  # relevant pairs, and others
MOST_KNOTS = 64
MOST_VECTOR_LABELS = 30  # with a scale and a bias each
_NUM_FOLDS = 5
_LEAST_SOURCES = 3  # held out one by one, where there are so many
_RIDGE = 10.0  # of a feature's weight: as much as ten unsure pairs
_LEAST_OF_SCRIPT = 30  # queries, for a script to have a weight of its own


@dataclass(frozen=True, slots=True)
class ScoredQuery:
    """A query with its labelled documents, scored.

    Attributes:
        source: Name of the data it is from.
        language: Of its texts, "" where the data name none.
        features: What is known of the query.
        logits: The model's, shape (num_documents,).
        is_relevant: Shape (num_documents,).
        lengths: Logarithms of the documents' tokens, shape (num_documents,).
    """

    source: str
    language: str
    features: Mapping[str, float]
    logits: Float64Array
    is_relevant: NDArray[np.bool_]
    lengths: Float64Array


@dataclass(frozen=True, slots=True)
class RankFit:
    """A calibration of rankings, and what it was chosen by.

    Attributes:
        calibration: Fitted on all questions.
        held_out: Held-out log loss of each candidate; "score" is the model's own activation's.
        held_out_by: "source" or "query".
        probabilities: Of all pairs, question after question, by the chosen candidate fitted
            without the question.
    """

    calibration: RankCalibration
    held_out: Mapping[str, float]
    held_out_by: str
    probabilities: Float64Array


class _Pairs:
    """The pairs of questions as columns."""

    def __init__(self, questions: Sequence[ScoredQuery]) -> None:
        sizes = [len(each.logits) for each in questions]
        self.owners = np.repeat(np.arange(len(questions)), sizes)
        self.logits = np.concatenate([each.logits for each in questions]).astype(np.float64)
        self.truths = np.concatenate([each.is_relevant for each in questions]).astype(np.float64)
        self.lengths = np.concatenate([each.lengths for each in questions])
        self.questions = questions

    def column(self, feature: str) -> Float64Array:
        if feature == DOCUMENT_LENGTH:
            return self.lengths
        return np.array([each.features[feature] for each in self.questions])[self.owners]


def fit_ranking(
    questions: Sequence[ScoredQuery], *, is_reordering: bool = False, seed: int = 0
) -> RankFit:
    """Return the calibration that errs least on held-out questions.

    Candidates are Platt's, beta and isotonic maps, each with no offsets, the query's length, and
    also its scripts.

    Args:
        questions: Labelled and scored.
        is_reordering: Whether the documents' length may shift them, which changes their order.
        seed: Of the folds.

    Returns:
        The calibration and the held-out log loss of each candidate.

    Raises:
        DataError: If there are too few pairs, or only relevant or irrelevant ones.
        TrainingError: If higher logits are not more often relevant.
    """
    check_enough(questions)
    pairs = _Pairs(questions)
    folds, held_out_by = _folds(questions, seed)
    rows = folds[pairs.owners]
    found: dict[tuple[Method, tuple[str, ...]], Float64Array] = {}
    for features in _feature_sets(questions, is_reordering=is_reordering):
        for method in METHODS:
            values = np.empty(len(rows))
            for fold in np.unique(folds):
                own = _fit_one(pairs, rows != fold, features, method)
                values[rows == fold] = _apply(own, pairs, rows == fold)
            found[method, features] = values
    losses = {key: log_loss(values, pairs.truths) for key, values in found.items()}
    method, features = min(losses, key=lambda key: round(losses[key], 5))
    chosen = _fit_one(pairs, np.ones(len(rows), bool), features, method)
    table = threshold_table(found[method, features], pairs.truths.astype(bool))
    calibration = RankCalibration(
        chosen.slope, chosen.intercept, chosen.offsets, method, chosen.map, table
    )
    named = {_name(*key): round(loss, 5) for key, loss in losses.items()}
    return RankFit(calibration, named, held_out_by, found[method, features])


def check_enough(questions: Sequence[ScoredQuery]) -> None:
    """Raise unless there are relevant pairs and others, and some of each.

    Args:
        questions: The data.

    Raises:
        DataError: If there are fewer than `LEAST_OF_EACH` of either.
    """
    total = sum(len(each.logits) for each in questions)
    relevant = int(sum(each.is_relevant.sum() for each in questions))
    for kind, count in (("relevant", relevant), ("irrelevant", total - relevant)):
        if count == 0:
            raise DataError(
                f"none of {total:,} pairs is {kind}: a probability can only be fitted to both "
                'kinds. Give pairs of "label" 1 and 0, or candidates of which some are judged.'
            )
        if count < LEAST_OF_EACH:
            raise DataError(
                f"only {count} of {total:,} pairs {'is' if count == 1 else 'are'} {kind}; at least "
                f"{LEAST_OF_EACH} of each kind are needed, and a few hundred for a fit to rely on."
            )


def _folds(questions: Sequence[ScoredQuery], seed: int) -> tuple[NDArray[np.intp], str]:
    """Return the fold of each question: whole sources where there are some, else by query."""
    answered = {each.source for each in questions if each.is_relevant.any()}
    sources = sorted({each.source for each in questions})
    if len(sources) >= _LEAST_SOURCES and answered == set(sources):
        return np.array([sources.index(each.source) for each in questions]), "source"
    order = np.random.default_rng(seed).permutation(len(questions))
    folds = np.empty(len(questions), np.intp)
    folds[order] = np.arange(len(questions)) % min(_NUM_FOLDS, len(questions))
    return folds, "query"


def _feature_sets(
    questions: Sequence[ScoredQuery], *, is_reordering: bool
) -> tuple[tuple[str, ...], ...]:
    counts = {
        SHARE + script: sum(each.features[SHARE + script] > 0.5 for each in questions)
        for script in SCRIPTS
    }
    seen = [name for name, count in counts.items() if count >= _LEAST_OF_SCRIPT]
    scripts = tuple(name for name in seen if name != max(seen, key=counts.__getitem__))
    sets = [(), (QUERY_LENGTH,), *([(QUERY_LENGTH, *scripts)] if scripts else [])]
    return tuple((*each, DOCUMENT_LENGTH) if is_reordering else each for each in sets)


def _fit_one(
    pairs: _Pairs, rows: NDArray[np.bool_], features: tuple[str, ...], method: Method
) -> RankCalibration:
    logits, truths = pairs.logits[rows], pairs.truths[rows]
    columns = [pairs.column(feature)[rows] for feature in features]
    # standardised, so that the ridge weighs all alike, and far logits do no harm to the steps
    middle, spread = float(logits.mean()), float(logits.std()) or 1.0
    ridge = np.array([1e-3, 1e-3, *(_RIDGE for _ in features)])
    table = np.column_stack([(logits - middle) / spread, np.ones(len(logits)), *columns])
    slope, intercept, *weights = fit_logistic(table, truths, ridge).tolist()
    if slope <= 0:
        raise TrainingError(
            "documents with higher logits are not more often relevant in these data, so no "
            "probability can rise with the logit. Look at the labels, or take another model."
        )
    offsets = tuple(
        Offset(feature, weight, float(column.min()), float(column.max()))
        for feature, weight, column in zip(features, weights, columns, strict=True)
    )
    line = RankCalibration(slope / spread, intercept - slope * middle / spread, offsets)
    shifted = _shifted(line, pairs, rows)
    made = _map(method, shifted, truths)
    return RankCalibration(line.slope, line.intercept, offsets, method, made)


def _shifted(own: RankCalibration, pairs: _Pairs, rows: NDArray[np.bool_]) -> Float64Array:
    values = own.slope * pairs.logits[rows] + own.intercept
    for offset in own.offsets:
        values = values + offset(pairs.column(offset.feature)[rows])
    return values


def _apply(own: RankCalibration, pairs: _Pairs, rows: NDArray[np.bool_]) -> Float64Array:
    return own.map(_shifted(own, pairs, rows))


def _map(method: Method, shifted: Float64Array, truths: Float64Array) -> Map:
    if method == "beta":
        sides = np.column_stack([-softplus(-shifted), softplus(shifted), np.ones(len(shifted))])
        low, high, intercept = fit_logistic(sides, truths, np.full(3, 1e-3)).tolist()
        return Beta(max(low, 1e-3), max(high, 1e-3), intercept)
    return _isotonic(shifted, truths) if method == "isotonic" else Platt()


def _isotonic(shifted: Float64Array, truths: Float64Array) -> Isotonic:
    order = np.argsort(shifted, kind="stable")
    places, blocks = shifted[order], pool_adjacent(truths[order])
    edge = 1 / (len(shifted) + 2)  # nothing seen is impossible
    knots: dict[float, float] = {}
    for start, end, mean in blocks:
        knots[float(f"{places[start:end].mean():.9g}")] = min(max(mean, edge), 1 - edge)
    picked = np.unique(np.linspace(0, len(knots) - 1, MOST_KNOTS).round().astype(int))
    kept = np.array(sorted(knots.items()))[picked]
    return Isotonic(tuple(kept[:, 0].tolist()), tuple(np.maximum.accumulate(kept[:, 1]).tolist()))


def _name(method: str, features: tuple[str, ...]) -> str:
    words = [method]
    words += ["length"] if QUERY_LENGTH in features else []
    words += ["scripts"] if any(name.startswith(SHARE) for name in features) else []
    words += ["document length"] if DOCUMENT_LENGTH in features else []
    return " + ".join(words)


@dataclass(frozen=True, slots=True)
class ClassFit:
    """A calibration of labels, and what it was chosen by.

    Attributes:
        calibration: Fitted on all rows.
        held_out: Held-out log loss of each method; "score" is the model's own softmax.
        probabilities: Of all rows and labels, by the chosen method fitted without the row.
    """

    calibration: ClassCalibration
    held_out: Mapping[str, float]
    probabilities: Float64Array


def fit_classes(
    logits: Float64Array,
    labels: NDArray[np.intp],
    names: Sequence[str],
    groups: Sequence[str],
    *,
    seed: int = 0,
) -> ClassFit:
    """Return the calibration of labels that errs least on held-out queries.

    Args:
        logits: Of the classify head, shape (num_rows, num_labels).
        labels: Number of each row's true label, shape (num_rows,).
        names: The labels.
        groups: What stays together in a fold, such as the query, one a row.
        seed: Of the folds.

    Returns:
        The calibration and the held-out log loss of each method.

    Raises:
        DataError: If there are too few rows, or only one label occurs.
    """
    counts = np.bincount(labels, minlength=len(names))
    if np.count_nonzero(counts) < 2:
        raise DataError(
            f"all {len(labels):,} rows have the label {names[int(counts.argmax())]!r}; a "
            "probability can only be fitted to several. Give rows of each label."
        )
    if len(labels) < 2 * LEAST_OF_EACH:
        raise DataError(
            f"{len(labels)} rows are too few to fit probabilities of labels to: give at least "
            f"{2 * LEAST_OF_EACH}, and a few hundred for a fit to rely on."
        )
    logits = logits.astype(np.float64)
    places = {group: i for i, group in enumerate(dict.fromkeys(groups))}
    order = np.random.default_rng(seed).permutation(len(places)) % min(_NUM_FOLDS, len(places))
    folds = order[[places[group] for group in groups]]
    # a label that is never right could be made as unlikely as one likes
    is_vector = np.count_nonzero(counts >= LEAST_OF_EACH) == len(names) <= MOST_VECTOR_LABELS
    methods: tuple[ClassMethod, ...] = ("temperature", "vector") if is_vector else ("temperature",)
    held_out = {"score": _class_loss(softmax_of(logits), labels)}
    found: dict[ClassMethod, Float64Array] = {}
    for method in methods:
        found[method] = np.empty_like(logits)
        for fold in np.unique(folds):
            seen, unseen = folds != fold, folds == fold
            free = fit_softmax(logits[seen], labels[seen], is_shared=method == "temperature")
            found[method][unseen] = _class_map(names, method, free).probabilities(logits[unseen])
        held_out[method] = _class_loss(found[method], labels)
    best = min(methods, key=held_out.__getitem__)
    free = fit_softmax(logits, labels, is_shared=best == "temperature")
    rounded = {method: round(loss, 5) for method, loss in held_out.items()}
    return ClassFit(_class_map(names, best, free), rounded, found[best])


def softmax_of(logits: Float64Array) -> Float64Array:
    """Return the softmax of each row."""
    count = logits.shape[1]
    names = tuple(map(str, range(count)))
    return _class_map(names, "temperature", np.r_[np.ones(count), np.zeros(count)]).probabilities(
        logits
    )


def _class_map(names: Sequence[str], method: ClassMethod, free: Float64Array) -> ClassCalibration:
    count = len(names)
    scales = np.maximum(free[:count], 1e-3)
    return ClassCalibration(
        tuple(names), method, tuple(scales.tolist()), tuple(free[count:].tolist())
    )


def _class_loss(probabilities: Float64Array, labels: NDArray[np.intp]) -> float:
    values = probabilities[np.arange(len(labels)), labels]
    return float(-np.mean(np.log(np.maximum(values, 1e-12))))
