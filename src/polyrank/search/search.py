"""`Search`: candidates through cheaper and dearer models, within a budget, with a report."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from polyrank.config import check_whole
from polyrank.errors import ConfigError
from polyrank.search.budget import Budget, Clock, Paces, Spending
from polyrank.search.fusion import reciprocal_rank_fusion, weighted_fusion
from polyrank.search.pruning import Pruning
from polyrank.search.stages import (
    Candidate,
    RerankerScorer,
    Source,
    Stage,
    StageScores,
    VectorScorer,
    check_scores,
)
from polyrank.tasks.first_stage import check_first_stage_scores
from polyrank.text.inputs import as_list, check_text, document_text
from polyrank.types import Document, RankedDocument

if TYPE_CHECKING:
    from polyrank.inference.embedder import Embedder
    from polyrank.inference.reranker import Reranker

MOST_CANDIDATES = 1_000


@dataclass(frozen=True, slots=True)
class SearchHit:
    """A document of a result.

    Attributes:
        id: Its name; of documents that were given, their place.
        index: Its place among the candidates.
        score: Of the last stage that read it, or of the source.
        stage: Name of that stage or source; empty where nothing scored it.
        document: As it was given or found.
        text: Its text.
        scores: What each source and stage gave it, by name.
        metadata: What a store keeps with it.
        ranked: What a reranker says of it, where one was the last stage that read it.
    """

    id: str
    index: int
    score: float | None
    stage: str
    document: Document
    text: str
    scores: Mapping[str, float]
    metadata: Mapping[str, Any]
    ranked: RankedDocument | None = None


@dataclass(frozen=True, slots=True)
class StageReport:
    """What a source or a stage did.

    Attributes:
        name: Its name.
        num_given: Candidates that reached it; of a source, those asked for.
        num_read: Candidates that it scored, or found.
        num_pruned: Candidates that its pruning did not hand on to it.
        milliseconds: What it took.
        is_cut_short: Whether the budget ended it before all were read.
        guarantee: What its pruning promises; empty where there is none, or where it does not hold:
            the stage before did not score all candidates, or this one reads a fixed number.
    """

    name: str
    num_given: int
    num_read: int
    num_pruned: int
    milliseconds: float
    is_cut_short: bool = False
    guarantee: str = ""


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What a search found.

    Attributes:
        hits: Best first.
        stages: What was spent where, in the order in which it ran.
        num_candidates: Candidates in all.
        milliseconds: From the query to the result.
    """

    hits: tuple[SearchHit, ...]
    stages: tuple[StageReport, ...]
    num_candidates: int
    milliseconds: float

    def __iter__(self) -> Iterator[SearchHit]:
        return iter(self.hits)

    def __len__(self) -> int:
        return len(self.hits)


