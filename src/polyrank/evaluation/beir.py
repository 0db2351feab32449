"""Reading of evaluation sets as BEIR lays them out.

A folder holds ``corpus.jsonl`` and ``queries.jsonl`` (either may end in ``.gz``) and
``qrels.tsv``; ``qrels/test.tsv`` and ``qrels/dev.tsv`` are taken where there is no
``qrels.tsv``. Reading checks everything, so that the rest of the room can trust what it gets.

Reference: Thakur et al., NeurIPS 2021, arXiv:2104.08663 (BEIR).
"""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from polyrank.errors import DataError
from polyrank.evaluation.dataset import CorpusDocument, Dataset, Qrels, Query
from polyrank.evaluation.rows import JsonRow, at_line, read_lines

CORPUS_FILES = ("corpus.jsonl", "corpus.jsonl.gz")
QUERIES_FILES = ("queries.jsonl", "queries.jsonl.gz")
QRELS_FILES = ("qrels.tsv", "qrels/test.tsv", "qrels/dev.tsv")
_BEIR_FORM = "corpus.jsonl, queries.jsonl (or .jsonl.gz) and qrels.tsv"


def load_dataset(folder: str | Path) -> Dataset:
    """Read an evaluation set.

    Args:
        folder: A folder in BEIR form.

    Returns:
        The set, in file order.

    Raises:
        DataError: If a file is missing, empty or broken, a row lacks a key, an id occurs twice,
            only some rows of a file name a language, or judgements name ids that do not exist.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder. Name a folder with {_BEIR_FORM}.")
    corpus, queries = _find(folder, CORPUS_FILES), _find(folder, QUERIES_FILES)
    qrels_file = _find(folder, QRELS_FILES)
    documents = _read_rows(corpus, _document)
    asked = _read_rows(queries, _query)
    qrels = _read_qrels(qrels_file, {query.query_id for query in asked}, _ids(documents))
    return Dataset(folder.resolve().name, documents, asked, qrels)


def _ids(documents: tuple[CorpusDocument, ...]) -> set[str]:
    return {doc.doc_id for doc in documents}


def _find(folder: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise DataError(
        f"{folder} has no {' nor '.join(names)}. An evaluation set is a folder with {_BEIR_FORM}."
    )


RowT = TypeVar("RowT", CorpusDocument, Query)


def _document(row: JsonRow) -> tuple[str, CorpusDocument]:
    doc_id, language = row.id(), row.text("lang", "") or None
    return doc_id, CorpusDocument(doc_id, row.text("text"), row.text("title", ""), language)


def _query(row: JsonRow) -> tuple[str, Query]:
    query_id, text, language = row.id(), row.text("text"), row.text("lang", "") or None
    if not text.strip():
        raise row.error(f"the query {query_id!r} has no text", "Fill it in or remove the row.")
    return query_id, Query(query_id, text, language)


def _read_rows(path: Path, parse: Callable[[JsonRow], tuple[str, RowT]]) -> tuple[RowT, ...]:
    rows: dict[str, tuple[int, RowT]] = {}
    for number, line in read_lines(path):
        parsed = JsonRow(path, number, line)
        row_id, row = parse(parsed)
        if row_id in rows:
            raise parsed.error(
                f"the id {row_id!r} occurs twice, first on line {rows[row_id][0]}",
                "Give every row an id of its own.",
            )
        rows[row_id] = (number, row)
    if not rows:
        raise DataError(f"{path} is empty. Write one JSON object a line.")
    _check_languages(path, tuple(rows.values()))
    return tuple(row for _, row in rows.values())


def _check_languages(path: Path, rows: tuple[tuple[int, RowT], ...]) -> None:
    without = [number for number, row in rows if row.language is None]
    if 0 < len(without) < len(rows):
        raise at_line(
            path,
            without[0],
            f'no "lang", and {len(without)} of {len(rows)} rows lack it',
            'Give every row of the file a "lang", or none.',
        )


def _read_qrels(path: Path, query_ids: set[str], doc_ids: set[str]) -> Qrels:
    qrels: dict[str, dict[str, int]] = {}
    unknown: list[tuple[int, str, str]] = []
    for number, line in read_lines(path):
        fields = line.rstrip("\r\n").split("\t")
        if number == 1 and fields[-1].strip().lower() == "score":
            continue
        query_id, doc_id, grade = _judgement(path, number, fields)
        if query_id not in query_ids:
            unknown.append((number, "query", query_id))
        elif doc_id not in doc_ids:
            unknown.append((number, "document", doc_id))
        elif qrels.setdefault(query_id, {}).setdefault(doc_id, grade) != grade:
            raise at_line(
                path,
                number,
                f"query {query_id!r} and document {doc_id!r} were judged "
                f"{qrels[query_id][doc_id]} before and {grade} now",
                "Keep one line for each pair.",
            )
    if unknown:
        number, kind, name = unknown[0]
        raise at_line(
            path,
            number,
            f"there is no {kind} {name!r}, and {len(unknown)} lines in all name an id that does "
            "not exist",
            "Corpus, queries and qrels must come from the same version of the set.",
        )
    if not qrels:
        raise DataError(f"{path} is empty. Write lines of query-id, corpus-id and score.")
    return qrels


def _judgement(path: Path, number: int, fields: list[str]) -> tuple[str, str, int]:
    try:
        query_id, doc_id, grade = fields
        return query_id, doc_id, int(grade)
    except ValueError as exc:
        raise at_line(
            path,
            number,
            f"{len(fields)} fields, {fields!r}",
            "A line is query-id, corpus-id and a whole number as score, separated by tabs.",
        ) from exc
