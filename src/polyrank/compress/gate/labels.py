"""The quality gate of classifiers: float32 and int8 side by side on labelled pairs."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from polyrank.compress.gate.ranking import Agreement, Contender, PairRun
from polyrank.compress.gate.record import ClassifierFigures, LabelFigures
from polyrank.errors import CapabilityError, ConfigError
from polyrank.evaluation.labelled import LabelledPair, LabelledSet, LabelNumbers, macro_f1
from polyrank.evaluation.plan import EvaluationConfig
from polyrank.progress import StepProgress

_PAIRS_AT_ONCE = 256
_MEANS = ("accuracy_float32", "accuracy_int8", "f1_float32", "f1_int8", "equal_labels")


def measure_classifier(
    exact: Contender,
    int8: Contender,
    labelled: LabelledSet,
    config: EvaluationConfig,
    progress: StepProgress | None = None,
) -> ClassifierFigures:
    """Measure int8 against float32 in telling labels.

    Args:
        exact: The checkpoint with float32 products.
        int8: The same with int8 products.
        labelled: Pairs with their labels.
        config: Languages, and pairs a language (`max_queries`), with the seed of their sample.
        progress: Called as work goes on, with the step "pairs".

    Returns:
        The figures.

    Raises:
        CapabilityError: If the checkpoint does not classify.
        ConfigError: If the set has labels or languages that are not there.
    """
    heads = exact.model().spec.heads
    if "classify" not in heads:
        raise CapabilityError(
            f"{labelled.name} holds labelled pairs, and this checkpoint has no head that "
            "classifies. Give --data a set in BEIR form."
        )
    names = heads["classify"].labels
    if absent := sorted(set(labelled.labels) - set(names)):
        raise ConfigError(
            f"{labelled.name} has the labels {', '.join(absent)}; the checkpoint's are "
            f"{', '.join(names)}. Rename them in the set, or in id2label of config.json."
        )
    pairs = labelled.sample(config.query_languages, config.max_queries, config.seed).pairs
    true = np.array([names.index(pair.label) for pair in pairs], np.intp)
    agreement = Agreement()
    predicted = _predict(exact, int8, pairs, agreement, progress)
    languages = np.array([pair.language for pair in pairs])
    figures = {
        str(language): _figures(true, predicted, languages == language)
        for language in np.unique(languages)
    }
    means = {key: _mean(figures.values(), key) for key in _MEANS}
    cosines = np.concatenate(agreement.cosines)
    return ClassifierFigures(
        task="classify",
        languages=figures,
        **means,
        largest_probability_change=agreement.largest_change,
        cosine_mean=float(cosines.mean(dtype=np.float64)),
        cosine_lowest=float(cosines.min()),
        num_rows=len(pairs),
    )


def _mean(figures: Iterable[LabelFigures], key: str) -> float:
    return float(np.mean([getattr(entry, key) for entry in figures]))


def _predict(
    exact: Contender,
    int8: Contender,
    pairs: Sequence[LabelledPair],
    agreement: Agreement,
    progress: StepProgress | None,
) -> tuple[LabelNumbers, LabelNumbers]:
    runs = (PairRun(exact, "classify"), PairRun(int8, "classify"))
    found: tuple[list[LabelNumbers], list[LabelNumbers]] = ([], [])
    for start in range(0, len(pairs), _PAIRS_AT_ONCE):
        texts = [(pair.query, pair.passage) for pair in pairs[start : start + _PAIRS_AT_ONCE]]
        (rows, _, scores), (other_rows, _, other_scores) = (run(texts) for run in runs)
        agreement.add_rows((rows, other_rows))
        agreement.add_change((scores, other_scores))
        for labels, values in zip(found, (scores, other_scores), strict=True):
            labels.append(values.argmax(axis=1))
        if progress is not None:
            progress("pairs", start + len(texts), len(pairs))
    return np.concatenate(found[0]), np.concatenate(found[1])


def _figures(
    true: LabelNumbers, predicted: tuple[LabelNumbers, LabelNumbers], chosen: NDArray[np.bool_]
) -> LabelFigures:
    right = true[chosen]
    exact, int8 = (labels[chosen] for labels in predicted)
    return LabelFigures(
        num_rows=len(right),
        accuracy_float32=float((exact == right).mean()),
        accuracy_int8=float((int8 == right).mean()),
        f1_float32=macro_f1(right, exact),
        f1_int8=macro_f1(right, int8),
        equal_labels=float((exact == int8).mean()),
    )
