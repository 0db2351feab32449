"""What is measured against what: the settings of an evaluation and the groups they make."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from polyrank.errors import ConfigError
from polyrank.evaluation.dataset import CorpusDocument, Dataset, Qrels, Query

Mode = Literal["same", "cross", "pool", "all"]

MODE_WORDS: Mapping[Mode, str] = {
    "same": "each language with itself",
    "cross": "queries of one language, documents of another",
    "pool": "documents of all languages in one pool",
    "all": "all queries and documents",
}


@dataclass(frozen=True, slots=True)
class EvaluationConfig:
    """Settings of an evaluation.

    Attributes:
        mode: "same" searches each language's documents with its own queries; "cross" every
            ordered pair of different languages; "pool" the documents of all languages
            together, with a row for each query language; "all" is one row for everything.
            None takes "same" where the set names languages, else "all".
        top_k: Documents that the first stage hands on.
        query_languages: Languages to take queries of; None takes all.
        document_languages: Languages to take documents of; None takes all.
        max_queries: Queries of each group at most, a random sample; None takes all. Groups
            with equally many queries are sampled at the same places, so that sets with the
            same questions in every language stay parallel.
        first_stage_weight: What a standard deviation of the first stage's scores of a query's
            candidates adds to a reranker's; 0 leaves them out.
        with_titles: Whether a document's title is put before its text.
        seed: Of the sample and of the intervals.
        num_resamples: Resamples for the confidence intervals.

    Raises:
        ConfigError: If a value is out of range.
    """

    mode: Mode | None = None
    top_k: int = 100
    query_languages: tuple[str, ...] | None = None
    document_languages: tuple[str, ...] | None = None
    max_queries: int | None = None
    first_stage_weight: float = 0.0
    with_titles: bool = True
    seed: int = 0
    num_resamples: int = 1000

    def __post_init__(self) -> None:
        if self.mode is not None and self.mode not in get_args(Mode):
            raise ConfigError(f"mode must be one of {get_args(Mode)}, not {self.mode!r}")
        for name, least in (("top_k", 1), ("max_queries", 1), ("num_resamples", 100), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name} must be {least} or more, not {value}")
        if not 0 <= self.first_stage_weight < math.inf:
            raise ConfigError(
                "first_stage_weight must be a finite number, 0 or more, not "
                f"{self.first_stage_weight}"
            )


@dataclass(frozen=True, slots=True)
class Group:
    """Queries and documents that are measured together.

    Attributes:
        query_language: Language of the queries; None for queries of any language.
        document_language: Language of the documents; None for the whole pool.
        queries: The queries, each with a relevant document.
        qrels: Their judgements, in the order of `queries`.
        num_dropped_queries: Queries left out for want of a relevant document.
    """

    query_language: str | None
    document_language: str | None
    queries: tuple[Query, ...]
    qrels: Qrels
    num_dropped_queries: int


@dataclass(frozen=True, slots=True)
class Plan:
    """All groups, and each language's texts once.

    Attributes:
        mode: The mode, settled.
        groups: In the order of the languages.
        documents: Documents of each document language that a group names.
        queries: Queries of each query language that a group names, those of all its groups.
    """

    mode: Mode
    groups: tuple[Group, ...]
    documents: Mapping[str | None, tuple[CorpusDocument, ...]]
    queries: Mapping[str | None, tuple[Query, ...]]


def make_plan(dataset: Dataset, config: EvaluationConfig) -> Plan:
    """Return the groups that the settings make of a set.

    Args:
        dataset: The set.
        config: The settings.

    Returns:
        The groups, one at least.

    Raises:
        ConfigError: If the set names no languages and the settings need them, or nothing is
            left to measure.
    """
    mode: Mode = config.mode or ("same" if dataset.has_languages else "all")
    _check_languages(dataset, config, mode)
    groups: list[Group] = []
    documents: dict[str | None, tuple[CorpusDocument, ...]] = {}
    for query_language, document_language in _pairs(dataset, config, mode):
        part = dataset.select(
            config.query_languages if query_language is None else {query_language},
            config.document_languages if document_language is None else {document_language},
        )
        if part.queries:
            documents[document_language] = part.documents
            groups.append(_group(part, query_language, document_language, config))
    if not groups:
        raise ConfigError(_nothing_left(dataset, mode))
    return Plan(mode, tuple(groups), documents, _united_queries(groups))


def _check_languages(dataset: Dataset, config: EvaluationConfig, mode: Mode) -> None:
    if not dataset.has_languages:
        if mode != "all" or config.query_languages or config.document_languages:
            raise ConfigError(
                f'{dataset.name} names no languages (rows have no "lang"), so mode {mode!r} and '
                "choices of language cannot be used. Use mode 'all' or add \"lang\" to the rows."
            )
        return
    for side, asked, present in (
        ("queries", config.query_languages, dataset.query_languages),
        ("documents", config.document_languages, dataset.document_languages),
    ):
        absent = sorted(set(asked or ()) - set(present))
        if absent:
            raise ConfigError(
                f"{dataset.name} has no {side} in {', '.join(absent)}. It has {', '.join(present)}."
            )


def _pairs(
    dataset: Dataset, config: EvaluationConfig, mode: Mode
) -> list[tuple[str | None, str | None]]:
    if mode == "all":
        return [(None, None)]
    judged = [
        (query_language, document_language)
        for query_language, document_language in dataset.language_pairs()
        if query_language in (config.query_languages or (query_language,))
        and document_language in (config.document_languages or (document_language,))
    ]
    if mode == "pool":
        return [(language, None) for language in dict.fromkeys(pair[0] for pair in judged)]
    return [pair for pair in judged if (pair[0] == pair[1]) == (mode == "same")]


def _group(
    part: Dataset,
    query_language: str | None,
    document_language: str | None,
    config: EvaluationConfig,
) -> Group:
    queries = part.queries
    if config.max_queries is not None and config.max_queries < len(queries):
        generator = np.random.default_rng(config.seed)
        drawn = generator.choice(len(queries), config.max_queries, replace=False)
        queries = tuple(queries[i] for i in np.sort(drawn))
    qrels = {query.query_id: part.qrels[query.query_id] for query in queries}
    return Group(query_language, document_language, queries, qrels, part.num_dropped_queries)


def _nothing_left(dataset: Dataset, mode: Mode) -> str:
    pairs = [f"{asked}→{found}" for asked, found in dataset.language_pairs()[:10]]
    return (
        f"nothing to measure in mode {mode!r}: no query of {dataset.name} has a relevant document "
        "in the languages chosen. Queries have relevant documents in these pairs of languages: "
        f"{', '.join(pairs) or 'none'}. Choose another mode or other languages."
    )


def _united_queries(groups: list[Group]) -> dict[str | None, tuple[Query, ...]]:
    united: dict[str | None, dict[str, Query]] = {}
    for group in groups:
        queries = united.setdefault(group.query_language, {})
        queries.update((query.query_id, query) for query in group.queries)
    return {language: tuple(queries.values()) for language, queries in united.items()}
