"""What the quality gate found, as it is written into a folder for `polyrank.checkpoint.gate`."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from polyrank._files import replacing
from polyrank.types import TaskName

VERSION = 1
MEASURE = "nDCG@10"


@dataclass(frozen=True, slots=True)
class QualityComparison:
    """One measure of quality in float32 and int8; more is better.

    Attributes:
        measure: Its name.
        float32: Mean over the languages with float32 products.
        int8: The same with int8 products.
        languages: Both for each language.
    """

    measure: str
    float32: float
    int8: float
    languages: Mapping[str, tuple[float, float]]

    @property
    def change(self) -> float:
        """Int8 less float32."""
        return self.int8 - self.float32


@dataclass(frozen=True, slots=True)
class LanguageFigures:
    """nDCG@10 of one language, or of all queries where the data names no languages.

    Attributes:
        num_queries: Queries measured.
        float32: Mean over the queries with float32 products.
        int8: The same with int8 products.
    """

    num_queries: int
    float32: float
    int8: float


@dataclass(frozen=True, slots=True)
class TaskFigures:
    """How int8 compares with float32 in one task.

    Attributes:
        task: "embed" (vectors search the corpus) or "rerank" (pairs are scored).
        first_stage: What searched the corpus.
        top_k: Documents a query that were searched or reranked.
        languages: nDCG@10 by language.
        ndcg_float32: Mean over the languages.
        ndcg_int8: The same with int8.
        rank_correlation: Spearman's, of a query's scores, mean over the queries.
        rank_correlation_lowest: The lowest of any query.
        largest_score_change: Of any query and document, in the unit of scores.
        cosine_mean: Cosine of float32 and int8 vectors (embed) or pooled rows (rerank).
        cosine_lowest: The lowest of any text or pair.
        num_rows: Texts or pairs that the cosines were taken of.
    """

    task: TaskName
    first_stage: str
    top_k: int
    languages: Mapping[str, LanguageFigures]
    ndcg_float32: float
    ndcg_int8: float
    rank_correlation: float
    rank_correlation_lowest: float
    largest_score_change: float
    cosine_mean: float
    cosine_lowest: float
    num_rows: int

    @property
    def comparisons(self) -> tuple[QualityComparison, ...]:
        """NDCG@10 in both compute dtypes."""
        languages = {name: (one.float32, one.int8) for name, one in self.languages.items()}
        return (QualityComparison(MEASURE, self.ndcg_float32, self.ndcg_int8, languages),)

    @property
    def counts(self) -> dict[str, int]:
        """Queries of each language."""
        return {name: one.num_queries for name, one in self.languages.items()}


@dataclass(frozen=True, slots=True)
class LabelFigures:
    """How well one language is classified.

    Attributes:
        num_rows: Pairs measured.
        accuracy_float32: Share of right labels with float32 products.
        accuracy_int8: The same with int8 products.
        f1_float32: Macro-F1 with float32 products.
        f1_int8: The same with int8 products.
        equal_labels: Share of pairs that both give the same label.
    """

    num_rows: int
    accuracy_float32: float
    accuracy_int8: float
    f1_float32: float
    f1_int8: float
    equal_labels: float


@dataclass(frozen=True, slots=True)
class ClassifierFigures:
    """How int8 compares with float32 in telling the label of a pair.

    Attributes:
        task: "classify".
        languages: Figures by language.
        accuracy_float32: Share of right labels, mean over the languages.
        accuracy_int8: The same with int8.
        f1_float32: Macro-F1, mean over the languages.
        f1_int8: The same with int8.
        equal_labels: Share of pairs that both give the same label, mean over the languages.
        largest_probability_change: Of any label of any pair.
        cosine_mean: Cosine of float32 and int8 pooled rows.
        cosine_lowest: The lowest of any pair.
        num_rows: Pairs measured.
    """

    task: TaskName
    languages: Mapping[str, LabelFigures]
    accuracy_float32: float
    accuracy_int8: float
    f1_float32: float
    f1_int8: float
    equal_labels: float
    largest_probability_change: float
    cosine_mean: float
    cosine_lowest: float
    num_rows: int

    @property
    def comparisons(self) -> tuple[QualityComparison, ...]:
        """Accuracy and macro-F1 in both compute dtypes."""
        accuracy, f1 = (
            {
                name: (getattr(one, f"{key}_float32"), getattr(one, f"{key}_int8"))
                for name, one in self.languages.items()
            }
            for key in ("accuracy", "f1")
        )
        return (
            QualityComparison("accuracy", self.accuracy_float32, self.accuracy_int8, accuracy),
            QualityComparison("macro-F1", self.f1_float32, self.f1_int8, f1),
        )

    @property
    def counts(self) -> dict[str, int]:
        """Pairs of each language."""
        return {name: one.num_rows for name, one in self.languages.items()}


Figures = TaskFigures | ClassifierFigures


@dataclass(frozen=True, slots=True)
class GateRecord:
    """The verdict on int8 for one set of weights.

    Attributes:
        passed: Whether int8 is within the tolerance.
        reasons: What was beyond it; empty where it passed.
        tolerance: How much nDCG@10, accuracy and macro-F1 may fall, mean over the languages.
        weights_sha256: Fingerprint of the weight files that it speaks of.
        settings_sha256: Hash of the settings and the tokenizer that they were measured with.
        model: Name of the float checkpoint.
        dataset: Names of the evaluation sets.
        created: Date, as in 2026-01-31.
        device: Where int8 was measured, with its kernels.
        calibration: What the widths of inputs were measured on.
        tasks: Figures of each task measured.
        version: Of this form.
    """

    passed: bool
    reasons: tuple[str, ...]
    tolerance: float
    weights_sha256: str
    settings_sha256: str
    model: str
    dataset: str
    created: str
    device: str
    calibration: str
    tasks: tuple[Figures, ...]
    version: int = VERSION

    def as_dict(self) -> dict[str, Any]:
        """Return the record as plain values."""
        return asdict(self)


def write_record(record: GateRecord, path: Path) -> None:
    """Write a record as JSON.

    Args:
        record: The record.
        path: The file, which is replaced as a whole.
    """
    text = json.dumps(record.as_dict(), ensure_ascii=False, indent=1)
    with replacing(path) as temporary:
        temporary.write_text(text + "\n", "utf8")
