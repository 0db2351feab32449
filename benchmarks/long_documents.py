"""Long documents: passages and their rules of aggregation beside cutting at the window's end.

``make bench-long`` writes benchmarks/results/long-documents.md and .json. Documents are joined from
consecutive passages of an evaluation set, or sections of help pages, until they have about 2,000
tokens and more; which passage answers, or holds the answer's sentence, is known. Each query ranks
all documents of its pool.
"""

import argparse
import gzip
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from polyrank import Embedder, Reranker
from polyrank.cli.progress import steps
from polyrank.config import PassageConfig
from polyrank.tasks.aggregation import aggregate
from polyrank.types import Aggregation, RankedDocument

HERE = Path(__file__).parent
RULES: tuple[Aggregation, ...] = ("max_p", "first_p", "top_k_mean", "decayed_sum")
SIZES = (None, 256, 128)
CACHE_BYTES = 3 << 30
MIN_TOKENS = 2_000
JOINT, JOINT_LEVEL = "joint MaxSim", "joint MaxSim, length held level"


@dataclass
class Pool:
    """Long documents of a language, and queries with the spans that answer them."""

    name: str
    documents: list[str] = field(default_factory=list)
    queries: list[tuple[str, int, int, int]] = field(default_factory=list)  # text, document, span


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file."""
    with gzip.open(path, "rt", encoding="utf8") as file:
        yield from map(json.loads, file)


def qrels(path: Path) -> dict[str, list[str]]:
    """Return the relevant ids of each query."""
    found: dict[str, list[str]] = {}
    for line in path.read_text().splitlines()[1:]:
        query, document, grade = line.split("\t")
        if int(grade) > 0:
            found.setdefault(query, []).append(document)
    return found


def joined(
    texts: Sequence[tuple[str, str]], count: Callable[[str], int], most: int
) -> tuple[list[str], dict[str, tuple[int, int, int]]]:
    """Return long documents of consecutive texts, and for each text's id its document and span."""
    documents, places = [], {}
    parts: list[str] = []
    size, tokens = 0, 0
    for identifier, text in texts:
        places[identifier] = (len(documents), size, size + len(text))
        parts.append(text)
        size += len(text) + 2
        tokens += count(text)
        if tokens >= MIN_TOKENS:
            documents.append("\n\n".join(parts))
            parts, size, tokens = [], 0, 0
        if len(documents) == most:
            break
    return documents, {i: p for i, p in places.items() if p[0] < len(documents)}


def article_pool(data: Path, name: str, language: str, count: Any, most: int, queries: int) -> Pool:
    """Return a pool of a retrieval set: what answers is a passage, in xquad a sentence."""
    folder = data / "eval" / name
    corpus = [
        (r["_id"], r["text"]) for r in rows(folder / "corpus.jsonl.gz") if r["lang"] == language
    ]
    documents, places = joined(corpus, count, most)
    pool = Pool(f"{name} {language}", documents)
    spans = dict(places)
    if name == "xquad":
        folder = data / "eval/xquad-r"
        spans = {}
        for row in rows(folder / "corpus.jsonl.gz"):
            if row["lang"] == language and row["passage"] in places:
                document, start, end = places[row["passage"]]
                at = documents[document].find(row["text"], start, end + 2)
                if at >= 0:
                    spans[row["_id"]] = (document, at, at + len(row["text"]))
    relevant = qrels(folder / "qrels.tsv")
    for row in rows(folder / "queries.jsonl.gz"):
        own = [i for i in relevant.get(row["_id"], ()) if i in spans]
        if row["lang"] == language and own:
            pool.queries.append((row["text"], *spans[own[0]]))
    return sampled(pool, queries)


def help_pool(data: Path, asked: str, searched: str, count: Any, most: int, queries: int) -> Pool:
    """Return a pool of help pages: headings of a language, sections of another."""
    folder = data / "train/docs"
    sections = list(rows(folder / f"libreoffice-help.{searched}.jsonl.gz"))
    documents, places = joined(
        [(row["id"], f"{row['title']}\n{row['text']}") for row in sections], count, most
    )
    pool = Pool(f"help {asked}→{searched}", documents)
    for row in rows(folder / f"libreoffice-help.{asked}.jsonl.gz"):
        if row["id"] in places and row.get("page_title"):
            pool.queries.append((f"{row['page_title']}: {row['title']}", *places[row["id"]]))
    return sampled(pool, queries)


