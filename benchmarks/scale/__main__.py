"""Bulk jobs of real sections with the model that ships, beside the bare engine.

Each part (`embed`, `rerank`, `ray`, `bits`) adds its figures to results/scale.json, so that they
may be measured one after the other; `report` writes results/scale.md.

A job and the engine alone take turns: every half minute the job is stopped (SIGSTOP), the engine
runs for some seconds, and the job goes on. So both get the same share of a machine on which others
work, too, and their ratio holds.
"""

import argparse
import gzip
import json
import os
import platform
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.scale.report import write_report
from polyrank import Embedder, Reranker
from polyrank.bulk.settings import PARTITION_ROWS
from polyrank.encoder.paths import running_path
from polyrank.inference.pair_runs import run_pairs
from polyrank.inference.passage_pairs import PassagePairs

RESULTS = Path(__file__).parent.parent / "results" / "scale.json"
CHECKED_ROWS = 400  # computed one by one by the library
MEMORY_EVERY_S = 0.5
JOB_TURN_S = 30.0
ENGINE_ROWS = 2048  # of a turn
Figures = dict[str, Any]


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder for input and output")
    parser.add_argument("--sections", type=int, default=100_000)
    parser.add_argument("--pairs", type=int, default=100_000)
    parser.add_argument("--engine-rows", type=int, default=2 * PARTITION_ROWS)
    parser.add_argument("--partition-rows", type=int, default=PARTITION_ROWS)
    parser.add_argument("parts", nargs="+")
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    for part in asked.parts:
        if part == "report":
            write_report(RESULTS)
            continue
        found = PARTS[part](asked)
        sys.stdout.write(json.dumps({part: found}) + "\n")
        known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        RESULTS.write_text(json.dumps({**known, "machine": machine(), **found}, indent=1) + "\n")


def machine() -> Figures:
    """Return where this was measured."""
    return {"cores": len(os.sched_getaffinity(0)), "cpu": _cpu(), "kernels": running_path()}


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def sections(data: Path, count: int) -> list[Figures]:
    """Return sections of help pages in many languages, in an order drawn once.

    There are 98,296; for more, passages of encyclopaedias are put among them.
    """
    kept = _shuffled((data / "train" / "docs").glob("*.jsonl.gz"))[:count]
    if len(kept) < count:
        kept += _shuffled((data / "train" / "qa").glob("*.passages.jsonl.gz"))[: count - len(kept)]
        random.Random(0).shuffle(kept)
    return kept


def _shuffled(paths: Iterable[Path]) -> list[Figures]:
    rows = []
    for path in sorted(paths):
        with gzip.open(path, "rt", encoding="utf8") as lines:
            rows += [json.loads(line) for line in lines]
    kept = [{k: row[k] for k in ("id", "title", "text", "lang")} for row in rows if row["text"]]
    random.Random(0).shuffle(kept)
    return kept


def embed_input(asked: argparse.Namespace) -> Path:
    """Write the sections as Parquet; return the file."""
    path = asked.work / f"sections-{asked.sections}.parquet"
    if not path.exists():
        pq.write_table(pa.Table.from_pylist(sections(asked.data, asked.sections)), path)
    return path


def rerank_input(asked: argparse.Namespace) -> Path:
    """Write pairs: the title of a section with its own text and with nine others of its file."""
    path = asked.work / f"pairs-{asked.pairs}.parquet"
    if not path.exists():
        rows = sections(asked.data, asked.pairs)
        pairs = [
            {"query": rows[i - i % 10]["title"], "text": rows[i]["text"], "id": rows[i]["id"]}
            for i in range(len(rows))
        ]
        pq.write_table(pa.Table.from_pylist(pairs), path)
    return path


class Turns:
    """The engine alone, on sequences that are packed already, a turn at a time."""

    def __init__(self, runs: Sequence[Callable[[], int]]) -> None:
        """Take what is run.

        Args:
            runs: Each runs some sequences, and returns how many tokens they had.
        """
        self._runs = runs
        self.num_turns, self.tokens, self.seconds = 0, 0, 0.0

    def take(self) -> None:
        """Run the next sequences."""
        begun = time.perf_counter()
        self.tokens += self._runs[self.num_turns % len(self._runs)]()
        self.seconds += time.perf_counter() - begun
        self.num_turns += 1

    def figures(self) -> Figures:
        """Return what was measured."""
        rows = self.num_turns * ENGINE_ROWS
        return {"rows": rows, "tokens": self.tokens, "seconds": self.seconds}


def engine_embed(asked: argparse.Namespace) -> Turns:
    """Return the engine with the sequences of sections."""
    table = pq.read_table(embed_input(asked), columns=["text"])
    embedder = Embedder()
    computation = embedder._computation
    texts = table.column("text").to_pylist()[: asked.engine_rows]
    embedder.encode(texts[:64])

    def run(start: int) -> Callable[[], int]:
        items = [f"passage: {text}" for text in texts[start : start + ENGINE_ROWS]]
        batch = computation.prepare(items).batch

        def go() -> int:
            computation.engine.run(batch, computation.pooling, computation.width)
            return batch.total_tokens

        return go

    return Turns([run(start) for start in range(0, len(texts), ENGINE_ROWS)])


