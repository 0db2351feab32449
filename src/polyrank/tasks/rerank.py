"""Ranking of documents for one query: texts out of documents, results out of logits. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from polyrank.config import check_whole
from polyrank.tasks.scoring import PairPlan
from polyrank.text.tokenizer import Tokenizer
from polyrank.types import Document, Float32Array, Passage, RankedDocument


def check_top_n(top_n: int | None) -> int | None:
    """Return how many documents to keep.

    Args:
        top_n: What the caller asked for; None keeps all.

    Returns:
        The same value.

    Raises:
        ConfigError: If it is no whole number from 1.
    """
    return None if top_n is None else check_whole("top_n", top_n)


def order_by_logit(logits: Float32Array) -> list[int]:
    """Return indices, best first; equal logits keep input order.

    Logits, not scores: a sigmoid in float32 rounds everything above 17 to 1.
    """
    return [int(i) for i in np.argsort(-logits, kind="stable")]


@dataclass(frozen=True, slots=True)
class Probable:
    """How probable it is that documents answer.

    Attributes:
        values: One probability a document, shape (num_documents,).
        least: Documents below are left out; None keeps all.
        is_order: Whether probabilities order the documents instead of logits, as a calibration
            can be asked to.
    """

    values: NDArray[np.float64]
    least: float | None = None
    is_order: bool = False


def best_first(
    logits: Float32Array, probable: Probable | None = None, top_n: int | None = None
) -> list[int]:
    """Return the indices of the documents to show, best first.

    Args:
        logits: Raw values, shape (num_documents,).
        probable: Their probabilities, where there are any.
        top_n: How many to keep; None keeps all.

    Returns:
        Indices; documents with equal logits keep input order.
    """
    if probable is None:
        return order_by_logit(logits)[:top_n]
    keys = (-logits, -probable.values) if probable.is_order else (-logits,)
    order = np.lexsort(keys)
    if probable.least is not None:
        order = order[probable.values[order] >= probable.least]
    return [int(i) for i in order[:top_n]]


def ranking(
    documents: Sequence[Document],
    logits: Float32Array,
    scores: Float32Array,
    is_truncated: NDArray[np.bool_],
    passages_of: Callable[[int], tuple[Passage, ...]],
    top_n: int | None,
    probable: Probable | None = None,
) -> list[RankedDocument]:
    """Return the ranked documents, best first.

    Args:
        documents: The documents as given.
        logits: Raw values, shape (num_documents,).
        scores: Activated values, shape (num_documents,).
        is_truncated: Whether not all of a document or the query was read, shape (num_documents,).
        passages_of: Gives the passages of a document, best first; called for those that are kept.
        top_n: How many to keep; None keeps all.
        probable: Probabilities, where the checkpoint is calibrated.

    Returns:
        At most `top_n` results.
    """
    hits = []
    for i in best_first(logits, probable, top_n):
        passages = passages_of(i)
        hits.append(
            RankedDocument(
                index=i,
                score=float(scores[i]),
                logit=float(logits[i]),
                document=documents[i],
                passage=passages[0],
                is_truncated=bool(is_truncated[i]),
                probability=None if probable is None else float(probable.values[i]),
                passages=passages,
            )
        )
    return hits


def end_of_reading(text: str, plan: PairPlan, i: int, tokenizer: Tokenizer) -> int:
    """Return how far a document was read.

    Args:
        text: Its text.
        plan: What was run.
        i: Its pair there.
        tokenizer: Tells where it was cut.

    Returns:
        Offset after the last character that was read.
    """
    if not plan.is_truncated[i]:
        return len(text)
    end = tokenizer.end_of_token(plan.prompt + text, int(plan.num_kept_tokens[i]))
    return max(0, end - len(plan.prompt))
