"""Calibrating what vectors may drop before a reranker reads the rest, on questions of any data.

The reranker's own order is the truth: no judgement is used, only questions and passages.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from polyrank._extras import require
from polyrank.inference.embedder import Embedder
from polyrank.inference.reranker import Reranker
from polyrank.progress import StepProgress, unheard
from polyrank.search.pruning import (
    Check,
    Pruning,
    ScoredCandidates,
    calibrate_pruning,
    check_pruning,
)
from polyrank.search.settings import PruningConfig
from polyrank.training.data.source import TrainingSource
from polyrank.training.first_stage.learn import QuestionPool, draw_pools
from polyrank.training.first_stage.settings import FirstStageWeightConfig

_CHECKED = 4  # one question in so many is left out of the calibration, to check it on


@dataclass(frozen=True, slots=True)
class Calibrated:
    """What was calibrated, and how it held.

    Attributes:
        pruning: What prunes.
        check: How it did on questions that were left out.
    """

    pruning: Pruning
    check: Check


def calibrate_on(
    sources: Sequence[TrainingSource],
    embedder: Embedder,
    reranker: Reranker,
    config: PruningConfig,
    progress: StepProgress | None = None,
) -> Calibrated:
    """Return how far down vectors may cut, so that the reranker's first documents stay.

    Args:
        sources: Questions and passages; those in several versions are left out.
        embedder: The cheaper stage.
        reranker: The best stage; scores every question with every passage of its pool.
        config: What is promised.
        progress: Called with the step "questions".

    Returns:
        The pruning and its check.

    Raises:
        DataError: If there are too few questions, or no source has enough passages.
        MissingExtraError: If BM25's library is missing, which the data's room wants.
        EncoderError: If the encoder fails.
    """
    require("eval", purpose="polyrank train pruning")
    drawn = FirstStageWeightConfig(
        queries=config.queries,
        passages=config.passages,
        least_passages=config.least_passages,
        seed=config.seed,
    )
    report, pools = progress or unheard, draw_pools(sources, drawn)
    total, questions = sum(len(pool.questions) for pool in pools), list[ScoredCandidates]()
    for pool in pools:
        report("questions", len(questions), total)
        questions += _scored(pool, embedder, reranker)
    report("questions", total, total)
    order = np.random.default_rng(config.seed).permutation(len(questions)).tolist()
    mixed = [questions[i] for i in order]
    pruning = calibrate_pruning(
        [question for i, question in enumerate(mixed) if i % _CHECKED],
        top_n=config.top_n,
        min_kept=config.min_kept,
        probability=config.probability,
        confidence=config.confidence,
        stage=embedder.info.name,
    )
    return Calibrated(pruning, check_pruning(pruning, mixed[::_CHECKED]))


def _scored(pool: QuestionPool, embedder: Embedder, reranker: Reranker) -> list[ScoredCandidates]:
    passages = embedder.encode(list(pool.passages), input_type="document")
    asked = embedder.encode(list(pool.questions), input_type="query")
    pairs = [(question, passage) for passage in pool.passages for question in pool.questions]
    logits = reranker.score(pairs, logits=True).reshape(len(pool.passages), len(pool.questions))
    return [
        ScoredCandidates(
            np.einsum("nd,d->n", passages, query).astype(np.float64),
            logits[:, place].astype(np.float64),
        )
        for place, query in enumerate(asked)
    ]
