"""The check of a trimmed vocabulary: does the checkpoint rank as before, in every language?"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polyrank.checkpoint.reader import read_checkpoint
from polyrank.compress.trim.record import CheckRecord, RankingFigures
from polyrank.errors import CapabilityError, ConfigError
from polyrank.evaluation.dataset import Dataset
from polyrank.evaluation.plan import EvaluationConfig
from polyrank.evaluation.results import Report
from polyrank.evaluation.retrievers import EmbeddingRetriever, Retriever
from polyrank.evaluation.run import LogitReranker, evaluate
from polyrank.inference.embedder import Embedder
from polyrank.inference.reranker import Reranker
from polyrank.progress import StepProgress

DEFAULT_TOLERANCE = 0.003
MEASURE = "nDCG@10"

Means = Mapping[str, tuple[int, float]]
"""Queries and mean nDCG@10 by language."""


@dataclass(frozen=True, slots=True)
class TrimCheck:
    """Compares a trimmed folder with the checkpoint that it was made of, both in float32.

    Attributes:
        original: Folder of the checkpoint before.
        dataset: The evaluation set.
        evaluation: Languages, queries and depth of the evaluation.
        retriever: What searches the corpus for cross-encoders.
        tolerance: How much nDCG@10 of any language may fall.
        num_threads: Threads of the encoder.
        progress: Called as work goes on.

    Raises:
        ConfigError: If the tolerance is not between 0 and 1.
    """

    original: Path
    dataset: Dataset
    evaluation: EvaluationConfig
    retriever: Retriever[Any, Any]
    tolerance: float = DEFAULT_TOLERANCE
    num_threads: int | None = None
    progress: StepProgress | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance <= 1:
            raise ConfigError(f"tolerance must be from 0 to 1, not {self.tolerance}")

    def __call__(self, folder: Path) -> CheckRecord:
        """Measure ranking with the whole vocabulary and with the trimmed one.

        Args:
            folder: The trimmed folder.

        Returns:
            Figures by language, and what speaks against the trimmed one.

        Raises:
            CapabilityError: If the checkpoint neither embeds nor reranks.
        """
        heads = read_checkpoint(self.original).spec.heads
        measures = {
            task: measure
            for task, measure in (("embed", self._embedding), ("rerank", self._reranking))
            if task in heads
        }
        if not measures:
            raise CapabilityError(
                "the check measures ranking; this checkpoint makes no vectors and scores no "
                "pairs. Trim it without evaluation data, and measure its quality yourself."
            )
        tasks = {
            task: _compare(measure(self.original), measure(folder))
            for task, measure in measures.items()
        }
        reasons = tuple(
            f"{task}: {MEASURE} of {label} falls from {found.before:.4f} to {found.after:.4f}, "
            f"by more than {self.tolerance:g}"
            for task, languages in tasks.items()
            for label, found in languages.items()
            if found.change < -self.tolerance
        )
        return CheckRecord(self.dataset.name, self.tolerance, reasons, tasks)

    def _embedding(self, folder: Path) -> Means:
        embedder = Embedder(
            str(folder),
            num_threads=self.num_threads,
            compute_dtype="float32",
            long_texts="truncate",
        )
        report = evaluate(
            self.dataset,
            retriever=EmbeddingRetriever(embedder),
            config=self.evaluation,
            progress=self.progress,
        )
        return _means(report)

    def _reranking(self, folder: Path) -> Means:
        reranker = Reranker(
            str(folder), num_threads=self.num_threads, compute_dtype="float32", passages=None
        )
        report = evaluate(
            self.dataset,
            retriever=self.retriever,
            reranker=LogitReranker(reranker),
            config=self.evaluation,
            progress=self.progress,
        )
        return _means(report)


def _means(report: Report) -> Means:
    return {
        group.label: (
            len(group.query_ids),
            float((group.reranked or group.first_stage).per_query[MEASURE].mean()),
        )
        for group in report.groups
    }


def _compare(before: Means, after: Means) -> dict[str, RankingFigures]:
    return {
        label: RankingFigures(num_queries, value, after[label][1])
        for label, (num_queries, value) in before.items()
    }