class Search:
    """Candidates through stages, each dearer than the last, within a budget.

    Candidates are given, or found by sources and joined by rank or by weights. Each stage reads the
    first of them and orders them anew; those that it does not read keep their order below. Safe to
    use from several threads.
    """

    def __init__(
        self,
        stages: Sequence[Stage] = (),
        *,
        sources: Sequence[Source] = (),
        weights: Sequence[float] | None = None,
        candidates: int = MOST_CANDIDATES,
        clock: Clock = time.perf_counter,
    ) -> None:
        """Set what searches.

        Args:
            stages: Models, the cheapest first; none keeps the order of the sources.
            sources: What finds candidates where none are given.
            weights: What a standard deviation of each source's scores counts for, as
                `learn_fusion_weights` gives them; None joins sources by reciprocal rank.
            candidates: Candidates that a source hands on, and that are left when they are joined.
            clock: Tells seconds, for budgets.

        Raises:
            ConfigError: If two stages or sources have one name, or weights are not one a source.
        """
        self.stages, self.sources = tuple(stages), tuple(sources)
        names = [source.name for source in self.sources] + [stage.name for stage in self.stages]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigError(f"two stages or sources are called {twice[0]!r}; give each its name")
        if weights is not None and len(weights) != len(self.sources):
            raise ConfigError(
                f"weights must be one a source: {len(self.sources)} sources, {len(weights)} weights"
            )
        self._weights = weights
        self._most = check_whole("candidates", candidates)
        self._clock, self._paces = clock, Paces()

    @classmethod
    def of(
        cls,
        *,
        embedder: "Embedder | None" = None,
        reranker: "Reranker | None" = None,
        cross_encoder: "Reranker | None" = None,
        contenders: int = 200,
        finalists: int = 50,
        pruning: Pruning | None = None,
        sources: Sequence[Source] = (),
        weights: Sequence[float] | None = None,
        candidates: int = MOST_CANDIDATES,
    ) -> "Search":
        """Return the usual cascade: vectors, late interaction, cross-encoder, each if given.

        Args:
            embedder: Orders candidates by vectors; worth it where their vectors are kept.
            reranker: Compares them token by token.
            cross_encoder: Reads the query together with each of the last ones.
            contenders: Candidates that reach the reranker where there is an embedder, and no
                pruning.
            finalists: Candidates that reach the cross-encoder.
            pruning: Which candidates reach the stage after the first, in place of `contenders`.
            sources: As of `Search`.
            weights: As of `Search`.
            candidates: As of `Search`.

        Returns:
            A search with the stages "vectors", "late_interaction" and "cross_encoder".

        Raises:
            ConfigError: If a number is out of range, or there is pruning and only one stage.
        """
        stages: list[Stage] = []
        if embedder is not None:
            stages.append(Stage("vectors", VectorScorer(embedder)))
        if reranker is not None:
            most = contenders if stages and pruning is None else None
            stages.append(Stage("late_interaction", RerankerScorer(reranker), most))
        if cross_encoder is not None:
            stages.append(Stage("cross_encoder", RerankerScorer(cross_encoder), finalists))
        if pruning is not None:
            if len(stages) < 2:
                raise ConfigError("pruning needs two stages: one that prunes and one that reads")
            second = stages[1]
            stages[1] = Stage(second.name, second.scorer, second.at_most, pruning)
        return cls(stages, sources=sources, weights=weights, candidates=candidates)

    def search(
        self,
        query: str,
        documents: Iterable[Document] | None = None,
        *,
        top_n: int | None = 10,
        budget_ms: float | None = None,
        budget_pairs: int | None = None,
        first_stage_scores: Sequence[float] | None = None,
    ) -> SearchResult:
        """Return the documents that answer a query best.

        Args:
            query: What is looked for.
            documents: Candidates, as `Reranker.rank` takes them; None asks the sources.
            top_n: How many to return; None returns all candidates.
            budget_ms: Milliseconds that may be spent.
            budget_pairs: Pairs that may be scored, in all stages together.
            first_stage_scores: What a search gave the documents; orders them before the first
                stage.

        Returns:
            Hits, and what was spent where.

        Raises:
            ConfigError: If a limit is out of range, or there is neither a document nor a source.
            InputError: If the query or a document cannot be read.
            EncoderError: If a stage fails.
        """
        check_text(query, "query")
        if top_n is not None:
            check_whole("top_n", top_n)
        spending = Spending(Budget(budget_ms, budget_pairs), self._clock, self._paces)
        run = _Run(query, spending)
        if documents is None:
            run.begin(self._find(run, query))
        else:
            run.begin(_given(documents, first_stage_scores), is_ordered=False)
        for place, stage in enumerate(self.stages):
            run.read(stage, len(self.stages) - place)
        return run.result(top_n)

    def _find(self, run: "_Run", query: str) -> list[Candidate]:
        if not self.sources:
            raise ConfigError("there is nothing to search: give documents, or the search sources")
        found = [run.find(source, query, self._most) for source in self.sources]
        if len(found) == 1:
            return found[0]
        by_id = {candidate.id: candidate for own in reversed(found) for candidate in own}
        if self._weights is None:
            fused = reciprocal_rank_fusion([[c.id for c in own] for own in found])
        else:
            scores = [{c.id: c.score or 0.0 for c in own} for own in found]
            fused = weighted_fusion(scores, self._weights)
        return [by_id[hit.id] for hit in fused[: self._most]]


def _given(
    documents: Iterable[Document], first_stage_scores: Sequence[float] | None
) -> list[Candidate]:
    listed = as_list(documents, "documents", "strings, mappings or objects with a text")
    texts = [document_text(entry, f"documents[{i}]") for i, entry in enumerate(listed)]
    scores: list[float | None] = [None] * len(listed)
    if first_stage_scores is not None:
        scores = [
            float(score) for score in check_first_stage_scores(first_stage_scores, len(listed))
        ]
    return [
        Candidate(str(i), text, entry, score)
        for i, (text, entry, score) in enumerate(zip(texts, listed, scores, strict=True))
    ]


