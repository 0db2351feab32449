"""Reading of training data, by what a folder holds or the first row of a file has.

| layout | what it is |
|---|---|
| beir | a folder with corpus, queries and qrels |
| lists | JSONL rows ``{"query", "positives", "negatives", "neutrals"}`` |
| qa | ``NAME.jsonl`` with ``NAME.passages.jsonl``: questions, their passages, groups |
| docs | ``NAME.LANGUAGE.jsonl``: sections with the same id in every language |
| parallel | JSONL rows ``{"src", "tgt", "lang"}``: translations |

Files may end in ``.jsonl`` or ``.jsonl.gz``. A folder of qa, docs or parallel files gives one
source for each name.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from polyrank.errors import DataError
from polyrank.evaluation.beir import CORPUS_FILES, QRELS_FILES, QUERIES_FILES, load_dataset
from polyrank.training.config import DataSource
from polyrank.training.data.rows import Row, hash_files, read_rows
from polyrank.training.data.source import UNNAMED, Example, SourcePassage, TrainingSource

_ROWS_FILE = re.compile(r"(?P<name>.+)\.jsonl(\.gz)?")
_PASSAGES = ".passages"
_PIVOT = "en"  # language of "src" in parallel files


def read_mixture(data: Sequence[DataSource]) -> list[TrainingSource]:
    """Read all training data.

    Args:
        data: Files and folders. Where any has a weight, those without count 1.

    Returns:
        The sources, in that order.

    Raises:
        DataError: As `read_sources`.
    """
    if any(source.weight is not None for source in data):
        data = [DataSource(source.path, source.weight or 1.0) for source in data]
    return [found for source in data for found in read_sources(source)]


def read_sources(data: DataSource) -> list[TrainingSource]:
    """Read what a path names.

    Args:
        data: File or folder, with its weight, which the sources of a folder share by their
            numbers of examples.

    Returns:
        One source or more, each with two passages at least and one example at least.

    Raises:
        DataError: If it is none of the layouts, or a row is broken.
    """
    path = data.path
    if path.is_dir():
        sources = _read_folder(path)
    elif path.is_file():
        sources = [_read_file(path)]
    else:
        raise DataError(f"{path} is neither a file nor a folder. Name training data with --data.")
    for source in sources:
        if not source.examples or len(source.passages) < 2:
            raise DataError(
                f"{path}: {source.name} has {len(source.examples)} queries and "
                f"{len(source.passages)} different passages. Training needs a query and two "
                "passages at least, one of them to rank below the other."
            )
    if data.weight is None:
        return sources
    total = sum(len(source.examples) for source in sources)
    return [replace(s, weight=data.weight * len(s.examples) / total) for s in sources]


def _read_folder(folder: Path) -> list[TrainingSource]:
    if any((folder / name).is_file() for name in (*CORPUS_FILES, *QUERIES_FILES)):
        return [_read_beir(folder)]
    names = _row_files(folder)
    if not names:
        raise DataError(
            f"{folder} holds no .jsonl or .jsonl.gz files. Name a BEIR folder (corpus.jsonl, "
            "queries.jsonl, qrels.tsv) or one with training files."
        )
    passages = {name for name in names if name.endswith(_PASSAGES)}
    if passages:
        stems = sorted(name.removesuffix(_PASSAGES) for name in passages)
        return [_read_qa(names, stem, folder) for stem in stems]
    collections: dict[str, dict[str, Path]] = {}
    sources: list[TrainingSource] = []
    for name, path in sorted(names.items()):
        if "page" in _first_row(path).content:
            stem, _, language = name.rpartition(".")
            collections.setdefault(stem or name, {})[language] = path
        else:
            sources.append(_read_file(path))
    return sources + [_read_docs(stem, files) for stem, files in sorted(collections.items())]


def _row_files(folder: Path) -> dict[str, Path]:
    files = sorted(path for path in folder.iterdir() if path.is_file())
    matched = ((_ROWS_FILE.fullmatch(path.name), path) for path in files)
    return {match["name"]: path for match, path in matched if match}


def _read_file(path: Path) -> TrainingSource:
    match = _ROWS_FILE.fullmatch(path.name)
    if match is None:
        raise DataError(f"{path} is not a .jsonl or .jsonl.gz file. Name one, or a folder.")
    name = match["name"]
    keys = _first_row(path).content.keys()
    if {"src", "tgt"} <= keys:
        return _read_parallel(name, path)
    siblings = _row_files(path.parent)
    if "query" in keys and name + _PASSAGES in siblings:
        return _read_qa(siblings, name, path.parent)
    if "page" in keys:
        stem, _, language = name.rpartition(".")
        return _read_docs(stem or name, {language: path})
    if "query" in keys:
        return _read_lists(name, path)
    raise DataError(
        f"{path}: the first row has the keys {sorted(keys)}, which is no known layout. Rows need "
        '"query" with "positives", or "src" with "tgt".'
    )


def _first_row(path: Path) -> Row:
    for row in read_rows(path):
        return row
    raise DataError(f"{path} is empty. Write one JSON object a line.")


def _read_beir(folder: Path) -> TrainingSource:
    dataset = load_dataset(folder)
    positions = {doc.doc_id: i for i, doc in enumerate(dataset.documents)}
    passages = tuple(
        SourcePassage({doc.language or UNNAMED: doc.content()}, "") for doc in dataset.documents
    )
    examples: list[Example] = []
    for query in dataset.queries:
        judged = dataset.qrels.get(query.query_id, {})
        positives = tuple(positions[doc_id] for doc_id, grade in judged.items() if grade > 0)
        negatives = tuple(positions[doc_id] for doc_id, grade in judged.items() if grade <= 0)
        if positives:
            texts = {query.language or UNNAMED: query.text}
            examples.append(Example(texts, positives, negatives=negatives))
    names = (*CORPUS_FILES, *QUERIES_FILES, *QRELS_FILES)
    files = [folder / name for name in names if (folder / name).is_file()]
    return TrainingSource(dataset.name, "beir", passages, tuple(examples), hash_files(files))


class _Passages:
    """Passages by text, each once."""

    def __init__(self) -> None:
        self.positions: dict[tuple[str, str], int] = {}

    def position(self, text: str, language: str) -> int:
        return self.positions.setdefault((language, text), len(self.positions))

    def all(self) -> tuple[SourcePassage, ...]:
        return tuple(SourcePassage({language: text}, "") for language, text in self.positions)


def _read_lists(name: str, path: Path) -> TrainingSource:
    passages = _Passages()
    examples = tuple(_list_example(row, passages) for row in read_rows(path))
    return TrainingSource(name, "lists", passages.all(), examples, hash_files([path]))


def _list_example(row: Row, passages: _Passages) -> Example:
    language = row.text("lang", UNNAMED)
    kinds = [row.texts(key) for key in ("positives", "negatives", "neutrals")]
    if not any(kinds):
        raise row.error("no passages", 'Give "positives", "negatives" or "neutrals".')
    positives, negatives, neutrals = (
        tuple(passages.position(text, language) for text in texts) for texts in kinds
    )
    both = set(positives) & {*negatives, *neutrals}
    if both:
        text = next(text for text in kinds[0] if passages.position(text, language) in both)
        raise row.error(
            f"{text[:60]!r} is among the positives and also among the others",
            "Keep it in one of the lists.",
        )
    places = (*positives, *negatives, *neutrals)
    scores = _scores(row, len(places))
    return Example(
        {language: row.text("query")},
        positives,
        negatives=negatives,
        neutrals=neutrals,
        scores=dict(zip(places, scores, strict=True)) if scores else {},
    )


def _scores(row: Row, count: int) -> list[float]:
    value = row.content.get("scores")
    if value is None:
        return []
    remedy = "Give one number for each positive, then each negative, then each neutral."
    if not isinstance(value, list) or len(value) != count:
        raise row.error(f'"scores" is {value!r}, and the row has {count} passages', remedy)
    for score in value:
        if type(score) not in (int, float) or not abs(score) < float("inf"):
            raise row.error(f'"scores" holds {score!r}', remedy)
    return [float(score) for score in value]


def _read_qa(files: Mapping[str, Path], name: str, folder: Path) -> TrainingSource:
    if name not in files:
        raise DataError(f"{folder} has {name}{_PASSAGES}.jsonl and no {name}.jsonl beside it.")
    passages: dict[str, SourcePassage] = {}
    for row in read_rows(files[name + _PASSAGES]):
        title, text = row.text("title", ""), row.text("text")
        content = f"{title} {text}" if title else text
        passage = SourcePassage({row.text("lang", UNNAMED): content}, row.text("group", ""))
        passages[row.text("id")] = passage
    positions = {passage_id: i for i, passage_id in enumerate(passages)}
    examples = tuple(_question(row, positions) for row in read_rows(files[name]))
    sha256 = hash_files([files[name], files[name + _PASSAGES]])
    return TrainingSource(name, "qa", tuple(passages.values()), examples, sha256)


def _question(row: Row, positions: Mapping[str, int]) -> Example:
    ids = (row.texts("positives"), row.texts("related"))
    unknown = [passage_id for part in ids for passage_id in part if passage_id not in positions]
    if unknown:
        raise row.error(
            f"there is no passage {unknown[0]!r}", "Both files must be of the same version."
        )
    positives, related = (tuple(positions[passage_id] for passage_id in part) for part in ids)
    queries = {row.text("lang", UNNAMED): row.text("query")}
    return Example(queries, positives, row.text("group", ""), neutrals=related)


def _read_docs(name: str, files: Mapping[str, Path]) -> TrainingSource:
    """Sections: the heading asks, the text under it answers, other sections of a page do not."""
    queries: dict[str, dict[str, str]] = {}
    texts: dict[str, dict[str, str]] = {}
    pages: dict[str, str] = {}
    for language, path in sorted(files.items()):
        for row in read_rows(path):
            section, code = row.text("id"), row.text("lang", language)
            texts.setdefault(section, {})[code] = row.text("text")
            pages[section] = row.text("page")
            titles = (row.text("page_title", ""), row.text("title"))
            queries.setdefault(section, {})[code] = ": ".join(filter(None, titles))
    asked = Counter((code, query) for own in queries.values() for code, query in own.items())
    positions = {section: i for i, section in enumerate(texts)}
    examples = []
    for section, own in queries.items():
        # a heading that several sections share asks for none of them
        clear = {code: query for code, query in own.items() if asked[code, query] == 1}
        if clear:
            examples.append(Example(clear, (positions[section],), pages[section]))
    passages = tuple(SourcePassage(versions, pages[section]) for section, versions in texts.items())
    return TrainingSource(name, "docs", passages, tuple(examples), hash_files(list(files.values())))


def _read_parallel(name: str, path: Path) -> TrainingSource:
    versions: dict[str, dict[str, str]] = {}
    for row in read_rows(path):
        source = row.text("src")
        versions.setdefault(source, {_PIVOT: source})[row.text("lang")] = row.text("tgt")
    several = list(_without_repeats(versions))
    passages = tuple(SourcePassage(texts, "") for texts in several)
    examples = tuple(Example(texts, (i,)) for i, texts in enumerate(several))
    return TrainingSource(
        name, "parallel", passages, examples, hash_files([path]), is_translation=True
    )


def _without_repeats(versions: Mapping[str, Mapping[str, str]]) -> Iterator[Mapping[str, str]]:
    """Drop translations that several texts share, and texts without any left."""
    counts = Counter((code, text) for texts in versions.values() for code, text in texts.items())
    for texts in versions.values():
        kept = {code: text for code, text in texts.items() if counts[code, text] == 1}
        if len(set(kept.values())) > 1:
            yield kept