def sampled(pool: Pool, most: int) -> Pool:
    """Return a pool with some of its queries, drawn by a seed."""
    drawn = np.random.default_rng(0).permutation(len(pool.queries))[:most]
    pool.queries = [pool.queries[i] for i in np.sort(drawn)]
    return pool


def gains(values: np.ndarray[Any, Any], right: int) -> tuple[float, float]:
    """Return nDCG@10 and recall@10 of a ranking with one relevant document."""
    rank = int((values > values[right]).sum())
    return (1 / np.log2(rank + 2), 1.0) if rank < 10 else (0.0, 0.0)


def holds(hit: RankedDocument, start: int, end: int) -> bool:
    """Return whether the best passage and what answers share half of the shorter of the two."""
    passage = hit.passage
    shorter = min(end - start, passage.end - passage.start)
    return min(end, passage.end) - max(start, passage.start) >= shorter / 2


class Figures:
    """Means by system."""

    def __init__(self) -> None:
        """Begin with none."""
        self.values: dict[str, dict[str, list[float]]] = {}

    def add(self, system: str, **values: float) -> None:
        """Take figures of one query or pool."""
        for name, value in values.items():
            self.values.setdefault(system, {}).setdefault(name, []).append(value)

    def means(self) -> dict[str, dict[str, float]]:
        """Return the mean of each figure of each system."""
        return {
            system: {name: float(np.mean(values)) for name, values in own.items()}
            for system, own in self.values.items()
        }


def measure(pool: Pool, models: dict[str, Any], figures: Figures, tell: Any) -> None:
    """Rank a pool's documents for each of its queries, by every system."""
    seconds: dict[str, float] = {}
    for size in SIZES:
        reranker: Reranker = models[f"passages {size}"]
        label = "window" if size is None else f"{size} tokens"
        begun = time.perf_counter()
        for at, (query, right, start, end) in enumerate(pool.queries):
            hits = {hit.index: hit for hit in reranker.rank(query, pool.documents)}
            if not at:
                seconds[label] = time.perf_counter() - begun  # all documents are read for it
            logits = [
                np.array(
                    [[p.score] for p in sorted(hits[i].passages, key=lambda p: p.start)], np.float32
                )
                for i in range(len(pool.documents))
            ]
            for rule in RULES:
                values = np.array([aggregate(own, rule)[0] for own in logits])
                ndcg, recall = gains(values, right)
                figures.add(f"{rule}, {label}", ndcg=ndcg, recall=recall)
            figures.add(f"max_p, {label}", holds=holds(hits[right], start, end))
            tell(f"{pool.name}: {label}", at + 1, len(pool.queries))
        figures.add(f"max_p, {label}", seconds=seconds[label] / len(pool.documents))
    cut: Reranker = models["cut"]
    begun = time.perf_counter()
    for at, (query, right, *span) in enumerate(pool.queries):
        hits = {hit.index: hit for hit in cut.rank(query, pool.documents)}
        if not at:
            figures.add("cut", seconds=(time.perf_counter() - begun) / len(pool.documents))
        values = np.array([hits[i].score for i in range(len(pool.documents))])
        ndcg, recall = gains(values, right)
        figures.add("cut", ndcg=ndcg, recall=recall, holds=holds(hits[right], *span))
    joint(pool, models["passages None"], figures)
    for name in ("mean", "truncate"):
        embedder: Embedder = models[name]
        begun = time.perf_counter()
        vectors = embedder.encode(pool.documents, input_type="document")
        label = f"vectors, {'mean of windows' if name == 'mean' else 'cut'}"
        figures.add(label, seconds=(time.perf_counter() - begun) / len(pool.documents))
        asked = embedder.encode([query for query, *_ in pool.queries], input_type="query")
        for vector, (_, right, *_) in zip(asked, pool.queries, strict=True):
            ndcg, recall = gains(vectors @ vector, right)
            figures.add(label, ndcg=ndcg, recall=recall)


