"""Evaluation while training, by polyrank's own measures.

A BEIR folder gives nDCG@10, rows of query, passage and label give the F1 of a classifier.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

from polyrank.errors import ConfigError, DataError
from polyrank.evaluation.beir import load_dataset
from polyrank.evaluation.dataset import Dataset
from polyrank.evaluation.labelled import macro_f1
from polyrank.evaluation.plan import EvaluationConfig, Mode, make_plan
from polyrank.evaluation.retrievers import (
    Advance,
    EmbedderLike,
    EmbeddingRetriever,
    Retriever,
)
from polyrank.evaluation.run import RerankerLike, evaluate
from polyrank.training.config import RELEVANCE_LABELS, TrainTask
from polyrank.training.data.rows import read_rows
from polyrank.types import Float32Array, InputType

NDCG, F1 = "nDCG@10", "macro-F1"


class LiveModel(Protocol):
    """The model as it is at some step."""

    def encode(self, texts: Sequence[str], *, input_type: InputType) -> Float32Array:
        """Return vectors of unit length, shape (num_texts, dim). Embedders only."""
        ...

    def score(self, pairs: Sequence[tuple[str, str]]) -> Float32Array:
        """Return the relevance of each pair, shape (num_pairs,). Cross-encoders only."""
        ...

    def probabilities(self, pairs: Sequence[tuple[str, str]]) -> Float32Array:
        """Return shape (num_pairs, 3), columns as in `RELEVANCE_LABELS`. Classifiers only."""
        ...


@dataclass(frozen=True, slots=True)
class Measurement:
    """What was measured at a step.

    Attributes:
        measure: Name of the main measure.
        value: Its mean over the languages, from 0 to 1.
        groups: Its value by language or pair of languages.
        first_stage: The mean for the first stage alone, None where there is none.
    """

    measure: str
    value: float
    groups: Mapping[str, float]
    first_stage: float | None = None


class Monitor(Protocol):
    """Measures a model."""

    name: str

    def measure(self, model: LiveModel) -> Measurement:
        """Return the figures of the model as it is now."""
        ...


@dataclass(frozen=True, slots=True)
class MonitorConfig:
    """How to measure while training.

    Attributes:
        path: Folder in BEIR form; for classifiers also rows of query, passage and label.
        mode: Which queries meet which documents, as `EvaluationConfig` has it.
        languages: Languages to measure; None takes all.
        max_queries: Queries of each language at most.
        top_k: Documents a query that a cross-encoder orders.
    """

    path: Path
    mode: Mode | None = None
    languages: tuple[str, ...] | None = None
    max_queries: int | None = 100
    top_k: int = 30


def make_monitor(config: MonitorConfig, task: TrainTask, retriever: Retriever[Any, Any]) -> Monitor:
    """Return what measures a task on some data.

    Args:
        config: Where the data are and how much of it to take.
        task: What is trained.
        retriever: Finds the documents that cross-encoders order.

    Returns:
        The monitor, its data read and checked.

    Raises:
        DataError: If the data cannot be read.
        ConfigError: If the settings leave nothing to measure.
    """
    folder = config.path
    has_corpus = folder.is_dir() and any(folder.glob("corpus.jsonl*"))
    if task == "classifier" and folder.exists() and not has_corpus:
        return LabelMonitor(folder, config.languages)
    evaluation = EvaluationConfig(
        mode=config.mode,
        top_k=config.top_k,
        query_languages=config.languages,
        document_languages=config.languages,
        max_queries=config.max_queries,
        num_resamples=100,
    )
    return RankingMonitor(load_dataset(folder), evaluation, task, retriever)


class RankingMonitor:
    """nDCG@10 of what a model finds, or of how it orders what a first stage found."""

    def __init__(
        self,
        dataset: Dataset,
        config: EvaluationConfig,
        task: TrainTask,
        retriever: Retriever[Any, Any],
    ) -> None:
        make_plan(dataset, config)  # says now what would fail after an hour
        self.name = dataset.name
        self._dataset, self._config, self._task = dataset, config, task
        self._retriever = RememberingRetriever(retriever)

    def measure(self, model: LiveModel) -> Measurement:
        """Return nDCG@10, the mean over languages and each."""
        is_embedder = self._task == "embedder"
        stage: Any = EmbeddingRetriever(cast(EmbedderLike, model)) if is_embedder else None
        report = evaluate(
            self._dataset,
            retriever=stage or self._retriever,
            reranker=None if is_embedder else cast(RerankerLike, model),
            config=self._config,
        )
        first = report.mean(lambda group: group.first_stage)[NDCG].mean
        if is_embedder:
            groups = {g.label: g.first_stage.estimates[NDCG].mean for g in report.groups}
            return Measurement(NDCG, first, groups)
        ranked = {g.label: g.reranked.estimates[NDCG].mean for g in report.groups if g.reranked}
        value = report.mean(lambda group: group.reranked)[NDCG].mean
        return Measurement(NDCG, value, ranked, first)


@dataclass
class RememberingRetriever:
    """A first stage that answers the same question from memory: only the reranker changes."""

    stage: Retriever[Any, Any]
    _indexes: dict[tuple[str, ...], Any] = field(default_factory=dict)
    _queries: dict[tuple[str, ...], Any] = field(default_factory=dict)

    def index_documents(self, documents: Sequence[str], advance: Advance) -> Any:
        """Return the index of these documents."""
        key = tuple(documents)
        if key not in self._indexes:
            self._indexes[key] = self.stage.index_documents(documents, advance)
        return self._indexes[key]

    def read_queries(self, queries: Sequence[str], advance: Advance) -> Any:
        """Return these queries in the form that `search` takes."""
        key = tuple(queries)
        if key not in self._queries:
            self._queries[key] = self.stage.read_queries(queries, advance)
        return self._queries[key]

    def search(self, queries: Any, rows: Any, index: Any, top_k: int) -> Any:
        """Return the best documents of the queries at `rows`."""
        return self.stage.search(queries, rows, index, top_k)


class LabelMonitor:
    """Macro-F1 of the three labels, on rows ``{"query", "passage", "label"}``."""

    def __init__(self, path: Path, languages: Sequence[str] | None) -> None:
        self.name = path.name
        self._pairs: dict[str, list[tuple[str, str]]] = {}
        self._labels: dict[str, list[int]] = {}
        for file in sorted(path.glob("*.jsonl*")) if path.is_dir() else [path]:
            self._read(file, languages)
        if not self._pairs:
            raise DataError(f"{path} holds no rows with query, passage and label to measure on.")

    def _read(self, file: Path, languages: Sequence[str] | None) -> None:
        for row in read_rows(file):
            label = row.text("label").lower()
            if label not in RELEVANCE_LABELS:
                raise row.error(
                    f"the label {label!r} is unknown", f"Use one of {', '.join(RELEVANCE_LABELS)}."
                )
            language = row.text("lang", "all") or "all"
            if languages is None or language in languages:
                self._pairs.setdefault(language, []).append(
                    (row.text("query"), row.text("passage"))
                )
                self._labels.setdefault(language, []).append(RELEVANCE_LABELS.index(label))

    def measure(self, model: LiveModel) -> Measurement:
        """Return macro-F1, the mean over languages and each."""
        groups = {
            language: macro_f1(
                np.array(self._labels[language]), model.probabilities(pairs).argmax(axis=1)
            )
            for language, pairs in self._pairs.items()
        }
        return Measurement(F1, float(np.mean(list(groups.values()))), groups)


def check_apart(data: Sequence[Path], evaluation: Path) -> None:
    """Raise if a path is both trained on and measured on.

    Args:
        data: What is trained on.
        evaluation: What is measured on.

    Raises:
        ConfigError: If one is, or holds, the other.
    """
    measured = evaluation.resolve()
    for path in data:
        trained = path.resolve()
        if measured == trained or measured in trained.parents or trained in measured.parents:
            raise ConfigError(
                f"{path} would be both trained and measured on, and the figures would mean "
                "nothing. Name another --eval-data."
            )
