"""The quality gate of ranking: float32 and int8 of one checkpoint, side by side on a set.

Both see the same texts once; what is compared is how well they find (nDCG@10), how alike they
order and score, and how close their vectors lie.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyrank.compress.gate.record import MEASURE as MEASURE
from polyrank.compress.gate.record import Figures, LanguageFigures, TaskFigures
from polyrank.config import EngineConfig, TruncationConfig
from polyrank.errors import CapabilityError
from polyrank.evaluation.dataset import Dataset
from polyrank.evaluation.plan import EvaluationConfig
from polyrank.evaluation.results import GroupResult, Report, StageFigures
from polyrank.evaluation.retrievers import Advance, Candidates, EmbeddingRetriever, Retriever
from polyrank.evaluation.run import evaluate
from polyrank.inference.computations import Window
from polyrank.inference.embedder import Embedder
from polyrank.inference.model import Model, load_model
from polyrank.inference.pair_runs import in_order, run_pairs
from polyrank.progress import StepProgress
from polyrank.types import Float32Array, TaskName

LANGUAGE_FACTOR = 5  # one language may lose this much more than the mean over all

Twin = tuple[Float32Array, Float32Array]
"""What float32 gave and what int8 gave."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A folder and how it is run.

    Attributes:
        folder: Folder of the checkpoint.
        config: Engine settings, among them the compute dtype.
        max_length: Tokens that are read; None takes the checkpoint's limit.
    """

    folder: str
    config: EngineConfig
    max_length: int | None = None

    def model(self) -> Model:
        """Load the checkpoint."""
        return load_model(self.folder, self.config)

    def embedder(self) -> Embedder:
        """Load the checkpoint as an embedder."""
        return Embedder(
            self.folder,
            max_length=self.max_length,
            encoder=self.config.encoder,
            num_threads=self.config.num_threads,
            max_batch_tokens=self.config.max_batch_tokens,
            compute_dtype=self.config.compute_dtype,
            long_texts="truncate",
        )


@dataclass(slots=True)
class Agreement:
    """How alike two compute dtypes are, gathered as an evaluation goes on."""

    cosines: list[Float32Array] = field(default_factory=list)
    correlations: list[float] = field(default_factory=list)
    largest_change: float = 0.0

    def add_rows(self, rows: Twin) -> None:
        """Compare two arrays of rows, shape (num_rows, width)."""
        exact, int8 = (values.astype(np.float64) for values in rows)
        norms = np.linalg.norm(exact, axis=1) * np.linalg.norm(int8, axis=1)
        products = np.einsum("nd,nd->n", exact, int8)
        cosines = np.divide(products, norms, out=np.ones_like(norms), where=norms > 0)
        self.cosines.append(cosines.astype(np.float32))

    def add_change(self, values: Twin) -> None:
        """Note the largest change of a value, of two arrays of any shape."""
        exact, int8 = values
        if exact.size:
            self.largest_change = max(self.largest_change, float(np.abs(exact - int8).max()))

    def add_scores(self, scores: Twin) -> None:
        """Compare the scores of one query's documents, shape (num_documents,)."""
        exact, int8 = scores
        self.add_change(scores)
        if len(np.unique(exact)) > 1:
            self.correlations.append(rank_correlation(exact, int8))


def rank_correlation(first: NDArray[Any], second: NDArray[Any]) -> float:
    """Return Spearman's rank correlation, equal values sharing their mean rank.

    Args:
        first: Values, at least two different ones, shape (num_values,).
        second: As many values.

    Returns:
        -1 to 1; 0 where all of `second` are equal.

    Reference: Spearman, American Journal of Psychology 15 (1904).
    """
    ranks = [_ranks(values) - (len(values) - 1) / 2 for values in (first, second)]
    size = float(np.sqrt((ranks[0] ** 2).sum() * (ranks[1] ** 2).sum()))
    return float((ranks[0] * ranks[1]).sum() / size) if size else 0.0


def _ranks(values: NDArray[Any]) -> NDArray[np.float64]:
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts + 1) / 2)[places.reshape(-1)]


