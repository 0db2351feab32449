"""The stores that the conformance suite runs on, and the entries it gives them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from polyrank.stores import Entry, Store, open_store
from polyrank.stores.opening import KINDS

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
        is_embedded: Whether it lives in this process and on this disk.
    """

    scheme: str
    module: str
    url: Callable[[Path], str]
    native: Callable[[], Any] | None = None
    is_embedded: bool = True
    options: dict[str, Any] = field(default_factory=dict)

    def open(self, folder: Path, **options: Any) -> Store:
        settings = {"dimensions": DIMENSIONS, **self.options, **options}
        return open_store(self.url(folder), **settings)

    @property
    def dtypes(self) -> tuple[str, ...]:
        return self._class.dtypes

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


IN_JSON = "metadata ->> 'page' < 5 AND metadata ->> 'lang' = 'de'"
PLACES = [
    Place("lancedb", "lancedb", in_folder("lancedb"), lambda: "page < 5 AND lang = 'de'"),
    Place("faiss", "faiss", in_folder("faiss"), lambda: IN_JSON),
    Place("sqlite", "sqlite_vec", in_folder("sqlite"), lambda: IN_JSON),
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
