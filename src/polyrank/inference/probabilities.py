"""Probabilities of pairs and labels by a model's calibration: the same in library and server."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from polyrank.calibration.calibration import RankCalibration
from polyrank.calibration.features import (
    MAX_CHARACTERS,
    Float64Array,
    log_length,
    query_features,
)
from polyrank.calibration.thresholds import Threshold, parse_threshold
from polyrank.errors import CapabilityError
from polyrank.inference.model import Model
from polyrank.tasks.rerank import Probable
from polyrank.text.tokenizer import Tokenizer
from polyrank.types import Float32Array

_MOST_DOCUMENT_CHARACTERS = 20_000  # that are counted where a calibration goes by length


def probable(
    model: Model,
    query: str,
    documents: Sequence[str],
    logits: Float32Array,
    least: Threshold | None = None,
) -> Probable | None:
    """Return how probable it is that documents answer a query.

    Args:
        model: The model.
        query: The query.
        documents: Their texts.
        logits: The model's own, without what first-stage scores add, shape (num_documents,).
        least: A threshold, if documents below one are to be left out.

    Returns:
        The probabilities; None where the model is not calibrated.

    Raises:
        ConfigError: If `least` is no threshold.
        CapabilityError: If there is a threshold and the model is not calibrated, or never reached
            its target.
    """
    threshold = least_probability(model, least)
    own = model.calibration.rerank
    if own is None:
        return None
    values = rank_probabilities(own, model.tokenizer, query, documents, logits)
    return Probable(values, threshold, own.is_reordering)


def least_probability(model: Model, least: Threshold | None) -> float | None:
    """Return the probability that a threshold stands for; arguments and errors as `probable`."""
    if least is None:
        return None
    parse_threshold(least)
    if model.calibration.rerank is None:
        name = model.spec.name
        raise CapabilityError(
            f"{name} has no calibration of rankings, so its scores are no probabilities to set a "
            f"threshold by. Fit one: polyrank calibrate {name} --data FOLDER"
        )
    return model.calibration.rerank.threshold(least)


def rank_probabilities(
    own: RankCalibration,
    tokenizer: Tokenizer,
    query: str,
    documents: Sequence[str],
    logits: ArrayLike,
) -> Float64Array:
    """Return the probabilities of one query's documents.

    Args:
        own: The calibration.
        tokenizer: Counts tokens.
        query: The query.
        documents: Texts, read where the calibration goes by their length.
        logits: Shape (num_documents,).

    Returns:
        Shape (num_documents,).
    """
    lengths = document_lengths(tokenizer, documents) if own.is_reordering else None
    return own.probabilities(logits, features_of(tokenizer, query), lengths)


def features_of(tokenizer: Tokenizer, query: str) -> dict[str, float]:
    """Return what is known of a query; of a very long one, of its beginning."""
    (ids,) = tokenizer.encode([query[:MAX_CHARACTERS]])
    return query_features(query, len(ids))


def document_lengths(tokenizer: Tokenizer, documents: Sequence[str]) -> Float64Array:
    """Return the logarithms of the documents' tokens, shape (num_documents,)."""
    ids = tokenizer.encode([text[:_MOST_DOCUMENT_CHARACTERS] for text in documents])
    return np.array([log_length(len(each)) for each in ids], np.float64)


def pair_probabilities(
    model: Model, pairs: Sequence[tuple[str, str]], logits: Float32Array
) -> Float64Array | None:
    """Return how probable it is that the second text of each pair answers the first.

    Args:
        model: The model.
        pairs: Query and document.
        logits: The model's, shape (num_pairs,).

    Returns:
        Shape (num_pairs,); None where the model is not calibrated.
    """
    own = model.calibration.rerank
    if own is None:
        return None
    found = np.empty(len(pairs), np.float64)
    places: dict[str, list[int]] = {}
    for i, (query, _) in enumerate(pairs):
        places.setdefault(query, []).append(i)
    for query, rows in places.items():
        documents = [pairs[i][1] for i in rows]
        found[rows] = rank_probabilities(own, model.tokenizer, query, documents, logits[rows])
    return found


def label_probabilities(model: Model, logits: Float32Array) -> Float64Array | None:
    """Return the calibrated probabilities of labels.

    Args:
        model: The model.
        logits: Of its classify head, shape (num_inputs, num_labels).

    Returns:
        Same shape; None where its labels are not calibrated.
    """
    own = model.calibration.classify
    return None if own is None else own.probabilities(logits)