class TwinEmbedders:
    """A first stage that encodes with two embedders and searches with one of them."""

    def __init__(self, exact: Embedder, int8: Embedder, agreement: Agreement) -> None:
        self._stages = (EmbeddingRetriever(exact), EmbeddingRetriever(int8))
        self._agreement = agreement
        self._done: dict[tuple[str, tuple[str, ...]], Twin] = {}
        self.is_int8 = False

    def index_documents(self, documents: Sequence[str], advance: Advance) -> Twin:
        """Return the documents' vectors of both."""
        first, second = self._stages
        encode = (first.index_documents, second.index_documents)
        return self._twin("documents", documents, encode, advance)

    def read_queries(self, queries: Sequence[str], advance: Advance) -> Twin:
        """Return the queries' vectors of both."""
        first, second = self._stages
        return self._twin("queries", queries, (first.read_queries, second.read_queries), advance)

    def search(
        self, queries: Twin, rows: NDArray[np.intp], index: Twin, top_k: int
    ) -> list[Candidates]:
        """Return what the chosen embedder finds; compare scores when that is the exact one."""
        which = int(self.is_int8)
        found = self._stages[which].search(queries[which], rows, index[which], top_k)
        if not self.is_int8:
            for row, candidates in zip(rows, found, strict=True):
                int8 = index[1][candidates.doc_indices] @ queries[1][row]
                self._agreement.add_scores((candidates.scores, int8))
        return found

    def _twin(
        self,
        kind: str,
        texts: Sequence[str],
        encode: tuple[Callable[[Sequence[str], Advance], Float32Array], ...],
        advance: Advance,
    ) -> Twin:
        key = (kind, tuple(texts))
        if key not in self._done:
            rows = (encode[0](texts, lambda count: None), encode[1](texts, advance))
            self._agreement.add_rows(rows)
            self._done[key] = rows
        return self._done[key]


class TwinRerankers:
    """A reranker that scores with two cross-encoders and hands on what one of them says."""

    def __init__(self, exact: Contender, int8: Contender, agreement: Agreement) -> None:
        self._runs = (PairRun(exact, "rerank"), PairRun(int8, "rerank"))
        self.agreement = agreement
        self._done: dict[tuple[tuple[str, str], ...], Twin] = {}
        self.is_int8 = False

    def score(self, pairs: Sequence[tuple[str, str]]) -> Float32Array:
        """Return the logit of each pair, shape (num_pairs,)."""
        key = tuple(pairs)
        if key not in self._done:
            self._done[key] = self._compare(key)
        return self._done[key][int(self.is_int8)]

    def _compare(self, pairs: tuple[tuple[str, str], ...]) -> Twin:
        (rows, logits, scores), (other_rows, other_logits, other_scores) = (
            run(pairs) for run in self._runs
        )
        scores, other_scores = scores[:, 0], other_scores[:, 0]
        self.agreement.add_rows((rows, other_rows))
        start = 0
        for _, members in groupby(pairs, key=lambda pair: pair[0]):
            end = start + len(list(members))
            self.agreement.add_scores((scores[start:end], other_scores[start:end]))
            start = end
        return logits[:, 0], other_logits[:, 0]


class PairRun:
    """Vectors, logits and scores of pairs by one checkpoint.

    Args:
        contender: The checkpoint.
        task: Which of its heads.
    """

    def __init__(self, contender: Contender, task: TaskName) -> None:
        model = contender.model()
        window, computations = Window(TruncationConfig(contender.max_length)), model.computations
        computation = (
            computations.ranking(window) if task == "rerank" else computations.pairs(task, window)
        )
        self._engine, self._scorer = computation.engine, computation.scorer
        self._model = model  # models are shared by weak references

    def __call__(
        self, pairs: Sequence[tuple[str, str]]
    ) -> tuple[Float32Array, Float32Array, Float32Array]:
        """Return vectors, shape (num_pairs, width), logits and scores, (num_pairs, outputs).

        The vectors are pooled rows: of the pairs, or of texts that are read apart.
        """
        scorer, vectors, found = self._scorer, [], []
        for which, part, rows in run_pairs(self._engine, scorer, scorer.prepare(pairs)):
            vectors.append((which, scorer.vectors(part, rows)))
            found.append((which, scorer.logits(part, rows)))
        logits = in_order(found)
        return in_order(vectors), logits, scorer.activate(logits, None)


