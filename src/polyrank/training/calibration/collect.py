"""Queries with labelled documents, scored by a model: what a calibration is fitted to."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from polyrank._extras import require
from polyrank.checkpoint.reader import read_checkpoint
from polyrank.evaluation.retrievers import EmbeddingRetriever, Retriever
from polyrank.inference.embedder import Embedder
from polyrank.inference.model import load_tokenizer
from polyrank.inference.probabilities import document_lengths, features_of
from polyrank.inference.reranker import Reranker
from polyrank.progress import StepProgress
from polyrank.text.tokenizer import Tokenizer
from polyrank.training.calibration.data import (
    LabelledRow,
    QueryPool,
    candidates_of_run,
    is_beir,
    is_relevant,
    read_labelled_rows,
    read_pools,
    read_run,
)
from polyrank.training.calibration.fit import ScoredQuery
from polyrank.training.calibration.job import CalibrateJob

_QUESTIONS_PER_CALL = 20


def collect(
    job: CalibrateJob, folder: Path, reranker: Reranker, progress: StepProgress
) -> list[ScoredQuery]:
    """Return the labelled documents of each query, scored.

    Args:
        job: Which data, and how many candidates.
        folder: The model's.
        reranker: The model.
        progress: Called with the steps "documents" and "pairs".

    Returns:
        Queries in the order of the data; those without candidates are left out.

    Raises:
        DataError: As `calibrate`.
        ConfigError: As `calibrate`.
    """
    tokenizer = load_tokenizer(read_checkpoint(folder))
    # read whole before any work, so that a broken last file costs nothing
    pools = [
        pool
        for path in job.data
        if is_beir(path)
        for pool in read_pools(path, job.languages, job.max_queries, job.seed)
    ]
    rows = [
        row
        for path in job.data
        if not is_beir(path)
        for row in read_labelled_rows(path, job.languages)
    ]
    run = None if job.run is None else read_run(job.run)
    labels = [is_relevant(row) for row in rows]
    lists = [*_of_rows(rows, labels)]
    retriever = _retriever(job, folder) if pools and run is None else None
    for number, pool in enumerate(pools):
        progress("documents", number, len(pools), f"{pool.source} {pool.language}")
        found = (
            _search(pool, retriever, job.top_k)
            if retriever is not None
            else candidates_of_run(pool, run or {}, job.top_k)
        )
        lists += [*_of_pool(pool, found)]
    return [*_score(lists, reranker, tokenizer, progress)]


@dataclass(frozen=True, slots=True)
class _List:
    source: str
    language: str
    query: str
    documents: tuple[str, ...]
    is_relevant: tuple[bool, ...]


def _of_rows(rows: Sequence[LabelledRow], labels: Sequence[bool]) -> Iterator[_List]:
    found: dict[tuple[str, str, str], list[int]] = {}
    for i, row in enumerate(rows):
        found.setdefault((row.source, row.language, row.query), []).append(i)
    for key, places in found.items():
        yield _List(
            *key,
            tuple(rows[i].document for i in places),
            tuple(labels[i] for i in places),
        )


def _of_pool(pool: QueryPool, found: Sequence[Sequence[int]]) -> Iterator[_List]:
    for query, answers, places in zip(pool.queries, pool.answers, found, strict=True):
        if len(places):
            yield _List(
                pool.source,
                pool.language,
                query,
                tuple(pool.documents[i] for i in places),
                tuple(i in answers for i in places),
            )


def _retriever(job: CalibrateJob, folder: Path) -> Retriever[Any, Any]:
    if "embed" in read_checkpoint(folder).spec.heads:
        embedder = Embedder(folder, num_threads=job.num_threads, compute_dtype=job.compute_dtype)
        return EmbeddingRetriever(embedder)
    require("eval", purpose="Finding candidates by BM25, for a model that makes no vectors,")
    from polyrank.evaluation.bm25 import Bm25Retriever

    return Bm25Retriever()


def _search(pool: QueryPool, retriever: Retriever[Any, Any], top_k: int) -> list[list[int]]:
    def advance(count: int) -> None:
        del count

    index = retriever.index_documents(pool.documents, advance)
    queries = retriever.read_queries(pool.queries, advance)
    hits = retriever.search(queries, np.arange(len(pool.queries)), index, top_k)
    return [each.doc_indices.tolist() for each in hits]


def _score(
    lists: Sequence[_List], reranker: Reranker, tokenizer: Tokenizer, progress: StepProgress
) -> Iterator[ScoredQuery]:
    done, total = 0, sum(len(each.documents) for each in lists)
    for start in range(0, len(lists), _QUESTIONS_PER_CALL):
        part = lists[start : start + _QUESTIONS_PER_CALL]
        progress("pairs", done, total)
        pairs = [(each.query, text) for each in part for text in each.documents]
        logits = reranker.score(pairs, logits=True).astype(np.float64)
        lengths = document_lengths(tokenizer, [text for _, text in pairs])
        end = 0
        for each in part:
            own = slice(end, end := end + len(each.documents))
            yield ScoredQuery(
                each.source,
                each.language,
                features_of(tokenizer, each.query),
                logits[own],
                np.array(each.is_relevant, bool),
                lengths[own],
            )
        done += len(pairs)
    progress("pairs", total, total)
