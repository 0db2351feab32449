"""What tests of bulk jobs share: inputs in every format, jobs in this process, and drivers."""

import gzip
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from polyrank.bulk.run import BulkOutcome, prepare, run_job
from polyrank.bulk.settings import BulkSettings, JobSettings
from tests.texts import AWKWARD, SENTENCES

COMMAND = [sys.executable, "-m", "polyrank", "bulk"]
Row = dict[str, Any]


def rows(count: int, seed: int = 0) -> list[Row]:
    """Rows of texts from nothing to some hundred words, with other columns of several types."""
    draw = random.Random(seed)
    pool = [*SENTENCES.values(), *AWKWARD.values()]
    pool = [text for text in pool if not any("\ud800" <= char <= "\udfff" for char in text)]
    return [
        {
            "id": f"row-{i}",
            "text": " ".join(draw.choices(pool, k=draw.choice([1, 1, 2, 6]))),
            "query": draw.choice(pool),
            "number": i,
            "tags": [f"t{i % 3}"] * (i % 4),
            "more": {"depth": {"x": i / 8}, "flag": i % 2 == 0},
        }
        for i in range(count)
    ]


def write_parquet(folder: Path, given: Sequence[Row]) -> Path:
    """Two files, in row groups that partitions do not respect."""
    folder.mkdir(parents=True)
    half = len(given) // 2
    for name, part in (("a", given[:half]), ("b", given[half:])):
        pq.write_table(pa.Table.from_pylist(part), folder / f"{name}.parquet", row_group_size=7)
    return folder


def write_lines(path: Path, given: Sequence[Row]) -> Path:
    """JSON lines, blank ones among them, the last without an end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row, ensure_ascii=i % 2 == 0) for i, row in enumerate(given)]
    content = "\n\n".join(["\n".join(lines[:5]), "\r\n".join(lines[5:])]).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def write_dataset(folder: Path, given: Sequence[Row]) -> Path:
    """A folder as `datasets` saves it: Arrow streams and its own JSON files."""
    folder.mkdir(parents=True)
    half = len(given) // 2
    for i, part in enumerate((given[:half], given[half:])):
        table = pa.Table.from_pylist(part)
        path = folder / f"data-{i:05}-of-00002.arrow"
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as out:
            out.write_table(table, max_chunksize=9)
    (folder / "state.json").write_text("{}")
    (folder / "dataset_info.json").write_text("{}")
    return folder


def write_lance(folder: Path, given: Sequence[Row]) -> Path:
    """A Lance table."""
    import lance

    lance.write_dataset(pa.Table.from_pylist(given), str(folder), max_rows_per_file=11)
    return folder


WRITERS: dict[str, Callable[[Path, Sequence[Row]], Path]] = {
    "parquet": lambda folder, given: write_parquet(folder / "in", given),
    "jsonl": lambda folder, given: write_lines(folder / "in.jsonl", given),
    "jsonl.gz": lambda folder, given: write_lines(folder / "in" / "a.jsonl.gz", given),
    "datasets": lambda folder, given: write_dataset(folder / "in", given),
    "lance": lambda folder, given: write_lance(folder / "in.lance", given),
}


def embedding(model: Path, **changes: Any) -> JobSettings:
    """Settings of a job of many small partitions."""
    return JobSettings("embed", str(model), **{"partition_rows": 8, **changes})


def run(source: object, output: object, settings: JobSettings, **how: Any) -> BulkOutcome:
    """Do a job in this process."""
    return run_job(prepare(str(source), str(output), settings, BulkSettings(**how)))


def read(output: Path) -> pa.Table:
    """The whole output, partitions in order."""
    parts = sorted(output.glob("part-*.parquet"))
    return pa.concat_tables([pq.read_table(part) for part in parts])


def content(output: Path) -> dict[str, bytes]:
    """Every partition's bytes, by name."""
    return {part.name: part.read_bytes() for part in sorted(output.glob("part-*.parquet"))}


def poison(output: Path) -> list[Row]:
    """Refused rows, in order."""
    files = sorted(output.glob("_poison/*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def num_records(output: Path) -> int:
    """How many partitions are written."""
    return len(list(output.glob("_done/*.json")))


def driver(*arguments: object, **environment: str) -> subprocess.Popen[str]:
    """Start the command in a process group of its own."""
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "COLUMNS": "200", **environment},
    )


def kill(process: subprocess.Popen[str]) -> None:
    """Kill a driver with all that it started."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def finish(process: subprocess.Popen[str], timeout_s: float = 120) -> str:
    """Wait for a driver that must succeed; return what it said."""
    _, told = process.communicate(timeout=timeout_s)
    assert process.returncode == 0, told
    return told


def killed_until_done(
    arguments: Sequence[object],
    output: Path,
    kills: int,
    seed: int,
    hurt: Callable[[subprocess.Popen[str]], None] = kill,
    **environment: str,
) -> int:
    """Start a job again and again, killing it at random points; return how often it was killed.

    It is killed so many partitions after its start, and so many milliseconds later, as are drawn.
    """
    draw = random.Random(seed)
    done = 0
    while done < kills:
        process = driver(*arguments, **environment)
        target = num_records(output) + draw.randint(0, 4)
        for _ in waiting(60):
            if process.poll() is not None or num_records(output) >= max(target, 1):
                break
        time.sleep(draw.random() * 0.03)
        if process.poll() is not None:
            finish(process)
            return done
        hurt(process)
        done += 1
    finish(driver(*arguments, **environment))
    return done


def waiting(seconds: float) -> Iterator[None]:
    """Yield every few milliseconds until a time is over."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield
        time.sleep(0.005)
