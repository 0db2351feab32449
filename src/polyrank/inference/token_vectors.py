"""The rows of single texts that late interaction compares, and scores by rows that were kept."""

from collections.abc import Iterable, Sequence
from typing import get_args

import numpy as np

from polyrank.engine.engine import Engine
from polyrank.errors import CapabilityError, ConfigError, InputError
from polyrank.inference.pair_runs import run_pairs
from polyrank.progress import Progress
from polyrank.tasks.kept_rows import KeptRows
from polyrank.tasks.late_interaction import LateInteractionScorer
from polyrank.tasks.multi_vector import MultiVectorScorer
from polyrank.tasks.scoring import PairPlan, PairScorer
from polyrank.types import Float32Array, InputType


def token_vectors(
    engine: Engine,
    scorer: PairScorer,
    texts: Sequence[str],
    input_type: InputType,
    progress: Progress | None = None,
) -> list[Float32Array]:
    """Return one array of rows a text; see `Reranker.token_vectors`.

    Args:
        engine: What runs the texts.
        scorer: What compares their rows.
        texts: The texts.
        input_type: "query" or "document".
        progress: Called with tokens done and tokens in all.

    Returns:
        Shape (num_rows, dim) each, in input order.

    Raises:
        CapabilityError: If the scorer does not compare rows.
        ConfigError: If there is no such input type.
        EncoderError: If the encoder fails.
    """
    if input_type not in get_args(InputType):
        raise ConfigError(
            f"input_type must be one of {', '.join(get_args(InputType))}, not {input_type!r}"
        )
    scorer = _comparing(scorer)
    role = get_args(InputType).index(input_type)
    # a text is paired with nothing on its other side, which runs once and is left out
    pairs = [(text, "") if role == 0 else ("", text) for text in texts]
    return _rows(engine, scorer, scorer.prepare(pairs), role, progress) if pairs else []


def document_rows(
    engine: Engine, scorer: PairScorer, texts: Sequence[str], progress: Progress | None = None
) -> list[Float32Array | None]:
    """Return one array of rows a document, or None; see `Reranker.document_rows`.

    Args:
        engine: What runs the documents.
        scorer: What compares their rows.
        texts: The documents.
        progress: Called with tokens done and tokens in all.

    Returns:
        Shape (num_rows, dim) each, in input order; None where tokens were cut.

    Raises:
        CapabilityError: If the scorer does not compare rows.
        EncoderError: If the encoder fails.
    """
    scorer = _comparing(scorer)
    if not texts:
        return []
    plan = scorer.prepare([("", text) for text in texts])
    found = _rows(engine, scorer, plan, 1, progress)
    is_cut = plan.is_truncated.tolist()
    return [None if cut else rows for rows, cut in zip(found, is_cut, strict=True)]


def _rows(
    engine: Engine,
    scorer: LateInteractionScorer | MultiVectorScorer,
    plan: PairPlan,
    role: int,
    progress: Progress | None,
) -> list[Float32Array]:
    """Return the rows of each pair's query (role 0) or document (1), in the order of pairs."""
    found: dict[int, Float32Array] = {}
    for places, part, rows in run_pairs(engine, scorer, plan, progress):
        vectors = scorer.token_vectors(part, rows)[role]
        members = part.members[:, role].tolist()
        found.update(
            {at: vectors[i].copy() for at, i in zip(places.tolist(), members, strict=True)}
        )
    return [found[at] for at in range(len(plan.members))]


def row_logits(
    engine: Engine, scorer: PairScorer, query: str, documents: Iterable[Float32Array]
) -> Float32Array:
    """Return the logits of a query with documents whose rows are given; see `Reranker.score_rows`.

    Args:
        engine: What runs the query.
        scorer: What compares rows.
        query: The query.
        documents: Rows of each document, as `token_vectors` gives them.

    Returns:
        Shape (num_documents, num_outputs).

    Raises:
        CapabilityError: If the scorer does not compare rows.
        InputError: If rows are not of its width, or there are none.
        EncoderError: If the encoder fails.
    """
    scorer = _comparing(scorer)
    kept = [_kept(rows, i, row_width(scorer)) for i, rows in enumerate(documents)]
    plan = scorer.prepare([(query, "")])
    batch = plan.batch.select(plan.members[:, 0])
    rows = engine.run(batch, (), scorer.width)
    places = np.arange(len(kept))
    return scorer.kept_logits(batch, rows, kept, np.stack([np.zeros_like(places), places], axis=1))


def _comparing(scorer: PairScorer) -> LateInteractionScorer | MultiVectorScorer:
    if isinstance(scorer, LateInteractionScorer | MultiVectorScorer):
        return scorer
    raise CapabilityError(
        "this checkpoint does not compare texts token by token, so it has no rows to give. "
        "Take the default model, or a ColBERT-like one."
    )


def row_width(scorer: PairScorer) -> int:
    """Return the values of a row as `token_vectors` gives it.

    Args:
        scorer: What compares rows.

    Returns:
        The number.

    Raises:
        CapabilityError: If it does not compare rows.
    """
    scorer = _comparing(scorer)
    return scorer.head.out_features if isinstance(scorer, MultiVectorScorer) else scorer.width


def _kept(rows: Float32Array, index: int, width: int) -> KeptRows:
    shape = np.shape(rows)
    if len(shape) != 2 or not shape[0] or shape[1] != width:
        raise InputError(
            f"rows[{index}] has shape {shape}; this checkpoint compares one row or more of "
            f"{width} values. Give what token_vectors gave for the document."
        )
    return KeptRows(np.asarray(rows, np.float32), None, shape[0])