class _Run:
    """One search."""

    def __init__(self, query: str, spending: Spending) -> None:
        self._query, self._spending = query, spending
        self._reports: list[StageReport] = []
        self._candidates: list[Candidate] = []
        self._order: list[int] = []
        self._scores: list[dict[str, float]] = []
        self._last: list[str] = []
        self._ranked: dict[int, RankedDocument] = {}
        self._found: dict[str, dict[str, float]] = {}
        self._previous: dict[int, float] | None = None

    def find(self, source: Source, query: str, at_most: int) -> list[Candidate]:
        begin = self._spending.spent_s()
        found = source.find(query, at_most)
        took = 1000 * (self._spending.spent_s() - begin)
        self._reports.append(StageReport(source.name, at_most, len(found), 0, took))
        self._found[source.name] = {c.id: c.score for c in found if c.score is not None}
        return found

    def begin(self, candidates: list[Candidate], *, is_ordered: bool = True) -> None:
        self._candidates, self._order = candidates, list(range(len(candidates)))
        self._scores = [
            {name: scores[c.id] for name, scores in self._found.items() if c.id in scores}
            for c in candidates
        ]
        self._last = [next(iter(own), "") for own in self._scores]
        # scores of several sources have no unit in common
        if len(self._found) <= 1 and all(c.score is not None for c in candidates):
            self._previous = {i: c.score or 0.0 for i, c in enumerate(candidates)}
            if not is_ordered:
                own = self._previous
                self._order.sort(key=lambda i: -own[i])

    def read(self, stage: Stage, stages_left: int) -> None:
        """Let a stage read the first candidates, and order them anew."""
        begin = self._spending.spent_s()
        reaching, guarantee = self._reaching(stage)
        num_pruned = len(self._order) - len(reaching)
        wanted = reaching[: stage.at_most]
        found = self._in_parts(stage, wanted, self._spending.deadline(stages_left))
        read = wanted[: len(found)]
        if read:
            by_order = {i: own[0] for i, own in zip(read, found, strict=True)}
            first = sorted(read, key=lambda i: -by_order[i])
            self._order = first + [i for i in self._order if i not in by_order]
            self._previous = by_order
        took = 1000 * (self._spending.spent_s() - begin)
        is_cut_short = len(read) < len(wanted)
        self._reports.append(
            StageReport(
                stage.name, len(wanted), len(read), num_pruned, took, is_cut_short, guarantee
            )
        )

    def _reaching(self, stage: Stage) -> tuple[list[int], str]:
        """Return the candidates that a stage may read, and what is promised of them."""
        if stage.pruning is None or self._previous is None:
            return self._order, ""
        known = [i for i in self._order if i in self._previous]
        keeps = stage.pruning.keeps(np.array([self._previous[i] for i in known], np.float64))
        reaching = [i for i, stays in zip(known, keeps.tolist(), strict=True) if stays]
        is_held = len(known) == len(self._order) and stage.at_most is None
        return reaching, stage.pruning.guarantee if is_held else ""

    def _in_parts(
        self, stage: Stage, wanted: list[int], deadline: float | None
    ) -> list[tuple[float, float]]:
        found: list[tuple[float, float]] = []
        while size := self._spending.part(stage.name, len(wanted) - len(found), deadline):
            part = wanted[len(found) : len(found) + size]
            begin = self._spending.spent_s()
            scores = stage.scorer.score(self._query, [self._candidates[i] for i in part])
            check_scores(stage.name, scores, len(part))
            self._spending.note(stage.name, len(part), self._spending.spent_s() - begin)
            self._note(stage.name, part, scores)
            found += zip(scores.order.tolist(), scores.scores.tolist(), strict=True)
        return found

    def _note(self, name: str, part: list[int], scores: StageScores) -> None:
        for place, i in enumerate(part):
            self._scores[i][name] = float(scores.scores[place])
            self._last[i] = name
            if scores.ranked:
                self._ranked[i] = scores.ranked[place]
            else:
                self._ranked.pop(i, None)

    def result(self, top_n: int | None) -> SearchResult:
        hits = tuple(self._hit(i) for i in self._order[:top_n])
        took = 1000 * self._spending.spent_s()
        return SearchResult(hits, tuple(self._reports), len(self._candidates), took)

    def _hit(self, i: int) -> SearchHit:
        candidate, last = self._candidates[i], self._last[i]
        score = self._scores[i].get(last, candidate.score)
        return SearchHit(
            candidate.id,
            i,
            score,
            last,
            candidate.document,
            candidate.text,
            self._scores[i],
            candidate.metadata,
            self._ranked.get(i),
        )
