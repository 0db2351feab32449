"""nDCG@10 on XQuAD by kernel path and compute dtype: ``python -m quality.by_path --data DATA``.

Vectors of the base model and of the default model, and what the default model's reranker makes of
the first ten of its float32 vectors. Every path that this processor runs is forced in turn; one
with more instructions runs those with fewer. What was measured is kept in by-path.json, so that a
run goes on where the last one ended (--only takes some cells, as ``avx2:int8``).
"""

import argparse
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from polyrank import Embedder, Reranker, _native
from polyrank.checkpoint.hub import base_model_folder
from polyrank.encoder.paths import BFLOAT16_PATHS, ISA_VARIABLE
from polyrank.evaluation import Dataset, load_dataset
from polyrank.evaluation.measures import measure

RESULTS = Path(__file__).parents[1] / "results"
MEASURE = "nDCG@10"
LANGUAGES = ("en", "ar", "hi", "zh")
CUTOFF = 10
CACHE_BYTES = 2 << 30
BOUND = 0.002
NUM_QUERIES = 400  # of a language
WHAT = ("base model, vectors", "polyrank-small, vectors", "polyrank-small, reranked")


def say(text: str) -> None:
    """Print a line of progress."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def some_queries(dataset: Dataset) -> Dataset:
    """Return a set with every so manieth query, `NUM_QUERIES` of them."""
    queries = dataset.queries[:: max(1, len(dataset.queries) // NUM_QUERIES)][:NUM_QUERIES]
    qrels = {query.query_id: dataset.qrels[query.query_id] for query in queries}
    return replace(dataset, queries=queries, qrels=qrels)


def best_rows(model: str | None, dtype: str, dataset: Dataset) -> np.ndarray:
    """Return the ten nearest documents of each query, by vectors."""
    embedder = Embedder(model, encoder="native", compute_dtype=dtype)  # type: ignore[arg-type]
    documents = embedder.encode([doc.text for doc in dataset.documents], input_type="document")
    queries = embedder.encode([query.text for query in dataset.queries], input_type="query")
    return np.argsort(-(queries @ documents.T), axis=1, kind="stable")[:, :CUTOFF]


def reranked(dtype: str, dataset: Dataset, candidates: np.ndarray) -> np.ndarray:
    """Return candidates in the order of the default model's logits."""
    reranker = Reranker(
        encoder="native",
        compute_dtype=dtype,  # type: ignore[arg-type]
        row_cache_bytes=CACHE_BYTES,
    )
    pairs = [
        (query.text, dataset.documents[column].text)
        for query, row in zip(dataset.queries, candidates, strict=True)
        for column in row
    ]
    logits = np.asarray(reranker.score(pairs, logits=True)).reshape(candidates.shape)
    return np.take_along_axis(candidates, np.argsort(-logits, axis=1, kind="stable"), axis=1)


def ndcg(dataset: Dataset, order: np.ndarray) -> float:
    """Return the mean over queries."""
    ids = [doc.doc_id for doc in dataset.documents]
    rankings = {
        query.query_id: [ids[column] for column in row]
        for query, row in zip(dataset.queries, order, strict=True)
    }
    return float(measure([MEASURE], dataset.qrels, rankings)[MEASURE].mean())


def cell(path: str, dtype: str, dataset: Dataset, first: np.ndarray) -> list[float]:
    """Return the values of one path, dtype and language."""
    os.environ[ISA_VARIABLE] = path
    return [
        ndcg(dataset, best_rows(str(base_model_folder()), dtype, dataset)),
        ndcg(dataset, best_rows(None, dtype, dataset)),
        ndcg(dataset, reranked(dtype, dataset, first)),
    ]


def configurations() -> list[tuple[str, str]]:
    """Return paths and dtypes, the reference first.

    bfloat16 without instructions for it is the same code and, in linear layers, the same bits on
    every path: the two quickest stand for the others.
    """
    paths = _native.usable_paths()
    emulated = [path for path in paths if path not in BFLOAT16_PATHS][:1]
    narrow = [path for path in paths if path in BFLOAT16_PATHS] + emulated
    return [
        (paths[0], "float32"),
        *((path, "bfloat16") for path in narrow),
        *((path, "int8") for path in paths),
    ]


def table(found: dict[str, list[list[float]]], num_queries: int) -> str:
    """Return the results as Markdown."""
    order = [f"{path}:{dtype}" for path, dtype in configurations()]
    exact = np.array(found[order[0]])
    lines = [
        "# nDCG@10 on XQuAD by kernel path",
        "",
        f"240 passages and {num_queries:,} questions a language; means",
        f"over languages, with the change from float32. Bound: {BOUND}. Paths are forced by",
        f"`{ISA_VARIABLE}` on a processor whose own path is {_native.usable_paths()[0]}.",
        "`PYTHONPATH=benchmarks python -m quality.by_path --data DATA`.",
        "",
        f"| path | compute dtype | languages | {' | '.join(WHAT)} |",
        "|---|---|---|---|---|---|",
    ]
    for key in (key for key in order if found.get(key)):
        means = np.mean(found[key], axis=0)
        changes = means - exact[: len(found[key])].mean(axis=0)
        shown = [f"{mean:.4f} ({change:+.4f})" for mean, change in zip(means, changes, strict=True)]
        languages = ", ".join(LANGUAGES[: len(found[key])])
        lines.append(f"| {' | '.join(key.split(':'))} | {languages} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="quality.by_path", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds eval/")
    parser.add_argument("--only", nargs="+", help="of these cells alone, such as avx2:int8")
    parser.add_argument("--name", default="by-path", help="of the files written")
    options = parser.parse_args()
    dataset = load_dataset(options.data / "eval" / "xquad")
    parts = [some_queries(dataset.subset(language, language)) for language in LANGUAGES]
    kept = RESULTS / f"{options.name}.json"
    state = json.loads(kept.read_text()) if kept.exists() else {"first": [], "found": {}}
    first, found = state["first"], state["found"]
    for number, part in enumerate(parts):
        if number == len(first):
            os.environ[ISA_VARIABLE] = _native.usable_paths()[0]
            first.append(best_rows(None, "float32", part).tolist())
        for path, dtype in configurations():
            key = f"{path}:{dtype}"
            rows = found.setdefault(key, [])
            if len(rows) != number or (options.only and key not in options.only):
                continue
            rows.append(cell(path, dtype, part, np.array(first[number])))
            kept.write_text(json.dumps(state))
            say(f"{key} {LANGUAGES[number]} {rows[-1]}")
            (RESULTS / f"{options.name}.md").write_text(table(found, len(parts[0].queries)))


if __name__ == "__main__":
    main()
