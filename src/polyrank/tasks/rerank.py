"""Ranking of documents for one query: texts out of documents, results out of logits. Pure."""

from collections.abc import Mapping, Sequence

import numpy as np

from polyrank.errors import ConfigError, InputError
from polyrank.tasks.scoring import PairPlan
from polyrank.text.inputs import check_text
from polyrank.text.tokenizer import Tokenizer
from polyrank.types import Document, Float32Array, Passage, RankedDocument

TEXT_FIELD = "text"


def document_text(document: Document, what: str) -> str:
    """Return the text of a document.

    Args:
        document: A string, or a mapping whose "text" is one.
        what: Which document it is, for the message.

    Returns:
        Its text.

    Raises:
        InputError: If it is neither, or its text cannot be read.
    """
    if isinstance(document, Mapping):
        if TEXT_FIELD not in document:
            raise InputError(
                f'{what} has no "{TEXT_FIELD}" field; it has {", ".join(map(str, document))}'
            )
        return check_text(document[TEXT_FIELD], f'{what}["{TEXT_FIELD}"]')
    return check_text(document, what)


def check_top_n(top_n: int | None) -> int | None:
    """Return how many documents to keep.

    Args:
        top_n: What the caller asked for; None keeps all.

    Returns:
        The same value.

    Raises:
        ConfigError: If it is below 1.
    """
    if top_n is not None and top_n < 1:
        raise ConfigError(f"top_n must be 1 or more, not {top_n}")
    return top_n


def order_by_logit(logits: Float32Array) -> list[int]:
    """Return indices, best first; equal logits keep input order.

    Logits, not scores: a sigmoid in float32 rounds everything above 17 to 1.
    """
    return [int(i) for i in np.argsort(-logits, kind="stable")]


def ranking(
    documents: Sequence[Document],
    plan: PairPlan,
    logits: Float32Array,
    scores: Float32Array,
    tokenizer: Tokenizer,
    top_n: int | None,
) -> list[RankedDocument]:
    """Return the ranked documents, best first.

    Args:
        documents: The documents as given.
        plan: What was run.
        logits: Raw values, shape (num_documents,).
        scores: Activated values, shape (num_documents,).
        tokenizer: Tells where a truncated document was cut.
        top_n: How many to keep; None keeps all.

    Returns:
        At most `top_n` results.
    """
    return [
        RankedDocument(
            index=i,
            score=float(scores[i]),
            logit=float(logits[i]),
            document=documents[i],
            passage=_passage(documents[i], plan, i, tokenizer),
            is_truncated=bool(plan.is_truncated[i]),
        )
        for i in order_by_logit(logits)[:top_n]
    ]


def _passage(document: Document, plan: PairPlan, i: int, tokenizer: Tokenizer) -> Passage:
    text = document if isinstance(document, str) else document[TEXT_FIELD]
    if not plan.is_truncated[i]:
        return Passage(text, 0, len(text))
    end = tokenizer.end_of_token(plan.prompt + text, int(plan.num_kept_tokens[i]))
    end = max(0, end - len(plan.prompt))
    return Passage(text[:end], 0, end)
