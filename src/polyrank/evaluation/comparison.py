"""Several systems on one set: quality with paired tests, by language and by length, and latency.

A system is a first stage with or without a reranker. Systems that share a first stage share its
index.
"""

import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyrank.errors import ConfigError
from polyrank.evaluation.bootstrap import Estimate, estimate
from polyrank.evaluation.dataset import Dataset
from polyrank.evaluation.plan import EvaluationConfig, Plan, make_plan
from polyrank.evaluation.results import GroupResult, Report, StageFigures
from polyrank.evaluation.retrievers import Advance, Candidates, Retriever
from polyrank.evaluation.run import RerankerLike, evaluate
from polyrank.evaluation.significance import holm, permutation_p_value
from polyrank.progress import StepProgress

NUM_TIMED_QUERIES = 20
_TIMED_S = 20.0  # slow systems are timed on fewer, five at least
_LEAST_TIMED = 5
_NUM_LENGTHS = 4  # bands of document length, with equally many queries each


@dataclass(frozen=True, slots=True)
class System:
    """What is compared.

    Attributes:
        name: As reports call it.
        retriever: Searches the whole corpus.
        reranker: Orders what was found anew, or None.
        first_stage_weight: As `EvaluationConfig.first_stage_weight`.
        timed_reranker: The reranker that latency is measured with, where `reranker` keeps
            documents that it has read: one that reads them anew. None takes `reranker`.
    """

    name: str
    retriever: Retriever[Any, Any]
    reranker: RerankerLike | None = None
    first_stage_weight: float = 0.0
    timed_reranker: RerankerLike | None = None


@dataclass(frozen=True, slots=True)
class Latency:
    """What a user waits for one query: reading it, searching, reranking.

    Attributes:
        p50_ms: Half of the queries took at most so many milliseconds.
        p95_ms: 95 % of them.
        num_queries: How many were timed, one after another.
    """

    p50_ms: float
    p95_ms: float
    num_queries: int


@dataclass(frozen=True, slots=True)
class SystemResult:
    """What was found of one system.

    Attributes:
        name: Of the system.
        report: All its figures.
        latency: What one query takes.
    """

    name: str
    report: Report
    latency: Latency

    def figures(self, group: GroupResult) -> StageFigures:
        """Return a group's figures at the end of the system."""
        return group.first_stage if group.reranked is None else group.reranked

    @property
    def mean(self) -> dict[str, Estimate]:
        """The mean over the groups of each measure, with its interval."""
        return self.report.mean(self.figures)


@dataclass(frozen=True, slots=True)
class Difference:
    """One system less another, by the main measure.

    Attributes:
        system: The one.
        other: The other.
        mean: Mean difference over the groups, with its interval.
        p_value: Of the paired randomisation test, two-sided.
        corrected_p_value: The same after Holm's correction for all pairs of systems.
    """

    system: str
    other: str
    mean: Estimate
    p_value: float
    corrected_p_value: float


@dataclass(frozen=True, slots=True)
class LengthBand:
    """Queries whose longest relevant document has a length within bounds.

    Attributes:
        shortest: Characters, at least.
        longest: Characters, at most.
        num_queries: How many.
        means: The main measure's mean for each system, in their order.
    """

    shortest: int
    longest: int
    num_queries: int
    means: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """All that a comparison found.

    Attributes:
        systems: In the order given; the first is the baseline.
        differences: Of every pair, the later less the earlier.
        lengths: By length of the relevant document, short ones first.
    """

    systems: tuple[SystemResult, ...]
    differences: tuple[Difference, ...]
    lengths: tuple[LengthBand, ...] = field(default=())

    @property
    def report(self) -> Report:
        """The baseline's report, for what all have in common: set, mode, measures, groups."""
        return self.systems[0].report

    def from_baseline(self, name: str) -> Difference | None:
        """Return a system's difference from the baseline; None for the baseline itself."""
        base = self.systems[0].name
        pairs = {(each.system, each.other): each for each in self.differences}
        return pairs.get((name, base))


def compare(
    dataset: Dataset,
    systems: Sequence[System],
    *,
    config: EvaluationConfig | None = None,
    progress: StepProgress | None = None,
) -> Comparison:
    """Measure several systems on the same queries.

    Args:
        dataset: The evaluation set.
        systems: The systems, the baseline first, with names of their own.
        config: The settings; each system's own `first_stage_weight` replaces the one there.
        progress: Called as work goes on.

    Returns:
        Figures of each, and of the differences between each two.

    Raises:
        ConfigError: If two systems have one name, there is none, or the settings leave nothing to
            measure.
        EncoderError: If a model gives something other than one finite value a text or pair.
    """
    names = [system.name for system in systems]
    if not names or len(set(names)) < len(names):
        raise ConfigError(
            f"systems must have names of their own, and be one at least, not {names}. "
            "Write NAME=SYSTEM."
        )
    config = config or EvaluationConfig()
    plan = make_plan(dataset, config)
    shared: dict[int, _Shared] = {}
    results = []
    for system in systems:
        retriever = shared.setdefault(id(system.retriever), _Shared(system.retriever))
        latency = _latency(plan, replace(system, retriever=retriever), config)
        report = evaluate(
            dataset,
            retriever=retriever,
            reranker=system.reranker,
            config=replace(config, first_stage_weight=system.first_stage_weight),
            progress=_named(progress, system.name),
        )
        results.append(SystemResult(system.name, report, latency))
    return Comparison(tuple(results), _differences(results, config.seed), _bands(plan, results))


