"""Help pages in eight languages as passages, their headings as queries, and the vectors of both.

A section has the same id in every language, so that a heading in one language has the section in
each language as its answer. Vectors are computed once and kept.
"""

import gzip
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyrank import Embedder

DATA = Path(os.environ.get("DATA", "../shared/data")) / "train" / "docs"
CACHE = Path(os.environ.get("STORES_CACHE", "build/bench-stores"))
LANGUAGES = ("de", "en", "es", "ja", "ko", "ru", "tr", "zh")
PER_LANGUAGE = 3_100
MOST_CHARACTERS = 600
NUM_QUERIES = 400


@dataclass(frozen=True)
class Corpus:
    """What is searched.

    Attributes:
        ids: ``SECTION@LANGUAGE`` of each passage.
        texts: The passages.
        metadata: Language, page and section of each.
        queries: Headings, each in one language.
        relevant: Ids of the passages that answer each query: its section in every language.
        vectors: Of the passages, float32 of unit length.
        query_vectors: Of the queries.
        embed_s: Seconds that the passages' vectors took when they were computed.
    """

    ids: list[str]
    texts: list[str]
    metadata: list[dict[str, str]]
    queries: list[str]
    relevant: list[set[str]]
    vectors: NDArray[np.float32]
    query_vectors: NDArray[np.float32]
    embed_s: float


def load() -> Corpus:
    """Read the corpus, and its vectors or compute them."""
    rows = [row for language in LANGUAGES for row in _sections(language)]
    random = np.random.default_rng(11)
    by_section: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_section.setdefault(row["id"], []).append(row)
    shared = [key for key, own in by_section.items() if len(own) > 1]
    asked = [shared[i] for i in random.permutation(len(shared))[:NUM_QUERIES]]
    queries = [_heading(by_section[key][random.integers(len(by_section[key]))]) for key in asked]
    texts = [row["text"] for row in rows]
    vectors, query_vectors, embed_s = _vectors(texts, queries)
    return Corpus(
        [f"{row['id']}@{row['lang']}" for row in rows],
        texts,
        [{"lang": row["lang"], "page": row["page"], "section": row["id"]} for row in rows],
        queries,
        [{f"{row['id']}@{row['lang']}" for row in by_section[key]} for key in asked],
        vectors,
        query_vectors,
        embed_s,
    )


def _sections(language: str) -> list[dict[str, Any]]:
    """Return sections of one language that are not long; the same ones in all, where they are."""
    path = DATA / f"libreoffice-help.{language}.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf8") as lines:
        rows = [row for row in map(json.loads, lines) if len(row["text"]) <= MOST_CHARACTERS]
    rows.sort(key=lambda row: hashlib.sha256(row["id"].encode()).digest())
    return rows[:PER_LANGUAGE]


def _heading(row: dict[str, Any]) -> str:
    page = row.get("page_title")
    return f"{page}: {row['title']}" if page else row["title"]


def _vectors(
    texts: list[str], queries: list[str]
) -> tuple[NDArray[np.float32], NDArray[np.float32], float]:
    import time

    key = hashlib.sha256("\0".join([*texts, "", *queries]).encode()).hexdigest()[:16]
    path = CACHE / f"vectors-{key}.npz"
    if not path.exists():
        embedder = Embedder()
        start = time.perf_counter()
        vectors = embedder.encode(texts, input_type="document")
        embed_s = time.perf_counter() - start
        asked = embedder.encode(queries, input_type="query")
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, vectors=vectors, queries=asked, embed_s=embed_s)
    with np.load(path) as kept:
        return kept["vectors"], kept["queries"], float(kept["embed_s"])
