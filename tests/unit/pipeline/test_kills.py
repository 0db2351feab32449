"""A run is killed at every point at which it changes something; the next one makes it good.

The kill is an exception that nothing handles, raised before or after each change of the store, of
the index of words and of the manifest. `tests/e2e/test_index_kills.py` kills processes.
"""

import itertools
from collections.abc import Callable
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
    history: list[dict[str, str]], kills: Kills, tmp_path: Path
) -> None:
    docs = tmp_path / "docs"
    lay(docs, history[-1])
    run(docs, f"sqlite://{tmp_path}/clean.db")
    wanted = contents(f"sqlite://{tmp_path}/clean.db")
    killed_at = 1 if len(history) > 1 else 0  # the run that is killed
    for count in itertools.count():
        url = f"sqlite://{tmp_path}/{count}.db"
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


def test_what_a_kill_left_of_files_elsewhere_is_taken_back(kills: Kills, tmp_path: Path) -> None:
    docs, other = tmp_path / "docs", tmp_path / "other"
    lay(docs, FIRST)
    lay(other, {"o.txt": "One."})
    url = f"sqlite://{tmp_path}/index.db"
    kills.left = 8
    with pytest.raises(Killed):
        run(docs, url)
    assert len(contents(url)) > 0
    kills.left = None
    run(other, url)
    assert [row[1] for row in contents(url)] == ["One."]
