"""Runs of the indexer, one after another: what is new, changed, gone, broken, in the way."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from polyrank.errors import (
    ConfigError,
    DataError,
    StoreFullError,
    StoreMismatchError,
    StoreUnavailableError,
)
from polyrank.pipeline import Indexer, IndexReport, IndexSettings
from polyrank.pipeline.places import held, state_folder
from polyrank.stores import open_store
from tests.unit.pipeline.samples import DIMENSIONS, FakeModels, contents, pdf, word

Index = Callable[..., IndexReport]


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.md").write_text("# Cats\n\nCats live long.\n")
    (folder / "sub" / "b.txt").write_text("Dogs bark. " * 100)
    (folder / "c.html").write_text("<h1>Fish</h1><p>Fish swim.</p>")
    return folder


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite://{tmp_path / 'index.db'}"


@pytest.fixture
def index(docs: Path, url: str) -> Index:
    def run(*places: Path, models: Any = None, **settings: Any) -> IndexReport:
        given = IndexSettings(**{"passage_tokens": 32, **settings})
        return Indexer(url, models=models or FakeModels(), settings=given).run(places or [docs])

    return run


def clean(tmp_path: Path, docs: Path) -> list[tuple[Any, ...]]:
    """Return what a run into a new store gives."""
    fresh = f"sqlite://{tmp_path / f'fresh-{time.monotonic_ns()}.db'}"
    Indexer(fresh, models=FakeModels(), settings=IndexSettings(32)).run([docs])
    return contents(fresh)


def test_runs_take_what_is_new_changed_and_gone(
    docs: Path, url: str, index: Index, tmp_path: Path
) -> None:
    first = index()
    assert (first.added, first.changed, first.unchanged, first.deleted) == (3, 0, 0, 0)
    assert first.num_written == first.num_passages == len(contents(url)) > 8
    again = index()
    assert (again.added, again.unchanged, again.num_written) == (0, 3, 0)
    (docs / "a.md").write_text("# Cats\n\nCats live for fifteen years.\n")
    (docs / "c.html").unlink()
    (docs / "d.txt").write_text("New.")
    third = index()
    assert (third.added, third.changed, third.unchanged, third.deleted) == (1, 1, 1, 1)
    assert third.num_written == 2
    assert contents(url) == clean(tmp_path, docs)


def test_facts_of_passages(docs: Path, url: str, index: Index) -> None:
    index()
    with open_store(url, dimensions=DIMENSIONS) as store:
        facts = {entry[1]["path"]: entry[1] for entry in store.scan()}
    assert facts[str(docs / "a.md")] == {
        **{"path": str(docs / "a.md"), "title": "Cats", "heading": "Cats"},
        **{"passage": 0, "start": 0, "end": 23},
    }


def test_the_same_content_at_other_times_is_unchanged(docs: Path, index: Index) -> None:
    index()
    os.utime(docs / "a.md", (1, 1))
    report = index()
    assert (report.unchanged, report.num_written) == (3, 0)


def test_a_change_within_the_same_instant_is_seen(docs: Path, url: str, index: Index) -> None:
    path = docs / "a.md"
    status = path.stat()
    index()
    path.write_text("# Cats\n\nCats live lone.\n")  # as long as before
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert index().changed == 1


def test_a_file_that_is_as_it_was_long_ago_is_not_read(
    docs: Path, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = time.time_ns() + 10**10
    monkeypatch.setattr("polyrank.pipeline.indexing.time.time_ns", lambda: later)
    index()
    monkeypatch.setattr("polyrank.pipeline.indexing.content_hash", None)
    assert index().unchanged == 3


def test_other_places_stay(docs: Path, url: str, index: Index, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("Birds sing.")
    index(docs, other)
    (docs / "a.md").unlink()
    assert index(other).deleted == 0
    assert index(docs / "sub").unchanged == 1
    other.unlink()
    assert index(docs).deleted == 1
    with pytest.raises(DataError, match="no such file or folder"):
        index(other)


def test_bad_files_are_told_and_the_rest_is_indexed(
    docs: Path, url: str, index: Index, tmp_path: Path
) -> None:
    good = clean(tmp_path, docs)
    (docs / "secret.pdf").write_bytes(pdf("x", password="cats"))
    word(docs / "cut.docx")
    os.truncate(docs / "cut.docx", 5_000)
    (docs / "latin.txt").write_bytes(b"caf\xe9")
    (docs / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    (docs / "empty.txt").touch()
    (docs / "large.txt").write_text("x" * 5_000)
    (docs / "loop").symlink_to(".")
    (docs / "self").symlink_to("self")
    (docs / "gone.md").symlink_to("nowhere")
    (docs / ".hidden.md").write_text("Hidden.")
    os.mkfifo(docs / "pipe")
    os.close(os.open(os.fsencode(docs) + b"/\xff.txt", os.O_CREAT))
    report = index(max_file_bytes=4_000)
    failed = {Path(each.path).name: each.reason for each in report.failed}
    assert sorted(failed) == sorted(
        ["secret.pdf", "latin.txt", "large.txt", "self", "gone.md", "\ufffd.txt", "cut.docx"]
    )
    assert "encrypted" in failed["secret.pdf"]
    assert "more" in failed["large.txt"] or "most" in failed["large.txt"]
    assert "UTF-8" in failed["\ufffd.txt"]
    skipped = {Path(each.path).name: each.reason for each in report.skipped}
    assert skipped == {
        **{"picture.png": "holds no text", "empty.txt": "holds no text"},
        **{"loop": "a link to a folder", "pipe": "no regular file"},
    }
    assert contents(url) == good


def test_what_cannot_be_read_any_more_keeps_its_last_version(
    docs: Path, url: str, index: Index
) -> None:
    word(docs / "a.docx")
    index()
    before = contents(url)
    os.truncate(docs / "a.docx", 5_000)
    report = index()
    assert [Path(each.path).name for each in report.failed] == ["a.docx"]
    assert contents(url) == before


def test_a_file_that_vanishes_meanwhile(
    docs: Path, url: str, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    from polyrank.pipeline import indexing

    def listed(*arguments: Any) -> Any:
        listing = list_files(*arguments)
        (docs / "c.html").unlink()
        return listing

    list_files = indexing.list_files
    monkeypatch.setattr(indexing, "list_files", listed)
    report = index()
    assert [each.reason for each in report.failed] == ["vanished while the others were indexed"]
    assert report.added == 2


def test_an_empty_folder(index: Index, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    report = index(tmp_path / "empty")
    assert (report.added, report.num_passages, report.failed) == (0, 0, ())


def test_a_folder_that_became_unreadable_is_not_gone(
    docs: Path, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    index()
    scandir = os.scandir

    def refusing(path: str) -> Any:
        if str(path).endswith("sub"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    report = index()
    assert report.deleted == 0
    assert [each.reason for each in report.failed] == ["Permission denied"]


def test_the_store_lies_among_the_files(docs: Path) -> None:
    url = f"sqlite://{docs / 'index.db'}"
    for _ in range(2):
        report = Indexer(url, models=FakeModels()).run([docs])
        assert report.skipped == report.failed == ()
    assert report.unchanged == 3


def test_another_model_and_other_settings_are_refused(index: Index) -> None:
    index()
    with pytest.raises(StoreMismatchError, match="filled by hashes, and hashesother"):
        index(models=FakeModels(seed="other"))
    with pytest.raises(ConfigError, match="passage_tokens 32, not 64"):
        index(passage_tokens=64)
    with pytest.raises(ConfigError, match="kept_fields"):
        index(kept_fields=("lang",))
    assert index(passage_tokens=None).unchanged == 3


def test_a_store_of_another_dimension(url: str, index: Index) -> None:
    with open_store(url, dimensions=7):
        pass
    with pytest.raises(StoreMismatchError, match="vectors of 7 values"):
        index()


def test_two_indexers_at_once(url: str, index: Index) -> None:
    with held(url), pytest.raises(StoreUnavailableError, match=rf"number {os.getpid()}"):
        index()
    assert index().added == 3


def test_a_store_that_was_removed_is_filled_again(url: str, index: Index) -> None:
    index()
    before = contents(url)
    for path in Path(url.partition("://")[2]).parent.glob("index.db*"):
        if path.is_file():
            path.unlink()
    assert index().added == 3
    assert contents(url) == before


def test_a_full_disk_leaves_nothing_half_written(
    docs: Path, url: str, index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from polyrank.stores.base import Store

    upsert = Store.add

    def full(self: Store, entries: Any, **options: Any) -> int:
        raise StoreFullError("no room left")

    monkeypatch.setattr(Store, "add", full)
    with pytest.raises(StoreFullError, match="no room left"):
        index()
    assert contents(url) == []
    monkeypatch.setattr(Store, "add", upsert)
    index()
    assert contents(url) == clean(tmp_path, docs)


def test_fields_of_rows_are_kept_where_asked(docs: Path, url: str, index: Index) -> None:
    (docs / "rows.jsonl").write_text('{"text": "a", "lang": "de", "n": 1}\n{"text": "b"}\n')
    index(kept_fields=("lang",))
    with open_store(url, dimensions=DIMENSIONS) as store:
        rows = [facts for _, facts in store.scan() if facts["path"].endswith("jsonl")]
    assert [row.get("lang") for row in sorted(rows, key=lambda row: row["row"])] == ["de", None]
    assert not any("n" in row for row in rows)
    with pytest.raises(DataError, match="'path' cannot be kept"):
        IndexSettings(kept_fields=("path",))


def test_progress_tells_bytes(docs: Path, url: str) -> None:
    told: list[tuple[int, int]] = []
    Indexer(url, models=FakeModels()).run(
        [docs], lambda step, done, total, note="": told.append((done, total))
    )
    sizes = sum(path.stat().st_size for path in docs.rglob("*") if path.is_file())
    assert told[-1] == (sizes, sizes)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_servers_keep_their_manifest_in_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYRANK_CACHE", "/cache")
    with_password = state_folder("postgresql://me:secret@host/db")
    assert with_password == state_folder("postgresql://me@host/db")
    assert with_password.parent == Path("/cache/indexes")
    assert state_folder("lancedb:///var/index") == Path("/var/index.polyrank")
    with pytest.raises(ConfigError, match="names no store"):
        state_folder("index")
