"""Bulk jobs of real sections with the model that ships, beside the bare engine.

Each part (`engine-embed`, `embed`, `engine-rerank`, `rerank`, `ray`, `bits`) adds its figures to
results/scale.json, so that they may be measured one after the other; `report` writes
results/scale.md.
"""

import argparse
import gzip
import json
import os
import platform
import random
import subprocess
import sys
import time
from collections.abc import Iterator
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
    """Return sections of help pages in many languages, in an order drawn once."""
    rows = []
    for path in sorted((data / "train" / "docs").glob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf8") as lines:
            rows += [json.loads(line) for line in lines]
    kept = [{k: row[k] for k in ("id", "title", "text", "lang")} for row in rows if row["text"]]
    random.Random(0).shuffle(kept)
    return kept[:count]


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


def engine_embed(asked: argparse.Namespace) -> Figures:
    """Time the engine alone: sequences that are packed already, a partition's worth at a time."""
    table = pq.read_table(embed_input(asked), columns=["text"])
    embedder = Embedder()
    computation, step = embedder._computation, asked.partition_rows
    texts = table.column("text").to_pylist()[: asked.engine_rows]
    embedder.encode(texts[:64])
    tokens, seconds = 0, 0.0
    for start in range(0, len(texts), step):
        prepared = computation.prepare([f"passage: {t}" for t in texts[start : start + step]])
        begun = time.perf_counter()
        computation.engine.run(prepared.batch, computation.pooling, computation.width)
        seconds += time.perf_counter() - begun
        tokens += prepared.batch.total_tokens
    return {"engine_embed": {"rows": len(texts), "tokens": tokens, "seconds": seconds}}


def engine_rerank(asked: argparse.Namespace) -> Figures:
    """Time the engine alone on the sequences of pairs."""
    table = pq.read_table(rerank_input(asked))
    pairs = list(zip(*(table.column(n).to_pylist() for n in ("query", "text")), strict=True))
    pairs = pairs[: asked.engine_rows]
    reranker = Reranker()
    computation = reranker._computation
    reranker.score(pairs[:64])
    tokens, seconds = 0, 0.0
    for start in range(0, len(pairs), asked.partition_rows):
        plan = computation.prepare(pairs[start : start + asked.partition_rows]).plan
        plan = plan.inner.plan if isinstance(computation, PassagePairs) else plan
        before, begun = computation.engine.usage.num_tokens, time.perf_counter()
        for _ in run_pairs(computation.engine, computation.scorer, plan):
            pass
        seconds += time.perf_counter() - begun
        tokens += computation.engine.usage.num_tokens - before
    return {"engine_rerank": {"rows": len(pairs), "tokens": tokens, "seconds": seconds}}


def embed(asked: argparse.Namespace) -> Figures:
    """Time `polyrank bulk embed`."""
    return {"embed": job("embed", embed_input(asked), asked)}


def rerank(asked: argparse.Namespace) -> Figures:
    """Time `polyrank bulk rerank`."""
    return {"rerank": job("rerank", rerank_input(asked), asked, "--columns", "id,query")}


def ray(asked: argparse.Namespace) -> Figures:
    """Time `polyrank bulk embed` on Ray's actors of one thread each, one and two of them."""
    more = ("--ray", "local", "--threads", "1", "--workers")
    source = embed_input(asked)
    return {f"ray_{n}": job("embed", source, asked, *more, f"{n}:{n}") for n in (1, 2)}


def job(task: str, source: Path, asked: argparse.Namespace, *more: str) -> Figures:
    """Run the command; return its summary, times and memory."""
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
    memory = list(sampled(process, begun))
    whole = time.monotonic() - begun
    if process.returncode:
        raise SystemExit(process.returncode)
    summary = json.loads((output / "_summary.json").read_text())
    times = sorted(path.stat().st_mtime for path in output.glob("_done/*.json"))
    manifest = (output / "_manifest.json").stat().st_mtime
    return {
        "rows": summary["rows"],
        "tokens": summary["tokens"],
        "partitions": len(summary["partitions"]),
        "whole_s": whole,
        "job_s": times[-1] - manifest,  # from the manifest, after loading, to the last partition
        "compute_s": summary["seconds"],
        "output_bytes": summary["size_bytes"],
        "input_bytes": source.stat().st_size,
        "memory_mb": memory,
    }


def sampled(process: "subprocess.Popen[bytes]", begun: float) -> Iterator[tuple[float, float]]:
    """Yield seconds since the start with the memory of a process that is not files, in MB."""
    while process.poll() is None:
        try:
            lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        except OSError:
            break
        kept = [int(line.split()[1]) for line in lines if line.startswith("RssAnon")]
        if kept:
            yield round(time.monotonic() - begun, 1), round(kept[0] / 1e3, 1)
        time.sleep(MEMORY_EVERY_S)
    process.wait()


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
    "engine-embed": engine_embed,
    "engine-rerank": engine_rerank,
    "embed": embed,
    "rerank": rerank,
    "ray": ray,
    "bits": bits,
}


if __name__ == "__main__":
    main()
