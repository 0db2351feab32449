"""Data to calibrate on: evaluation sets in BEIR form, or rows of query, document and label.

A folder with corpus, queries and qrels: candidates of each judged query are found, and labelled
by the qrels; a query whose judgements are all 0 has no answer. A file or folder of JSON lines
``{"query", "passage", "label"}``: each row as it is, with its "lang" where it has one.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from polyrank.errors import ConfigError, DataError
from polyrank.evaluation.beir import CORPUS_FILES, load_dataset
from polyrank.evaluation.dataset import Dataset
from polyrank.evaluation.rows import JsonRow, at_line, read_lines

TEXT_KEYS = ("passage", "document", "text")
_YES, _NO = ("relevant", "1", "true", "yes"), ("irrelevant", "neutral", "0", "false", "no")


@dataclass(frozen=True, slots=True)
class QueryPool:
    """Queries of one source in one language with the documents to search for them.

    Attributes:
        source: Name of the data.
        language: Of queries and documents, "" where the data name none.
        documents: Texts.
        doc_ids: Id of each.
        queries: Texts.
        query_ids: Id of each.
        answers: Positions of the documents that answer each query.
    """

    source: str
    language: str
    documents: tuple[str, ...]
    doc_ids: tuple[str, ...]
    queries: tuple[str, ...]
    query_ids: tuple[str, ...]
    answers: tuple[frozenset[int], ...]


@dataclass(frozen=True, slots=True)
class LabelledRow:
    """A query and a document that somebody labelled.

    Attributes:
        source: Name of the data.
        language: "" where the row names none.
        query: The query.
        document: The document.
        label: As it stands there: a text, a number, true or false.
        where: File and line, for messages.
    """

    source: str
    language: str
    query: str
    document: str
    label: Any
    where: str


def is_beir(path: Path) -> bool:
    """Return whether a path is an evaluation set in BEIR form."""
    return path.is_dir() and any((path / name).is_file() for name in CORPUS_FILES)


def read_pools(
    path: Path, languages: Collection[str], max_queries: int | None, seed: int
) -> list[QueryPool]:
    """Return the judged queries of an evaluation set by language.

    Args:
        path: Its folder.
        languages: Languages to keep; none keeps all.
        max_queries: Queries of a language, at most; None keeps all.
        seed: Of the choice.

    Returns:
        One pool for each language that queries and documents have in common.

    Raises:
        DataError: If the set cannot be read, or no query is judged.
        ConfigError: If a language does not occur.
    """
    dataset = load_dataset(path)
    known = sorted(set(dataset.query_languages) & set(dataset.document_languages)) or [""]
    check_languages(languages, known, dataset.name)
    kept = [each for each in known if not languages or each in languages]
    pools = [_pool(dataset, language, max_queries, seed) for language in kept]
    pools = [pool for pool in pools if pool.queries]
    if not pools:
        raise DataError(f"{path}: no query has a judged document in its own language.")
    return pools


def check_languages(languages: Collection[str], known: Collection[str], name: str) -> None:
    """Raise `ConfigError` if a language that was asked for does not occur."""
    if absent := sorted(set(languages) - set(known)):
        has = ", ".join(sorted(filter(None, known))) or "no named language"
        raise ConfigError(
            f"{name} has nothing in {', '.join(absent)}. It has {has}. A language that is not in "
            "the data is not fitted: its texts get the offsets of their script and length alone."
        )


def _pool(dataset: Dataset, language: str, max_queries: int | None, seed: int) -> QueryPool:
    documents = [doc for doc in dataset.documents if not language or doc.language == language]
    places = {doc.doc_id: i for i, doc in enumerate(documents)}
    judged = [
        query
        for query in dataset.queries
        if (not language or query.language == language)
        and not places.keys().isdisjoint(dataset.qrels.get(query.query_id, ()))
    ]
    if max_queries is not None and max_queries < len(judged):
        picked = np.random.default_rng(seed).choice(len(judged), max_queries, replace=False)
        judged = [judged[i] for i in np.sort(picked)]
    answers = tuple(
        frozenset(
            places[doc_id]
            for doc_id, grade in dataset.qrels[query.query_id].items()
            if grade > 0 and doc_id in places
        )
        for query in judged
    )
    return QueryPool(
        dataset.name,
        language,
        tuple(doc.content() for doc in documents),
        tuple(places),
        tuple(query.text for query in judged),
        tuple(query.query_id for query in judged),
        answers,
    )


def read_labelled_rows(path: Path, languages: Collection[str]) -> list[LabelledRow]:
    """Return labelled rows of a file, or of the files of a folder.

    Args:
        path: File or folder.
        languages: Languages to keep; none keeps all.

    Returns:
        The rows in order.

    Raises:
        DataError: If there are none, or one cannot be read.
        ConfigError: If a language does not occur.
    """
    if not path.exists():
        raise DataError(f"there is nothing at {path}. Name data with --data.")
    files = sorted([*path.glob("*.jsonl"), *path.glob("*.jsonl.gz")]) if path.is_dir() else [path]
    rows = [
        _row(JsonRow(file, number, line), path)
        for file in files
        for number, line in read_lines(file)
    ]
    if not rows:
        raise DataError(
            f"{path} holds no labelled rows. Give JSON lines of query, passage and label, or a "
            "folder with corpus, queries and qrels."
        )
    check_languages(languages, {row.language for row in rows}, str(path))
    return [row for row in rows if not languages or row.language in languages]


def _row(row: JsonRow, source: Path) -> LabelledRow:
    key = next((name for name in TEXT_KEYS if name in row.content), TEXT_KEYS[0])
    needed = '"query", "passage" (or "document", "text") and "label"'
    query, document = row.text("query", needed=needed), row.text(key, needed=needed)
    if row.content.get("label") is None:
        raise row.error('it has no "label"', f"Rows need {needed}.")
    name = source.name.split(".")[0]
    where = f"{row.path}, line {row.number}"
    return LabelledRow(name, row.text("lang", ""), query, document, row.content["label"], where)


def is_relevant(row: LabelledRow) -> bool:
    """Return whether a row's label says that the document answers.

    Args:
        row: The row.

    Returns:
        True for 1 and above, true, "relevant"; False for 0, false, "neutral", "irrelevant".

    Raises:
        DataError: If the label is something else.
    """
    label = row.label
    if isinstance(label, bool | int | float):
        return label > 0
    word = str(label).casefold()
    if word not in (*_YES, *_NO):
        raise DataError(
            f"{row.where}: the label {label!r:.80} is neither {' nor '.join(_YES[:2])} nor "
            f"{' nor '.join(_NO[:3])}. For other labels: --task classify"
        )
    return word in _YES


def read_run(path: Path) -> dict[str, list[str]]:
    """Return the documents of each query of a run, best first, from TREC's six columns.

    Args:
        path: Lines of query id, "Q0", document id, rank, score and name.

    Returns:
        Document ids by query id.

    Raises:
        DataError: If a line has other columns.
    """
    scored: dict[str, list[tuple[float, str]]] = {}
    for number, line in read_lines(path):
        fields = line.split()
        try:
            query_id, _, doc_id, _, score, _ = fields
            scored.setdefault(query_id, []).append((float(score), doc_id))
        except ValueError as exc:
            raise at_line(
                path,
                number,
                f"{len(fields)} fields, {fields!r:.200}",
                "A line of a run is query-id, Q0, doc-id, rank, score and a name.",
            ) from exc
    return {
        query_id: [doc_id for _, doc_id in sorted(found, key=lambda hit: -hit[0])]
        for query_id, found in scored.items()
    }


def candidates_of_run(
    pool: QueryPool, run: dict[str, list[str]], top_k: int
) -> Sequence[list[int]]:
    """Return the positions of the documents that a run has for each query of a pool."""
    places = {doc_id: i for i, doc_id in enumerate(pool.doc_ids)}
    return [
        [places[doc_id] for doc_id in run.get(query_id, []) if doc_id in places][:top_k]
        for query_id in pool.query_ids
    ]
