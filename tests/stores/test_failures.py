"""Stores that are held, missing or full: errors of our tree that say what to do."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from polyrank.errors import ConfigError, StoreError, StoreFullError, StoreUnavailableError
from polyrank.stores import Entry, open_store
from tests.stores.places import DIMENSIONS, PLACES, Place, entries

BY_SCHEME = {place.scheme: place for place in PLACES}
QUERY = np.ones(DIMENSIONS, np.float32)


def place_of(scheme: str) -> Place:
    pytest.importorskip(BY_SCHEME[scheme].module)
    return BY_SCHEME[scheme]


@pytest.mark.parametrize(
    "scheme", ["postgresql", "qdrant", "chroma", "milvus", "pinecone", "weaviate"]
)
def test_a_server_that_is_not_there(scheme: str) -> None:
    place_of(scheme)
    with pytest.raises(StoreUnavailableError, match=r"127\.0\.0\.1:1 does not answer.*Start the"):
        open_store(f"{scheme}://127.0.0.1:1", dimensions=DIMENSIONS)


@pytest.mark.parametrize("scheme", ["faiss", "qdrant"])
def test_a_folder_that_is_held(scheme: str, tmp_path: Path) -> None:
    place = place_of(scheme)
    with place.open(tmp_path) as store:
        store.add(entries(3))
        with pytest.raises(StoreUnavailableError, match="another process"):
            place.open(tmp_path)
        assert store.count() == 3
    with place.open(tmp_path) as store:
        assert store.count() == 3


def test_a_file_that_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = place_of("sqlite")
    import polyrank.stores.sqlite

    monkeypatch.setattr(polyrank.stores.sqlite, "BUSY_S", 0.1)
    with place.open(tmp_path) as store:
        store.add(entries(3))
        # of the same library: locks of a process do not hold against itself
        connect = polyrank.stores.sqlite.database.connect
        other = connect(store.url.partition("://")[2], isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailableError, match="locked"):
            store.add(entries(5))
        # who only reads goes on
        assert (store.count(), len(store.query(QUERY, 5))) == (3, 3)
        other.execute("ROLLBACK")
        store.add(entries(5))
        assert store.count() == 5
        other.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("scheme", ["lancedb", "faiss", "sqlite"])
def test_a_full_disk(scheme: str, small_disk: Path) -> None:
    place = place_of(scheme)
    random = np.random.default_rng(0)
    many = (
        Entry(f"{i}", random.bytes(500).hex(), QUERY + i % 7, {"page": i}) for i in range(30_000)
    )
    with (
        pytest.raises(StoreFullError, match=r"has no room left.*free some room"),
        place.open(small_disk) as store,
    ):
        store.add(many)
    with place.open(small_disk) as store:
        # whole batches alone, and they are found
        assert store.count() % 1_000 == 0
        assert len(store.query(QUERY, 5)) == min(5, store.count())


def test_a_url_that_names_no_store() -> None:
    for url in ("nowhere://a", "index.db", "sqlite://", ""):
        with pytest.raises(ConfigError, match=r"names no store.*lancedb://FOLDER"):
            open_store(url, dimensions=3)


def test_a_file_that_is_no_store(tmp_path: Path) -> None:
    place = place_of("sqlite")
    path = Path(place.url(tmp_path).partition("://")[2])
    path.write_bytes(b"no database " * 1_000)
    with pytest.raises(StoreError, match="not a database"):
        place.open(tmp_path)
