"""Files through the indexer into every store and answers out of it; a disk that runs full."""

import hashlib
import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polyrank import Embedder, Reranker
from polyrank.errors import StoreFullError
from polyrank.inference import reranker as reading
from polyrank.pipeline import Answer, Indexer, IndexReport, IndexSettings, ModelSettings, Searcher
from polyrank.stores import open_store
from tests.stores import pinecone_wire
from tests.stores.places import PLACES, Place

QUERY = "How long do cats live?"
FILES = {
    "cats-de.txt": "Katzen werden zwölf bis fünfzehn Jahre alt.",
    "dogs.txt": "Dogs bark at night.",
    "猫.txt": "猫の平均寿命は約十五年です。",
}


@dataclass(frozen=True, slots=True)
class SharedModels(ModelSettings):
    """The model that ships, loaded once for all tests."""

    def embedder(self) -> Any:
        return loaded(Embedder)

    def reranker(self) -> Any:
        return loaded(Reranker)


@cache
def loaded(kind: type[Embedder] | type[Reranker]) -> Any:
    return kind(num_threads=1)


MODELS = SharedModels(num_threads=1)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the manifests of stores on servers away from the user's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def url(place: Place, tmp_path: Path) -> str:
    if place.scheme == "pinecone":  # whose indexes are made elsewhere, for vectors of one size
        return f"pinecone://{pinecone_wire.serve(384)}"
    return place.url(tmp_path)


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(text, encoding="utf8")
    return folder


def index(url: str, docs: Path, **settings: Any) -> IndexReport:
    return Indexer(url, models=MODELS, settings=IndexSettings(**settings)).run([docs])


def ask(url: str, query: str = QUERY, **options: Any) -> list[Answer]:
    with Searcher(url, models=MODELS) as searcher:
        return searcher.search(query, **options)


def test_files_go_in_and_out(url: str, docs: Path) -> None:
    first = index(url, docs)
    assert (first.added, first.num_written, first.num_passages) == (3, 3, 3)
    answers = ask(url)
    assert {answer.text for answer in answers} == set(FILES.values())
    assert answers[-1].text == FILES["dogs.txt"]
    for answer in answers:
        assert Path(answer.path).read_text()[answer.start : answer.end] == answer.text
    assert ask(url, "dogs bark", rerank=False)[0].text == FILES["dogs.txt"]
    only: Any = {"path": str(docs / "猫.txt")}
    assert [answer.text for answer in ask(url, filter=only)] == [FILES["猫.txt"]]

    (docs / "dogs.txt").write_text("Cats live for fifteen years or so.")
    (docs / "猫.txt").unlink()
    (docs / "new.txt").write_text("Fish swim.")
    second = index(url, docs)
    counts = (second.added, second.changed, second.unchanged, second.deleted)
    assert (*counts, second.num_written) == (1, 1, 1, 1, 2)
    texts = [answer.text for answer in ask(url)]
    assert texts[0] == "Cats live for fifteen years or so."
    assert set(texts[1:]) == {FILES["cats-de.txt"], "Fish swim."}
    assert index(url, docs).num_written == 0

    for path in docs.iterdir():
        path.unlink()
    assert (index(url, docs).deleted, ask(url)) == (3, [])


def test_rows_are_kept_and_nothing_is_read_again(
    place: Place, url: str, docs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "rows" not in place.capabilities:
        pytest.skip(f"{place.scheme} keeps no rows")
    assert index(url, docs, rows=True).row_bytes > 0
    counts: list[int] = []
    run = reading.run_ranking

    def counting(computation: Any, pairs: Any, progress: Any) -> Any:
        counts.append(len(pairs))
        return run(computation, pairs, progress)

    with monkeypatch.context() as patch:
        patch.setattr(reading, "run_ranking", counting)
        answers = ask(url)
    assert counts == [0]
    ranked = loaded(Reranker).rank(QUERY, [answer.text for answer in answers])
    assert [hit.index for hit in ranked] == [0, 1, 2]
    assert [answer.score for answer in answers] == [hit.score for hit in ranked]
    assert [answer.probability for answer in answers] == [hit.probability for hit in ranked]
    (docs / "dogs.txt").write_text("Cats live for fifteen years or so.")
    assert index(url, docs).row_bytes > 0
    assert ask(url)[0].text == "Cats live for fifteen years or so."


class Hashes:
    """An embedder whose vectors are hashes of texts, and a tokenizer of words."""

    dimensions = 32
    info = type("Info", (), {"name": "hashes"})()

    def encode(self, texts: str | Sequence[str], **options: Any) -> Any:
        if isinstance(texts, str):
            return self.encode([texts], input_type="document")[0]
        if not options:
            return [np.zeros(len(text.split()), np.int32) for text in texts]
        rows = [np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8) for text in texts]
        return np.array(rows, np.float32).reshape(len(texts), 32) - 128


@dataclass(frozen=True, slots=True)
class FakeModels(ModelSettings):
    """Models that are quick."""

    def embedder(self) -> Any:
        return Hashes()

    def tokenizer(self) -> Any:
        return Hashes()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("scheme", ["lancedb", "faiss", "sqlite", "chroma"])
def test_a_disk_that_is_full_while_indexing(scheme: str, small_disk: Path, tmp_path: Path) -> None:
    place = next(place for place in PLACES if place.scheme == scheme)
    pytest.importorskip(place.module)
    docs = tmp_path / "many"
    docs.mkdir()
    random = np.random.default_rng(0)
    for number in range(60):
        words = (random.bytes(500).hex() + " word" * 40 for _ in range(200))
        (docs / f"{number}.txt").write_text(f"File {number}. " + ". ".join(words))
    url = place.url(small_disk)
    indexer = Indexer(url, models=FakeModels(), settings=IndexSettings(64))
    for _ in range(2):  # again on the full disk
        with pytest.raises(StoreFullError, match=r"has no room left.*free some room"):
            indexer.run([docs])
    grow = ["mount", "-o", "remount,size=400m", str(small_disk)]
    subprocess.run(grow, check=True)
    report = indexer.run([docs])
    assert report.failed == ()
    assert report.added + report.unchanged == 60
    clean = f"{scheme}://{tmp_path / 'clean'}"
    whole = Indexer(clean, models=FakeModels(), settings=IndexSettings(64)).run([docs])
    assert report.num_passages == whole.num_passages
    found = []
    for made in (url, clean):
        with open_store(made, dimensions=32, create=False) as store:
            assert store.count() == whole.num_passages
            found.append({name: dict(facts) for name, facts in store.scan()})
            asked = np.arange(32, dtype=np.float32) - 9
            hits = store.query(asked, 5)
            assert len(hits) == 5
            found.append([(hit.id, hit.text, round(hit.score, 5)) for hit in hits])
    assert found[:2] == found[2:]
