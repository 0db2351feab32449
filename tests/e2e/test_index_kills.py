"""`polyrank index` is killed at random points; run again, it ends as a clean run does."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from polyrank.stores import open_store

# batches are small, so that a short run has many points at which it can be killed
COMMAND = (
    "import polyrank.pipeline.writing as writing; writing.BATCH = 4; "
    "from polyrank.cli.main import main; main()"
)
DIMENSIONS = 384


def start(docs: Path, url: str) -> subprocess.Popen[bytes]:
    arguments = [sys.executable, "-c", COMMAND, "index", str(docs), "--store", url, "--quiet"]
    return subprocess.Popen(
        [*arguments, "--rows", "--passage-tokens", "16", "--threads", "1"],
        stdout=subprocess.DEVNULL,
    )


def lay(docs: Path, chance: random.Random) -> None:
    """Write some files, change some, and remove some."""
    docs.mkdir(exist_ok=True)
    for number in range(12):
        path = docs / f"{number}.md"
        what = chance.random()
        if what < 0.2:
            path.unlink(missing_ok=True)
        elif what < 0.7 or not path.exists():
            lines = [f"Cat {chance.randrange(99)} is {chance.randrange(20)}." for _ in range(20)]
            path.write_text("# Cats\n\n" + " ".join(lines))


def contents(url: str) -> list[tuple[Any, ...]]:
    sizes = {"dimensions": DIMENSIONS, "row_dimensions": DIMENSIONS}
    with open_store(url, **sizes, create=False) as store:
        select = (
            "SELECT id, text, metadata, vector, rows FROM polyrank_entries JOIN polyrank_vectors "
            "ON polyrank_vectors.rowid = number ORDER BY id"
        )
        rows = store._connection.execute(select).fetchall()  # type: ignore[attr-defined]
        assert len(rows) == store.count()
        return rows


def kill_and_resume(folder: Path, count: int, seed: int) -> int:
    """Kill so many runs at work; return in how many rounds. Runs that ended before do not count."""
    chance = random.Random(seed)
    docs, url = folder / "docs", f"sqlite://{folder}/index.db"
    lay(docs, chance)
    begun = time.monotonic()
    assert start(docs, f"sqlite://{folder}/first.db").wait() == 0
    whole = time.monotonic() - begun
    num_killed, num_rounds = 0, 0
    while num_killed < count:
        num_rounds += 1
        lay(docs, chance)  # else a resumed run has little to do and ends before its kill
        process = start(docs, url)
        time.sleep(chance.uniform(0.2, 1.0) * whole)
        process.send_signal(signal.SIGKILL)
        num_killed += process.wait() == -signal.SIGKILL
        if num_rounds % 5 == 0 or num_killed == count:
            assert start(docs, url).wait() == 0
            clean = f"sqlite://{folder}/clean-{num_rounds}.db"
            assert start(docs, clean).wait() == 0
            assert contents(url) == contents(clean)
            assert len(contents(url)) > 0
    return num_rounds


@pytest.mark.skipif(sys.platform == "win32", reason="kills by signals")
def test_three_kills(tmp_path: Path) -> None:
    assert kill_and_resume(tmp_path, 3, seed=0) >= 3


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="kills by signals")
def test_fifty_kills(tmp_path: Path) -> None:
    count = int(os.environ.get("KILLS", "55"))
    assert kill_and_resume(tmp_path, count, seed=1) >= count
