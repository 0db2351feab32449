"""A run is killed at every point at which it changes something; the next one makes it good.

The kill is an exception that nothing handles, raised before or after each change of the store, of
the index of words and of the manifest. `tests/e2e/test_index_kills.py` kills processes.
"""

import itertools
import os
import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from polyrank.pipeline import Indexer, IndexSettings
from polyrank.pipeline.manifest import Manifest
from polyrank.stores.base import Store
from tests.unit.pipeline.samples import FakeModels, contents

CHANGES = (
    *((Store, "add"), (Store, "delete")),
    *((Manifest, name) for name in ("set", "write_pending", "finish", "begin_removal")),
    (Manifest, "drop_pending"),
)


class Killed(BaseException):
    """The process is gone."""


class Kills:
    """Kills at one of the changes: even numbers before, odd ones after it."""

    def __init__(self) -> None:
        self.left: int | None = None

    def wrap(self, change: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            self.step()
            result = change(*arguments, **options)
            self.step()
            return result

        return counted

    def step(self) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise Killed


@pytest.fixture
def quick(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory, where there is one: each change waits for the disk otherwise."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


@pytest.fixture
def kills(monkeypatch: pytest.MonkeyPatch) -> Kills:
    made = Kills()
    for owner, name in CHANGES:
        monkeypatch.setattr(owner, name, made.wrap(getattr(owner, name)))
    monkeypatch.setattr("polyrank.pipeline.writing.BATCH", 2)
    return made


def words(start: str, count: int) -> str:
    return " ".join(f"{start}{number}." for number in range(count))


FIRST = {"a.txt": words("a", 60), "b.txt": words("b", 10), "c.txt": words("c", 30)}
SECOND = {"a.txt": words("a", 50), "c.txt": "", "d.txt": words("d", 20)}
THIRD = {"a.txt": words("x", 30), "b.txt": words("b", 10), "d.txt": words("d", 20)}
HISTORIES = {
    "new": [FIRST],
    "changed": [FIRST, SECOND],
    "changed and back": [FIRST, SECOND, FIRST],
    "changed between kill and run": [FIRST, SECOND, THIRD],
}


def lay(folder: Path, files: dict[str, str]) -> None:
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    for name, text in files.items():
        (folder / name).write_text(text)


def run(folder: Path, url: str) -> None:
    Indexer(url, models=FakeModels(), settings=IndexSettings(16)).run([folder])


@pytest.mark.parametrize("history", HISTORIES.values(), ids=HISTORIES)
def test_a_kill_at_any_change_loses_and_doubles_nothing(
    history: list[dict[str, str]], kills: Kills, quick: Path
) -> None:
    docs = quick / "docs"
    lay(docs, history[-1])
    run(docs, f"sqlite://{quick}/clean.db")
    wanted = contents(f"sqlite://{quick}/clean.db")
    killed_at = 1 if len(history) > 1 else 0  # the run that is killed
    for count in itertools.count():
        url = f"sqlite://{quick}/{count}.db"
        died = False
        for at, files in enumerate(history):
            lay(docs, files)
            kills.left = count if at >= killed_at else None
            try:
                run(docs, url)
            except Killed:
                died = True
        kills.left = None
        run(docs, url)
        assert contents(url) == wanted, f"killed at change {count}"
        if not died:
            break
    assert count > 8


def test_what_a_kill_left_of_files_elsewhere_is_taken_back(kills: Kills, quick: Path) -> None:
    docs, other = quick / "docs", quick / "other"
    lay(docs, FIRST)
    lay(other, {"o.txt": "One."})
    url = f"sqlite://{quick}/index.db"
    kills.left = 8
    with pytest.raises(Killed):
        run(docs, url)
    assert len(contents(url)) > 0
    kills.left = None
    run(other, url)
    assert [row[1] for row in contents(url)] == ["One."]


@pytest.mark.parametrize("seed", range(40))
def test_many_kills_in_a_row(seed: int, kills: Kills, quick: Path) -> None:
    chance = random.Random(seed)
    docs, url = quick / "docs", f"sqlite://{quick}/index.db"
    for _ in range(8):
        lay(docs, chance.choice([FIRST, SECOND, THIRD]))
        kills.left = chance.randrange(40)
        try:
            run(docs, url)
        except Killed:
            continue
    kills.left = None
    run(docs, url)
    run(docs, f"sqlite://{quick}/clean.db")
    assert contents(url) == contents(f"sqlite://{quick}/clean.db")
