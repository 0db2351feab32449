"""Each store, and each form of storage, on the same help pages: one page of tables.

Run it with the environment of `make test-stores`, as `make bench-stores` does.
"""

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.stores import forms
from benchmarks.stores.corpus import CACHE, LANGUAGES, Corpus, load
from benchmarks.stores.page import write
from benchmarks.stores.quality import Judge
from polyrank.stores import Entry, open_store
from tests.stores import servers

RESULTS = Path(__file__).parents[1] / "results"
TOP_K = 100


@dataclass(frozen=True)
class Setup:
    """A store in one of its forms.

    Attributes:
        name: As the table has it.
        dtype: How vectors are kept.
        url: Makes the URL of a place in a folder.
        is_indexed: Whether its approximate index is made.
        most: Passages that are put in; fewer where a store takes minutes for all.
    """

    name: str
    dtype: str
    url: Callable[[Path], str]
    is_indexed: bool = False
    most: int = 1_000_000


def setups() -> Iterator[Setup]:
    """Yield what is measured, in the order of the table."""
    for dtype in ("float32", "float16", "binary"):
        yield Setup("LanceDB", dtype, _folder("lancedb"))
    yield Setup("LanceDB, IVF-HNSW-SQ", "float32", _folder("lancedb"), True)
    for dtype in ("float32", "float16", "int8", "binary"):
        yield Setup("FAISS", dtype, _folder("faiss"))
    for dtype in ("float32", "int8", "binary"):
        yield Setup("SQLite", dtype, _folder("sqlite"))
    for dtype in ("float32", "float16", "binary"):
        yield Setup("PostgreSQL", dtype, lambda folder: servers.postgres())
    yield Setup("PostgreSQL, HNSW", "float32", lambda folder: servers.postgres(), True)
    yield Setup("Chroma, HNSW", "float32", _folder("chroma"))
    yield Setup("Milvus Lite", "float32", _folder("milvus"))
    yield Setup("Qdrant, local mode", "float32", _folder("qdrant"), most=5_000)


def _folder(scheme: str) -> Callable[[Path], str]:
    return lambda folder: f"{scheme}://{folder / 'store'}"


def measure(setup: Setup, corpus: Corpus, judge: Judge) -> dict[str, Any]:
    """Fill a store, ask all queries of it, and return what came of it."""
    count = min(len(corpus.ids), setup.most)
    folder = Path(tempfile.mkdtemp(prefix="bench-stores-"))
    name = f"bench_{setup.dtype}_{int(setup.is_indexed)}"
    url, dimensions = setup.url(folder), corpus.vectors.shape[1]
    store = open_store(url, dimensions=dimensions, dtype=setup.dtype, collection=name)
    try:
        start = time.perf_counter()
        store.add(entries(corpus, count))
        if setup.is_indexed:
            store.optimize()
        fill_s = time.perf_counter() - start
        store.close()
        store = open_store(url, dimensions=dimensions, dtype=setup.dtype, collection=name)
        times, runs = [], []
        for vector in corpus.query_vectors:
            start = time.perf_counter()
            hits = store.query(vector, TOP_K)
            times.append(time.perf_counter() - start)
            runs.append([hit.id for hit in hits])
        size = table_bytes(url, name) if url.startswith("postgresql") else folder_bytes(folder)
    finally:
        store.close()
        shutil.rmtree(folder, ignore_errors=True)
    exact = nearest(corpus.vectors[:count], corpus.query_vectors)
    truth = [{corpus.ids[i] for i in row} for row in exact]
    warm = np.array(times[10:]) * 1000
    return {
        "store": setup.name,
        "dtype": setup.dtype,
        "passages": count,
        "recall@100": float(
            np.mean([len(set(run) & own) / len(own) for run, own in zip(runs, truth, strict=True)])
        ),
        "nDCG@10": judge.mean(runs) if count == len(corpus.ids) else None,
        "nDCG@10 reranked": judge.reranked(runs) if count == len(corpus.ids) else None,
        "ms a passage": fill_s / count * 1000,
        "bytes a passage": size / count,
        "p50 ms": float(np.percentile(warm, 50)),
        "p95 ms": float(np.percentile(warm, 95)),
    }


def entries(corpus: Corpus, count: int) -> Iterator[Entry]:
    """Yield the first passages as entries."""
    for i in range(count):
        yield Entry(corpus.ids[i], corpus.texts[i], corpus.vectors[i], corpus.metadata[i])


def nearest(vectors: NDArray[np.float32], queries: NDArray[np.float32]) -> NDArray[np.intp]:
    """Return the places of the nearest vectors of each query, by all products."""
    return np.argsort(-(queries @ vectors.T), axis=1, kind="stable")[:, :TOP_K]


def folder_bytes(folder: Path) -> int:
    """Return the bytes of all files of a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def table_bytes(url: str, name: str) -> int:
    """Return the bytes of a table of PostgreSQL with its indexes."""
    import psycopg

    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT pg_total_relation_size(%s)", (name,)).fetchone()
        return int(row[0]) if row else 0


def machine() -> str:
    """Return the processor's name and how many cores of it there are."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{os.cpu_count()} cores of {(names or [platform.machine()])[0]}"


def main(arguments: Sequence[str]) -> None:
    """Measure all, or the stores whose names begin as asked, and write the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", help="stores whose names begin so")
    parser.add_argument("--no-forms", action="store_true")
    options = parser.parse_args(arguments)
    corpus = load()
    judge = Judge(corpus, CACHE)
    path = RESULTS / "stores.json"
    kept = json.loads(path.read_text()) if path.exists() else {"stores": [], "forms": []}
    for setup in setups():
        if options.only and not setup.name.startswith(options.only):
            continue
        row = measure(setup, corpus, judge)
        print(json.dumps(row), flush=True)
        key = (setup.name, setup.dtype)
        kept["stores"] = [old for old in kept["stores"] if (old["store"], old["dtype"]) != key]
        kept["stores"].append(row)
        judge.save()
        path.write_text(json.dumps(kept, indent=1) + "\n")
    if not options.no_forms:
        kept["forms"] = forms.measure(corpus, judge)
    judge.save()
    path.write_text(json.dumps(kept, indent=1) + "\n")
    write(kept, corpus, RESULTS / "stores.md", machine(), LANGUAGES)


if __name__ == "__main__":
    main(sys.argv[1:])
