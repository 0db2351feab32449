"""The stores that the conformance suite runs on, and the entries it gives them."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from polyrank.stores import Entry, Store, open_store
from polyrank.stores.opening import KINDS
from tests.stores import pinecone_wire, servers

DIMENSIONS, ROW_DIMENSIONS = 24, 6
DTYPES = ("float32", "float16", "int8", "binary")
TOLERANCES = {"float32": 1e-5, "float16": 2e-3, "int8": 2e-2, "binary": 2e-2}
"""Largest error of a cosine: half a step of each type, over 24 values."""
LANGUAGES = ("de", "fr", "日本")


@dataclass(frozen=True)
class Place:
    """A store to test.

    Attributes:
        scheme: Of its URLs.
        module: What has to be installed.
        url: Makes the URL of a fresh place in a folder.
        native: A filter of its own for entries of pages below 5 in German; None if it has none.
        is_embedded: Whether it lives in this process and on this disk, and writes batches whole.
        count: How many entries the test of many gives it.
        only: Dtypes that this way of opening it keeps; all of its store's if empty.
        name: What tests call it, where that is not the scheme.
    """

    scheme: str
    module: str
    url: Callable[[Path], str]
    native: Callable[[], Any] | None = None
    is_embedded: bool = True
    count: int = 10_000
    only: tuple[str, ...] = ()
    name: str = ""

    def open(self, folder: Path, **options: Any) -> Store:
        settings = {"dimensions": DIMENSIONS, **options}
        return open_store(self.url(folder), **settings)

    @property
    def dtypes(self) -> tuple[str, ...]:
        return self.only or self._class.dtypes

    @property
    def capabilities(self) -> frozenset[str]:
        return self._class.capabilities

    @property
    def _class(self) -> type[Store]:
        kind = KINDS[self.scheme]
        module = __import__(f"polyrank.stores.{kind.module}", fromlist=[kind.class_name])
        return getattr(module, kind.class_name)


def in_folder(scheme: str) -> Callable[[Path], str]:
    return lambda folder: f"{scheme}://{folder / 'a store'}"


def postgres_url(folder: Path) -> str:
    """Start a server for this run and make a database in it for a folder."""
    uri = servers.postgres()
    name = f"test_{zlib.crc32(str(folder).encode())}"
    import psycopg

    with psycopg.connect(uri, autocommit=True) as connection:
        known = "SELECT 1 FROM pg_database WHERE datname = %s"
        if not connection.execute(known, (name,)).fetchone():
            connection.execute(f"CREATE DATABASE {name}")
    return uri.replace("/postgres?", f"/{name}?")


@cache
def pinecone_url(folder: Path) -> str:
    """Start a server with Pinecone's wire shapes for a folder."""
    return f"pinecone://{pinecone_wire.serve(DIMENSIONS)}"


@cache
def qdrant_url(folder: Path) -> str:
    """Start a server with Qdrant's wire shapes for a folder."""
    from tests.stores import qdrant_wire

    return f"qdrant://{qdrant_wire.serve()}"


@cache
def weaviate_url(folder: Path) -> str:
    """Start a server with Weaviate's wire shapes for a folder."""
    from tests.stores import weaviate_wire

    return f"weaviate://{weaviate_wire.serve()}"


def weaviate_filter() -> Any:
    from weaviate.classes.query import Filter

    page, lang = Filter.by_property("page"), Filter.by_property("lang")
    return page.less_than(5) & lang.equal("de")


def qdrant_filter() -> Any:
    from qdrant_client import models

    return models.Filter(
        must=[
            models.FieldCondition(key="page", range=models.Range(lt=5)),
            models.FieldCondition(key="lang", match=models.MatchValue(value="de")),
        ]
    )


PINECONE_FILTER = {"page": {"$lt": 5}, "lang": {"$eq": "de"}}
CHROMA_FILTER = {"$and": [{"page": {"$lt": 5}}, {"lang": {"$eq": "de"}}]}
MILVUS_FILTER = 'metadata["page"] < 5 and metadata["lang"] == "de"'
IN_JSONB = "(metadata ->> 'page')::int < 5 AND metadata ->> 'lang' = 'de'"
IN_JSON = "metadata ->> 'page' < 5 AND metadata ->> 'lang' = 'de'"
PLACES = [
    Place("lancedb", "lancedb", in_folder("lancedb"), lambda: "page < 5 AND lang = 'de'"),
    Place("faiss", "faiss", in_folder("faiss"), lambda: IN_JSON),
    Place("sqlite", "sqlite_vec", in_folder("sqlite"), lambda: IN_JSON),
    Place("postgresql", "psycopg", postgres_url, lambda: IN_JSONB, is_embedded=False),
    Place("chroma", "chromadb", in_folder("chroma"), lambda: CHROMA_FILTER),
    Place("milvus", "pymilvus", in_folder("milvus"), lambda: MILVUS_FILTER),
    Place("pinecone", "pinecone", pinecone_url, lambda: PINECONE_FILTER, is_embedded=False),
    Place("qdrant", "qdrant_client", qdrant_url, qdrant_filter, False, 300, name="qdrant-wire"),
    Place("weaviate", "weaviate", weaviate_url, weaviate_filter, False, 2_500),
    # its local mode writes point by point, each with a commit of its own
    Place("qdrant", "qdrant_client", in_folder("qdrant"), qdrant_filter, False, 300, ("float32",)),
]


def entries(count: int, seed: int = 0, *, rows: bool = False) -> list[Entry]:
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(count, DIMENSIONS)).astype(np.float32)
    return [
        Entry(
            f"Straße {i} '\"%_ 頁",
            f"text {i} über 世界",
            vector,
            {"lang": LANGUAGES[i % 3], "page": i, "share": i / 8, "is_new": i % 2 == 0},
            random.normal(size=(i % 4, ROW_DIMENSIONS)).astype(np.float32)
            if rows and i % 5
            else None,
        )
        for i, vector in enumerate(vectors)
    ]


def exact(given: list[Entry], vector: np.ndarray, top_k: int) -> list[tuple[str, float]]:
    """Return ids and cosines of the nearest entries, by computing all of them."""
    matrix = np.stack([entry.vector for entry in given]).astype(np.float64)
    cosines = matrix @ vector / np.linalg.norm(matrix, axis=1) / np.linalg.norm(vector)
    return [(given[i].id, cosines[i]) for i in np.argsort(-cosines, kind="stable")[:top_k]]