def engine_rerank(asked: argparse.Namespace) -> Turns:
    """Return the engine with the sequences of pairs."""
    table = pq.read_table(rerank_input(asked))
    pairs = list(zip(*(table.column(n).to_pylist() for n in ("query", "text")), strict=True))
    pairs = pairs[: asked.engine_rows]
    reranker = Reranker()
    computation = reranker._computation
    reranker.score(pairs[:64])

    def run(start: int) -> Callable[[], int]:
        plan = computation.prepare(pairs[start : start + ENGINE_ROWS]).plan
        plan = plan.inner.plan if isinstance(computation, PassagePairs) else plan

        def go() -> int:
            before = computation.engine.usage.num_tokens
            for _ in run_pairs(computation.engine, computation.scorer, plan):
                pass
            return computation.engine.usage.num_tokens - before

        return go

    return Turns([run(start) for start in range(0, len(pairs), ENGINE_ROWS)])


def embed(asked: argparse.Namespace) -> Figures:
    """Time `polyrank bulk embed` and the engine in turns."""
    turns = engine_embed(asked)
    done = job("embed", embed_input(asked), asked, turns=turns)
    return {"embed": done, "engine_embed": turns.figures()}


def rerank(asked: argparse.Namespace) -> Figures:
    """Time `polyrank bulk rerank` and the engine in turns."""
    turns = engine_rerank(asked)
    done = job("rerank", rerank_input(asked), asked, "--columns", "id,query", turns=turns)
    return {"rerank": done, "engine_rerank": turns.figures()}


def ray(asked: argparse.Namespace) -> Figures:
    """Time `polyrank bulk embed` on Ray's actors of one thread each, one and two of them."""
    more = ("--ray", "local", "--threads", "1", "--workers")
    source = embed_input(asked)
    return {f"ray_{n}": job("embed", source, asked, *more, f"{n}:{n}") for n in (1, 2)}


def job(
    task: str,
    source: Path,
    asked: argparse.Namespace,
    *more: str,
    turns: Turns | None = None,
) -> Figures:
    """Run the command, in turns with the engine; return its summary, times and memory."""
    name = "-".join([task, *[m.strip("-").replace(":", "-") for m in more if m != "id,query"]])
    output = asked.work / f"{name}-{source.stem}"
    subprocess.run(["rm", "-rf", str(output)], check=True)
    begun = time.monotonic()
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "polyrank", "bulk", task, str(source)),
            *("--output", str(output), "--partition-rows", str(asked.partition_rows)),
            *("--quiet", *more),
        ]
    )
    manifest = output / "_manifest.json"
    memory, stopped_s, load = watched(process, begun, manifest, turns)
    whole = time.monotonic() - begun
    if process.returncode:
        raise SystemExit(process.returncode)
    summary = json.loads((output / "_summary.json").read_text())
    times = sorted(path.stat().st_mtime for path in output.glob("_done/*.json"))
    job_s = times[-1] - manifest.stat().st_mtime  # after loading, to the last partition
    return {
        "rows": summary["rows"],
        "tokens": summary["tokens"],
        "partitions": len(summary["partitions"]),
        "whole_s": whole,
        "job_s": job_s - stopped_s,
        "compute_s": summary["seconds"] - stopped_s,
        "stopped_s": stopped_s,
        "load": load,
        "output_bytes": summary["size_bytes"],
        "input_bytes": source.stat().st_size,
        "memory_mb": memory,
    }


def watched(
    process: "subprocess.Popen[bytes]", begun: float, manifest: Path, turns: Turns | None
) -> tuple[list[tuple[float, float]], float, list[float]]:
    """Wait for a job, and stop it now and then for the engine's turn.

    Returns:
        Seconds since the start with its memory that is not files, in MB; seconds in which it was
        stopped; loads of the machine.
    """
    memory: list[tuple[float, float]] = []
    load: list[float] = []
    stopped_s, next_turn = 0.0, float("inf")
    while process.poll() is None:
        now = time.monotonic()
        try:
            lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        except OSError:
            break
        kept = [int(line.split()[1]) for line in lines if line.startswith("RssAnon")]
        if kept:
            memory.append((round(now - begun, 1), round(kept[0] / 1e3, 1)))
        if next_turn == float("inf") and manifest.exists():
            next_turn = now + JOB_TURN_S
        if turns is not None and now > next_turn:
            process.send_signal(signal.SIGSTOP)
            load.append(os.getloadavg()[0])
            turns.take()
            process.send_signal(signal.SIGCONT)
            stopped_s += time.monotonic() - now
            next_turn = time.monotonic() + JOB_TURN_S
        time.sleep(MEMORY_EVERY_S)
    process.wait()
    return memory, stopped_s, load


def bits(asked: argparse.Namespace) -> Figures:
    """Compare rows of the outputs with what the library gives each row alone."""
    draw = random.Random(1)
    found = {}
    embedder, reranker = Embedder(), Reranker()
    for output in sorted(asked.work.glob("*/_summary.json")):
        parts = sorted(output.parent.glob("part-*.parquet"))
        table = pa.concat_tables([pq.read_table(part) for part in parts])
        places = draw.sample(range(len(table)), min(CHECKED_ROWS, len(table)))
        rows = table.take(places).to_pylist()
        if "embedding" in table.column_names:
            same = sum(
                np.asarray(row["embedding"], np.float32).tobytes()
                == embedder.encode(row["text"], input_type="document").tobytes()
                for row in rows
            )
        else:
            # by their places: a section has the same id in every language
            pairs = pq.read_table(rerank_input(asked)).take(places).to_pylist()
            same = sum(
                row["id"] == pair["id"]
                and np.float32(row["score"])
                == np.float32(reranker.score((pair["query"], pair["text"])))
                for row, pair in zip(rows, pairs, strict=True)
            )
        found[output.parent.name] = {"checked": len(rows), "same": int(same)}
    return {"bits": found}


PARTS = {
    "embed": embed,
    "rerank": rerank,
    "ray": ray,
    "bits": bits,
}


if __name__ == "__main__":
    main()
