"""Questions to a store that was indexed: filters, words, places, what is refused."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polyrank.errors import StoreError, StoreMismatchError
from polyrank.pipeline import Indexer, IndexSettings, Searcher, search
from polyrank.pipeline.words import WordIndex
from polyrank.stores.base import Entry
from tests.unit.pipeline.samples import FakeModels


@pytest.fixture
def url(tmp_path: Path) -> str:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "a.md").write_text("# Cats\n\nCats live long.\n\n# Dogs\n\nDogs bark.\n")
    (docs / "b.jsonl").write_text('{"text": "Cats purr.", "kind": "x"}\n{"text": "Fish."}\n')
    made = f"sqlite://{tmp_path}/index.db"
    settings = IndexSettings(16, ("kind",))
    Indexer(made, models=FakeModels(), settings=settings).run([docs])
    return made


@pytest.fixture
def searcher(url: str) -> Iterator[Searcher]:
    with Searcher(url, models=FakeModels()) as made:
        yield made


def test_answers_lie_where_they_say(searcher: Searcher) -> None:
    answers = searcher.search("purr", rerank=False)
    assert answers[0].text == "Cats purr."
    for answer in answers:
        if answer.path.endswith("a.md"):
            text = Path(answer.path).read_text()
            assert text[answer.start : answer.end] == answer.text
    assert len(searcher.search("cats", top_k=2, candidates=1, rerank=False)) == 2


def test_filters(searcher: Searcher) -> None:
    kept: Any = {"kind": "x"}
    assert [each.row for each in searcher.search("fish", filter=kept, rerank=False)] == [1]
    row: Any = {"row": 2}
    assert [each.text for each in searcher.search("cats", filter=row, rerank=False)] == ["Fish."]
    nothing: Any = {"kind": "none"}
    assert searcher.search("cats", filter=nothing) == []


def test_what_cannot_be_searched(url: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="Fill it first: polyrank index FOLDER --store"):
        search("cats", f"sqlite://{tmp_path}/other.db")
    with pytest.raises(StoreMismatchError, match="filled by hashes"):
        Searcher(url, models=FakeModels(seed="other"))


def test_words_beside_a_store_in_any_script(tmp_path: Path) -> None:
    vector = np.zeros(1, np.float32)
    texts = {"de": "Straßen und Häuser", "ja": "猫の寿命は十五年です", "hi": "बिल्लियाँ दूध पीती हैं"}
    words = WordIndex(tmp_path / "words.db", "faiss://x")
    words.add([Entry(name, text, vector, {"l": name}) for name, text in texts.items()])
    asked = {"de": "STRASSEN", "ja": "寿命", "hi": "बिल्लियाँ"}
    for name, query in asked.items():
        assert [hit.id for hit in words.query_text(query, 5)] == [name]
    assert words.query_text("寿命", 5, filter={"l": "de"}) == []
    assert words.query_text("?!", 5) == []
    words.add([Entry("ja", "犬", vector)])
    assert words.query_text("寿命", 5) == []
    words.delete(["de", "none"])
    assert words.query_text("STRASSEN", 5) == []
    words.close()