def measure_tasks(
    exact: Contender,
    int8: Contender,
    dataset: Dataset,
    config: EvaluationConfig,
    *,
    retriever: Retriever[Any, Any],
    retriever_name: str,
    progress: StepProgress | None = None,
) -> tuple[TaskFigures, ...]:
    """Measure int8 against float32 in every task of a checkpoint that ranks.

    Args:
        exact: The checkpoint with float32 products.
        int8: The same with int8 products.
        dataset: The evaluation set.
        config: Languages, queries and depth of the evaluation.
        retriever: What searches the corpus for cross-encoders.
        retriever_name: What to call it.
        progress: Called as work goes on.

    Returns:
        Figures of "embed", "rerank" or both.

    Raises:
        CapabilityError: If the checkpoint neither embeds nor reranks.
        ConfigError: If the settings leave nothing to measure.
    """
    heads = exact.model().spec.heads
    figures: list[TaskFigures] = []
    if "embed" in heads:
        figures.append(_measure_embedders(exact, int8, dataset, config, progress))
    if "rerank" in heads:
        twins = TwinRerankers(exact, int8, Agreement())
        reports = _evaluate_both(dataset, retriever, twins, config, progress)
        figures.append(_figures("rerank", retriever_name, reports, twins.agreement))
    if not figures:
        raise CapabilityError(
            f"{dataset.name} holds queries and documents to rank; this checkpoint makes no "
            "vectors and scores no pairs. Give --data a folder of labelled pairs."
        )
    return tuple(figures)


def _evaluate_both(
    dataset: Dataset,
    retriever: Retriever[Any, Any],
    twins: TwinRerankers,
    config: EvaluationConfig,
    progress: StepProgress | None,
) -> list[Report]:
    reports = [
        evaluate(dataset, retriever=retriever, reranker=twins, config=config, progress=progress)
    ]
    twins.is_int8 = True
    reports.append(evaluate(dataset, retriever=retriever, reranker=twins, config=config))
    return reports


def _measure_embedders(
    exact: Contender,
    int8: Contender,
    dataset: Dataset,
    config: EvaluationConfig,
    progress: StepProgress | None,
) -> TaskFigures:
    agreement = Agreement()
    twins = TwinEmbedders(exact.embedder(), int8.embedder(), agreement)
    reports = [evaluate(dataset, retriever=twins, config=config, progress=progress)]
    twins.is_int8 = True
    reports.append(evaluate(dataset, retriever=twins, config=config))
    return _figures("embed", "its own vectors", reports, agreement)


def _figures(
    task: Any, first_stage: str, reports: list[Report], agreement: Agreement
) -> TaskFigures:
    languages = {
        exact.label: LanguageFigures(
            len(exact.query_ids), _mean(_last_stage(exact)), _mean(_last_stage(int8))
        )
        for exact, int8 in zip(reports[0].groups, reports[1].groups, strict=True)
    }
    cosines = np.concatenate(agreement.cosines)
    correlations = agreement.correlations or [1.0]
    return TaskFigures(
        task=task,
        first_stage=first_stage,
        top_k=reports[0].config.top_k,
        languages=languages,
        ndcg_float32=float(np.mean([figures.float32 for figures in languages.values()])),
        ndcg_int8=float(np.mean([figures.int8 for figures in languages.values()])),
        rank_correlation=float(np.mean(correlations)),
        rank_correlation_lowest=float(np.min(correlations)),
        largest_score_change=agreement.largest_change,
        cosine_mean=float(cosines.mean(dtype=np.float64)),
        cosine_lowest=float(cosines.min()),
        num_rows=len(cosines),
    )


def _last_stage(group: GroupResult) -> StageFigures:
    return group.first_stage if group.reranked is None else group.reranked


def _mean(figures: StageFigures) -> float:
    return float(figures.per_query[MEASURE].mean())


def objections(tasks: Sequence[Figures], tolerance: float) -> tuple[str, ...]:
    """Return what speaks against int8; empty where it passes.

    Args:
        tasks: What was measured.
        tolerance: How much a measure may fall, mean over the languages; one language may fall
            five times as much, since a few queries decide over it.

    Returns:
        One sentence for each figure beyond its limit.
    """
    found: list[str] = []
    limit = LANGUAGE_FACTOR * tolerance
    for task, shown in [
        (figures.task, shown) for figures in tasks for shown in figures.comparisons
    ]:
        if shown.change < -tolerance:
            found.append(
                f"{task}: mean {shown.measure} falls from {shown.float32:.4f} to "
                f"{shown.int8:.4f}, by more than {tolerance:g}"
            )
        found += [
            f"{task}: {shown.measure} of {label} falls from {exact:.4f} to {int8:.4f}, "
            f"by more than {limit:g}"
            for label, (exact, int8) in shown.languages.items()
            if int8 - exact < -limit
        ]
    return tuple(found)
