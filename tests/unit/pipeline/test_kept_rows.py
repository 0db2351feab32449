"""Rows of late interaction beside the vectors: the same answers, and no passage read twice."""

import json
from pathlib import Path
from typing import Any

import pytest

from polyrank.errors import CapabilityError, ConfigError, InputError
from polyrank.inference import reranker as reading
from polyrank.pipeline import Answer, Indexer, IndexSettings, ModelSettings, Searcher
from polyrank.stores import open_store
from tests import checkpoints

CATS = Path(__file__).resolve().parents[3] / "examples" / "cats.jsonl"
QUERY = "How long do cats live?"
MODELS = ModelSettings(num_threads=1)


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    texts = [json.loads(line)["text"] for line in CATS.read_text(encoding="utf8").splitlines()]
    for number, text in enumerate(texts[:8]):
        (folder / f"{number}.md").write_text(f"# Cats\n\n{text}\n", encoding="utf8")
    (folder / "long.txt").write_text("Cats live for fifteen years. " * 200, encoding="utf8")
    return folder


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return how many pairs each ranking has read."""
    counts: list[int] = []
    run = reading.run_ranking

    def counting(computation: Any, pairs: Any, progress: Any) -> Any:
        counts.append(len(pairs))
        return run(computation, pairs, progress)

    monkeypatch.setattr(reading, "run_ranking", counting)
    return counts


def indexed(url: str, docs: Path, **settings: Any) -> Any:
    given = IndexSettings(**settings)
    return Indexer(url, models=MODELS, settings=given).run([docs])


def asked(url: str, query: str = QUERY) -> list[Answer]:
    with Searcher(url, models=MODELS) as searcher:
        return searcher.search(query, top_k=50)


def test_answers_are_those_of_reading(docs: Path, tmp_path: Path, read: list[int]) -> None:
    plain, kept = f"sqlite://{tmp_path}/plain.db", f"sqlite://{tmp_path}/kept.db"
    assert indexed(plain, docs).row_bytes == 0
    report = indexed(kept, docs, rows=True)
    with open_store(kept, dimensions=384, row_dimensions=384) as store:
        names = [name for name, _ in store.scan()]
        rows = store.get_rows(names)
        assert rows.keys() == set(names)
        assert report.row_bytes == sum(own.nbytes for own in rows.values())
    for query in (QUERY, "Wie lange leben Katzen?", "zzz"):
        read.clear()
        found = asked(kept, query)
        assert read == [0]
        assert found == asked(plain, query)
        assert len(found) == report.num_passages
    # what is changed has its new rows, and the store is as it was begun
    (docs / "0.md").write_text("# Dogs\n\nDogs bark.\n")
    assert indexed(kept, docs).row_bytes > 0
    indexed(plain, docs)
    assert asked(kept, "Do dogs bark?") == asked(plain, "Do dogs bark?")


def test_a_passage_longer_than_the_window_is_read(
    docs: Path, tmp_path: Path, read: list[int]
) -> None:
    plain, kept = f"sqlite://{tmp_path}/plain.db", f"sqlite://{tmp_path}/kept.db"
    indexed(plain, docs, passage_tokens=4_000)
    indexed(kept, docs, passage_tokens=4_000, rows=True)
    found = asked(kept)
    assert read == [1]
    assert found == asked(plain)


def test_rows_of_another_model_are_not_compared(
    docs: Path, tmp_path: Path, read: list[int]
) -> None:
    url = f"sqlite://{tmp_path}/kept.db"
    indexed(url, docs, rows=True)
    other = str(checkpoints.make("bge-reranker-base", tmp_path / "models"))
    with Searcher(url, models=MODELS, reranker=other) as searcher:
        answers = searcher.search(QUERY, top_k=3)
    assert len(answers) == 3
    assert read[0] > 3


def test_a_store_stays_as_it_was_begun(docs: Path, tmp_path: Path) -> None:
    plain, kept = f"sqlite://{tmp_path}/plain.db", f"sqlite://{tmp_path}/kept.db"
    indexed(plain, docs)
    with pytest.raises(ConfigError, match=r"begun without rows.*index into a new store"):
        indexed(plain, docs, rows=True)
    indexed(plain, docs, rows=False)
    indexed(kept, docs, rows=True)
    with pytest.raises(ConfigError, match="begun with rows"):
        indexed(kept, docs, rows=False)


def test_rows_that_are_not_one_a_document() -> None:
    reranker = reading.Reranker(num_threads=1)
    with pytest.raises(InputError, match=r"1 entries of rows were given for 2 documents"):
        reranker.rank_rows("a", ["b", "c"], [None])
    assert reranker.rank_rows("a", [], []) == []
    assert reranker.rank_rows("a", ["b", "c"], [None, None]) == reranker.rank("a", ["b", "c"])


def test_a_model_without_rows(tmp_path: Path, docs: Path) -> None:
    models = ModelSettings(
        str(checkpoints.make("multilingual-e5-small", tmp_path / "models")), num_threads=1
    )
    settings = IndexSettings(rows=True)
    with pytest.raises(CapabilityError, match="does not compare texts token by token"):
        Indexer(f"sqlite://{tmp_path}/a.db", models=models, settings=settings).run([docs])