def _named(progress: StepProgress | None, name: str) -> StepProgress | None:
    if progress is None:
        return None

    def named(step: str, done: int, total: int, note: str = "") -> None:
        progress(f"{name}: {step}", done, total, note)

    return named


class _Shared:
    """A retriever that makes the index of the same documents once."""

    def __init__(self, retriever: Retriever[Any, Any]) -> None:
        self._retriever = retriever
        self._indexes: dict[int, Any] = {}

    def index_documents(self, documents: Sequence[str], advance: Advance) -> Any:
        key = hash(tuple(documents))
        if key in self._indexes:
            advance(len(documents))
        else:
            self._indexes[key] = self._retriever.index_documents(documents, advance)
        return self._indexes[key]

    def read_queries(self, queries: Sequence[str], advance: Advance) -> Any:
        return self._retriever.read_queries(queries, advance)

    def search(
        self, queries: Any, rows: NDArray[np.intp], index: Any, top_k: int
    ) -> list[Candidates]:
        return self._retriever.search(queries, rows, index, top_k)


def _latency(plan: Plan, system: System, config: EvaluationConfig) -> Latency:
    """Time queries one by one, of all groups in turns; the first one warms up and is left out."""
    reranker = system.timed_reranker or system.reranker
    in_turns = itertools.zip_longest(
        *([(group, query) for query in group.queries] for group in plan.groups)
    )
    sample = [pair for turn in in_turns for pair in turn if pair is not None]
    sample = sample[: NUM_TIMED_QUERIES + 1]
    texts_of = {
        language: [document.content(with_title=config.with_titles) for document in documents]
        for language, documents in plan.documents.items()
    }
    seconds = []
    for group, query in [*sample[:1], *sample] if len(sample) == 1 else sample:
        texts = texts_of[group.document_language]
        index = system.retriever.index_documents(texts, lambda count: None)
        begun = time.perf_counter()
        read = system.retriever.read_queries([query.text], lambda count: None)
        (hits,) = system.retriever.search(read, np.zeros(1, np.intp), index, config.top_k)
        if reranker is not None and len(hits.doc_indices):
            reranker.score([(query.text, texts[i]) for i in hits.doc_indices])
        seconds.append(time.perf_counter() - begun)
        if len(seconds) > _LEAST_TIMED and sum(seconds) > _TIMED_S:
            break
    p50, p95 = np.quantile(np.array(seconds[1:]) * 1000, [0.5, 0.95])
    return Latency(float(p50), float(p95), len(seconds) - 1)


def _differences(results: Sequence[SystemResult], seed: int) -> tuple[Difference, ...]:
    main = results[0].report.measures[0]
    pairs = [(late, early) for early, late in itertools.combinations(results, 2)]
    found = []
    for one, other in pairs:
        both = zip(one.report.groups, other.report.groups, strict=True)
        groups = [one.figures(a).minus(other.figures(b)) for a, b in both]
        values = [group.per_query[main] for group in groups]
        mean = estimate(
            float(np.mean([each.mean() for each in values])),
            np.mean([group.resampled[main] for group in groups], axis=0),
        )
        found.append((one.name, other.name, mean, permutation_p_value(values, seed=seed)))
    corrected = holm([p_value for *_, p_value in found])
    return tuple(Difference(*each, p) for each, p in zip(found, corrected, strict=True))


def _bands(plan: Plan, results: Sequence[SystemResult]) -> tuple[LengthBand, ...]:
    lengths = np.concatenate([_relevant_lengths(plan, place) for place in range(len(plan.groups))])
    main = results[0].report.measures[0]
    values = [
        np.concatenate([system.figures(group).per_query[main] for group in system.report.groups])
        for system in results
    ]
    inner = np.quantile(lengths, np.arange(1, _NUM_LENGTHS) / _NUM_LENGTHS, method="lower")
    band_of = np.searchsorted(np.unique(inner), lengths)  # in (lower, upper]
    bands = []
    for band in np.unique(band_of):
        inside = band_of == band
        means = tuple(float(each[inside].mean()) for each in values)
        shortest, longest = int(lengths[inside].min()), int(lengths[inside].max())
        bands.append(LengthBand(shortest, longest, int(inside.sum()), means))
    return tuple(bands)


def _relevant_lengths(plan: Plan, place: int) -> NDArray[np.int64]:
    """Return, for each query of a group, the characters of its longest relevant document."""
    group = plan.groups[place]
    lengths: Mapping[str, int] = {
        document.doc_id: len(document.text) for document in plan.documents[group.document_language]
    }
    return np.array(
        [
            max(
                (lengths.get(doc_id, 0) for doc_id, grade in judged.items() if grade > 0),
                default=0,
            )
            for judged in group.qrels.values()
        ],
        np.int64,
    )