def joint(pool: Pool, reranker: Reranker, figures: Figures) -> None:
    """Measure joint MaxSim: for each query token the best row of all passages of a document."""
    query, *_ = pool.queries[0]
    passages, owners = [], []
    for hit in sorted(reranker.rank(query, pool.documents), key=lambda hit: hit.index):
        own = sorted(hit.passages, key=lambda passage: passage.start)
        passages += [passage.text for passage in own]
        owners += [hit.index] * len(own)
    parts = reranker.token_vectors(passages, input_type="document")
    together = [
        np.concatenate([part for part, owner in zip(parts, owners, strict=True) if owner == i])
        for i in range(len(pool.documents))
    ]
    lengths = np.log(np.array([len(each) for each in together]))
    (layer,) = reranker._head.layers  # its last weight is the one of the length
    slope = float(layer.weight[0, -1])
    for query, right, *_ in pool.queries:
        values = reranker.score_rows(query, together, logits=True)
        ndcg, recall = gains(values, right)
        figures.add(JOINT, ndcg=ndcg, recall=recall)
        ndcg, recall = gains(values - slope * lengths, right)
        figures.add(JOINT_LEVEL, ndcg=ndcg, recall=recall)


def as_markdown(content: dict[str, Any]) -> str:
    """Return the page of results."""
    lines = ["# Long documents", "", __doc__.split("\n\n", 1)[1].strip(), ""]
    lines += [f"- {name}: {value}" for name, value in content["facts"].items()]
    head = "| system | nDCG@10 | recall@10 | best passage holds the answer | s a document |"
    for part, means in content["parts"].items():
        lines += ["", f"## {part}", "", head, "|---|---:|---:|---:|---:|"]
        for system, own in means.items():
            cells = [
                f"{own[name]:.3f}" if name in own else ""
                for name in ("ndcg", "recall", "holds", "seconds")
            ]
            lines.append(f"| {system} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--documents", type=int, default=60, help="of a pool")
    parser.add_argument("--queries", type=int, default=60, help="of a pool")
    parser.add_argument("--output", type=Path, default=HERE / "results")
    given = parser.parse_args()
    models: dict[str, Any] = {
        f"passages {size}": Reranker(
            passages=PassageConfig(max_tokens=size),
            activation="identity",
            row_cache_bytes=CACHE_BYTES,
        )
        for size in SIZES
    }
    models["cut"] = Reranker(passages=None, activation="identity", row_cache_bytes=CACHE_BYTES)
    models |= {name: Embedder(long_texts=name) for name in ("mean", "truncate")}  # type: ignore[arg-type]
    tokenizer = models["mean"]._model.tokenizer

    def count(text: str) -> int:
        return len(tokenizer.encode([text])[0])

    data, most, queries = given.data, given.documents, given.queries
    articles = [("xquad", "en"), ("xquad", "de"), ("xquad", "th"), ("pquad-test", "fa")]
    pools = [article_pool(data, *each, count, most, queries) for each in articles]
    pages = [("en", "en"), ("de", "de"), ("ja", "ja"), ("de", "en"), ("en", "ru")]
    pools += [help_pool(data, *each, count, most, queries) for each in pages]
    whole, parts = Figures(), {}
    with steps(quiet=False) as progress:
        tell = progress or (lambda *_: None)
        for pool in pools:
            own = Figures()
            measure(pool, models, own, tell)
            parts[pool.name] = own.means()
            for system, values in parts[pool.name].items():
                whole.add(system, **values)
    sizes = [count(text) for pool in pools for text in pool.documents]
    content = {
        "facts": {
            "model": models["cut"].info.name,
            "pools": ", ".join(pool.name for pool in pools),
            "documents": f"{len(sizes):,}, median {np.median(sizes):,.0f} tokens",
            "queries": f"{sum(len(pool.queries) for pool in pools):,}",
            "s a document": "to read it anew, on two threads",
        },
        "parts": {"Mean of the pools": whole.means(), **parts},
    }
    given.output.mkdir(parents=True, exist_ok=True)
    (given.output / "long-documents.json").write_text(json.dumps(content, indent=1) + "\n")
    (given.output / "long-documents.md").write_text(as_markdown(content))


if __name__ == "__main__":
    main()
