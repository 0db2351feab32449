"""Running an evaluation: first stage, reranker, measures.

Each language's documents are indexed once and its queries read once, however many pairs of
languages they take part in.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, Protocol

import numpy as np
from numpy.typing import NDArray

from polyrank.errors import EncoderError
from polyrank.evaluation.bootstrap import resampled_means
from polyrank.evaluation.dataset import Dataset
from polyrank.evaluation.measures import measure, measures_for
from polyrank.evaluation.plan import EvaluationConfig, Group, Plan, make_plan
from polyrank.evaluation.results import GroupResult, Report, StageFigures, Timing
from polyrank.evaluation.retrievers import Advance, Candidates, IndexT, QueriesT, Retriever
from polyrank.progress import StepProgress
from polyrank.tasks.first_stage import with_first_stage
from polyrank.types import Float32Array

_PAIRS_PER_CALL = 2048  # pairs that a reranker gets at once, between two reports of progress


class RerankerLike(Protocol):
    """Anything that scores pairs of query and document."""

    def score(self, pairs: Sequence[tuple[str, str]]) -> Float32Array:
        """Return one score for each pair, higher is more relevant, shape (num_pairs,)."""
        ...


class _GivesLogits(Protocol):
    def score(self, pairs: Sequence[tuple[str, str]], *, logits: bool) -> Float32Array: ...


class LogitReranker:
    """A `polyrank.Reranker` that orders by raw logits, as its own `rank` does.

    Its scores would tie where its logits differ: in float32 the sigmoid is 1.0 from 17 upwards.
    """

    def __init__(self, reranker: _GivesLogits) -> None:
        self._reranker = reranker

    def score(self, pairs: Sequence[tuple[str, str]]) -> Float32Array:
        """Return the logit of each pair, shape (num_pairs,)."""
        return self._reranker.score(pairs, logits=True)


def evaluate(
    dataset: Dataset,
    *,
    retriever: Retriever[QueriesT, IndexT],
    reranker: RerankerLike | None = None,
    config: EvaluationConfig | None = None,
    progress: StepProgress | None = None,
) -> Report:
    """Measure a first stage and, where one is given, a reranker of what it finds.

    Args:
        dataset: The evaluation set.
        retriever: Finds `config.top_k` documents for each query.
        reranker: Orders them anew; equal scores keep the order of the first stage. Wrap a
            `polyrank.Reranker` in `LogitReranker`. `config.first_stage_weight` adds the scores
            that the first stage gave them.
        config: The settings.
        progress: Called as work goes on.

    Returns:
        Figures by language, with what each step took.

    Raises:
        ConfigError: If the settings leave nothing to measure.
        EncoderError: If the embedder or the reranker gives something other than one finite
            value a text or pair.
    """
    config = config or EvaluationConfig()
    return _Run(dataset, retriever, reranker, config, progress).report()


class _Run(Generic[QueriesT, IndexT]):
    def __init__(
        self,
        dataset: Dataset,
        retriever: Retriever[QueriesT, IndexT],
        reranker: RerankerLike | None,
        config: EvaluationConfig,
        progress: StepProgress | None,
    ) -> None:
        self.dataset, self.config = dataset, config
        self.retriever, self.reranker = retriever, reranker
        self.progress = progress or (lambda step, done, total: None)
        self.plan: Plan = make_plan(dataset, config)
        self.measures = measures_for(config.top_k)
        self.timings: dict[str, Timing] = {}
        self.texts = {
            language: [doc.content(with_title=config.with_titles) for doc in documents]
            for language, documents in self.plan.documents.items()
        }

    def report(self) -> Report:
        indexes, queries = self._index(), self._read_queries()
        rows = {
            language: {query.query_id: row for row, query in enumerate(asked)}
            for language, asked in self.plan.queries.items()
        }
        advance = self._advance("rankings", sum(len(group.queries) for group in self.plan.groups))
        results = []
        for group in self.plan.groups:
            own, asked = rows[group.query_language], queries[group.query_language]
            wanted = np.array([own[query.query_id] for query in group.queries], np.intp)
            index = indexes[group.document_language]
            with self._timed("search", "queries", len(wanted)):
                found = self.retriever.search(asked, wanted, index, self.config.top_k)
            results.append(self._measure(group, found, advance))
        return self._finish(tuple(results))

    def _finish(self, results: tuple[GroupResult, ...]) -> Report:
        return Report(
            self.dataset.name, self.config, self.plan.mode, self.measures, results, self.timings
        )

    def _index(self) -> dict[str | None, IndexT]:
        total = sum(map(len, self.texts.values()))
        advance = self._advance("documents", total)
        with self._timed("index documents", "documents", total):
            return {
                language: self.retriever.index_documents(texts, advance)
                for language, texts in self.texts.items()
            }

    def _read_queries(self) -> dict[str | None, QueriesT]:
        total = sum(map(len, self.plan.queries.values()))
        advance = self._advance("queries", total)
        with self._timed("read queries", "queries", total):
            return {
                language: self.retriever.read_queries([query.text for query in asked], advance)
                for language, asked in self.plan.queries.items()
            }

    def _measure(self, group: Group, found: Sequence[Candidates], advance: Advance) -> GroupResult:
        first = self._figures(group, [hits.doc_indices for hits in found])
        reranked = None
        if self.reranker is None:
            advance(len(found))
        else:
            reranked = self._figures(group, self._rerank(self.reranker, group, found, advance))
        return GroupResult(
            group.query_language,
            group.document_language,
            tuple(query.query_id for query in group.queries),
            len(self.texts[group.document_language]),
            group.num_dropped_queries,
            first,
            reranked,
        )

    def _figures(self, group: Group, orders: Sequence[NDArray[np.intp]]) -> StageFigures:
        documents = self.plan.documents[group.document_language]
        rankings = {
            query.query_id: [documents[i].doc_id for i in order]
            for query, order in zip(group.queries, orders, strict=True)
        }
        values = measure(self.measures, group.qrels, rankings)
        resampled = resampled_means(
            values, num_resamples=self.config.num_resamples, seed=self.config.seed
        )
        return StageFigures(values, resampled)

    def _rerank(
        self, reranker: RerankerLike, group: Group, found: Sequence[Candidates], advance: Advance
    ) -> list[NDArray[np.intp]]:
        texts = self.texts[group.document_language]
        orders: list[NDArray[np.intp]] = []
        step = max(1, _PAIRS_PER_CALL // self.config.top_k)
        for start in range(0, len(found), step):
            queries, hits = group.queries[start : start + step], found[start : start + step]
            pairs = [
                (query.text, texts[i])
                for query, candidates in zip(queries, hits, strict=True)
                for i in candidates.doc_indices
            ]
            with self._timed("rerank", "pairs", len(pairs)):
                scores = _score(reranker, pairs)
            orders.extend(_reorder(hits, scores, self.config.first_stage_weight))
            advance(len(hits))
        return orders

    def _advance(self, step: str, total: int) -> Advance:
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            self.progress(step, done, total)

        self.progress(step, 0, total)
        return advance

    @contextmanager
    def _timed(self, step: str, unit: str, count: int) -> Iterator[None]:
        start = time.perf_counter()
        yield
        seconds = time.perf_counter() - start
        past = self.timings.get(step, Timing(unit, 0, 0.0))
        self.timings[step] = Timing(unit, past.count + count, past.seconds + seconds)


def _score(reranker: RerankerLike, pairs: list[tuple[str, str]]) -> Float32Array:
    if not pairs:
        return np.empty(0, np.float32)
    scores = np.asarray(reranker.score(pairs), np.float32)
    if scores.shape != (len(pairs),) or not np.isfinite(scores).all():
        raise EncoderError(
            f"the reranker gave an array of shape {scores.shape} for {len(pairs)} pairs, or "
            "values that are not finite; polyrank eval needs one finite score a pair."
        )
    return scores


def _reorder(
    hits: Sequence[Candidates], scores: Float32Array, weight: float
) -> list[NDArray[np.intp]]:
    """Return the documents of each query by new scores, laid end to end, ties as they were.

    The scores that the first stage gave are added with a weight.
    """
    ends = np.cumsum([len(candidates.doc_indices) for candidates in hits])
    return [
        candidates.doc_indices[
            np.argsort(-with_first_stage(own, candidates.scores, weight), kind="stable")
        ]
        for candidates, own in zip(hits, np.split(scores, ends[:-1]), strict=True)
    ]
