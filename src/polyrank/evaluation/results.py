"""What an evaluation found: figures for each group, their mean, and how long it took."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from polyrank.evaluation.bootstrap import Estimate, estimate
from polyrank.evaluation.measures import Float64Array
from polyrank.evaluation.plan import EvaluationConfig, Mode


@dataclass(frozen=True, slots=True)
class StageFigures:
    """Figures of one stage, or of the difference between two.

    Attributes:
        per_query: For each measure, a value a query, shape (num_queries,).
        resampled: For each measure, means of resampled queries, shape (num_resamples,).
    """

    per_query: Mapping[str, Float64Array] = field(repr=False)
    resampled: Mapping[str, Float64Array] = field(repr=False)

    @property
    def estimates(self) -> dict[str, Estimate]:
        """The mean over the queries of each measure, with its interval."""
        return {
            name: estimate(float(values.mean()), self.resampled[name])
            for name, values in self.per_query.items()
        }

    def minus(self, other: "StageFigures") -> "StageFigures":
        """Return the differences, query by query and resample by resample."""
        return StageFigures(
            {name: values - other.per_query[name] for name, values in self.per_query.items()},
            {name: values - other.resampled[name] for name, values in self.resampled.items()},
        )


@dataclass(frozen=True, slots=True)
class GroupResult:
    """Figures of one group of queries.

    Attributes:
        query_language: Language of the queries; None for queries of any language.
        document_language: Language of the documents; None for the whole pool.
        query_ids: The queries measured, in the order of the values a query.
        num_documents: Documents searched.
        num_dropped_queries: Queries left out for want of a relevant document.
        first_stage: Figures of the first stage.
        reranked: Figures after reranking, or None without a reranker.
    """

    query_language: str | None
    document_language: str | None
    query_ids: tuple[str, ...] = field(repr=False)
    num_documents: int
    num_dropped_queries: int
    first_stage: StageFigures
    reranked: StageFigures | None = None

    @property
    def label(self) -> str:
        """The group in words: "en", "en→de", or "all"."""
        if self.query_language is None:
            return "all"
        if self.document_language in (None, self.query_language):
            return self.query_language
        return f"{self.query_language}→{self.document_language}"

    @property
    def difference(self) -> StageFigures | None:
        """Reranked less first stage."""
        return None if self.reranked is None else self.reranked.minus(self.first_stage)


@dataclass(frozen=True, slots=True)
class Timing:
    """How long a step took.

    Attributes:
        unit: What was counted: "documents", "queries" or "pairs".
        count: How many.
        seconds: Wall-clock time.
    """

    unit: str
    count: int
    seconds: float

    @property
    def per_second(self) -> float:
        """How many a second; 0 where nothing was timed."""
        return self.count / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Report:
    """All that an evaluation found.

    Attributes:
        dataset: Name of the set.
        config: The settings.
        mode: The mode, settled.
        measures: Names of the measures, the main one first.
        groups: Figures by group; by language in most modes.
        timings: By step: "index documents", "read queries", "search" and, where there is a
            reranker, "rerank".
    """

    dataset: str
    config: EvaluationConfig
    mode: Mode
    measures: tuple[str, ...]
    groups: tuple[GroupResult, ...]
    timings: Mapping[str, Timing]

    @property
    def is_reranked(self) -> bool:
        """Whether a reranker took part."""
        return self.groups[0].reranked is not None

    def mean(self, stage: Callable[[GroupResult], StageFigures | None]) -> dict[str, Estimate]:
        """Return the mean over the groups, each counting the same, with its interval.

        Args:
            stage: Which figures of a group, as in ``lambda group: group.reranked``.

        Returns:
            One entry for each measure; empty where the stage did not run.
        """
        figures = [found for group in self.groups if (found := stage(group)) is not None]
        if not figures:
            return {}
        return {
            name: estimate(
                float(np.mean([group.per_query[name].mean() for group in figures])),
                np.mean([group.resampled[name] for group in figures], axis=0),
            )
            for name in self.measures
        }
