"""Chroma: a server at ``chroma://HOST:PORT``, or a folder, ``chroma://FOLDER``; float32 by HNSW."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import chromadb
import numpy as np
from chromadb.config import Settings
from chromadb.errors import ChromaError

from polyrank.errors import StoreError
from polyrank.stores.base import (
    BATCH_SIZE,
    Entry,
    Found,
    Metadata,
    Store,
    StoreSettings,
    is_equalities,
)
from polyrank.types import Float32Array

_SERVER = re.compile(r"[\w.\-\[\]:]+:\d+")
_WIDTH = 200  # candidates that its graph looks at; recall@100 is measured with it


class ChromaStore(Store):
    """A collection of Chroma."""

    capabilities = frozenset({"scan"})
    has_mapping_filters = True
    foreign_errors = (OSError, RuntimeError, ValueError, ChromaError)

    def __init__(self, url: str, settings: StoreSettings) -> None:
        """Open a server's collection or a folder; see `Store`."""
        super().__init__(url, settings)
        place = url.partition("://")[2]
        quiet = Settings(anonymized_telemetry=False)
        with self._translating():
            if _SERVER.fullmatch(place):
                host, _, port = place.rpartition(":")
                headers = {"x-chroma-token": settings.api_key} if settings.api_key else None
                self._client = chromadb.HttpClient(
                    host, int(port), ssl=bool(settings.api_key), headers=headers, settings=quiet
                )
            else:
                self.disk = Path(place)  # errors of its compaction tell no cause
                self._client = chromadb.PersistentClient(place, quiet)
            self._collection = self._opened()
        held = self._collection.metadata or {}
        if "polyrank_dimensions" not in held:
            raise StoreError(
                f"the collection {settings.collection} of {url} is none of polyrank's. Name "
                "another collection."
            )
        self._compare(int(held["polyrank_dimensions"]), "float32", 0)

    def _opened(self) -> Any:
        name = self.settings.collection
        if name not in {known.name for known in self._client.list_collections()}:
            if not self.settings.create:
                raise StoreError(f"{self.url} holds no collection {name}.")
            return self._client.create_collection(
                name,
                embedding_function=None,
                metadata={"polyrank_dimensions": self.settings.dimensions},
                configuration={"hnsw": {"space": "cosine", "ef_search": _WIDTH}},
            )
        return self._client.get_collection(name, embedding_function=None)

    def _upsert(self, entries: Sequence[Entry]) -> None:
        names = [entry.id for entry in entries]
        known = self._collection.get(names, include=["metadatas"])
        older = dict(zip(known["ids"], known["metadatas"], strict=True))
        self._collection.upsert(
            names,
            embeddings=np.stack([entry.vector for entry in entries]),
            documents=[entry.text for entry in entries],
            # a key that an entry has no longer would stay unless it is set to nothing
            metadatas=[
                {**dict.fromkeys(older.get(entry.id) or {}), **entry.metadata} or None
                for entry in entries
            ],
        )

    def _search(
        self, vector: Float32Array, top_k: int, filter: Any, return_rows: bool
    ) -> list[Found]:
        if is_equalities(filter):
            filter = _where(filter)
        found = self._collection.query(
            query_embeddings=[vector],
            n_results=min(top_k, max(self._collection.count(), 1)),
            where=filter or None,
            include=["documents", "metadatas", "distances"],
        )
        parts = (found["ids"], found["documents"], found["distances"], found["metadatas"])
        return [
            Found(name, text, 1 - float(distance), dict(facts or {}))
            for name, text, distance, facts in zip(*(part[0] for part in parts), strict=True)
        ]

    def _delete(self, ids: list[str]) -> None:
        self._collection.delete(ids)

    def _count(self) -> int:
        return int(self._collection.count())

    def _scan(self) -> Iterator[tuple[str, Metadata]]:
        for start in range(0, self._count(), BATCH_SIZE):
            part = self._collection.get(include=["metadatas"], limit=BATCH_SIZE, offset=start)
            for name, facts in zip(part["ids"], part["metadatas"], strict=True):
                yield name, dict(facts or {})

    def _close(self) -> None:
        close = getattr(self._client, "close", None)
        if close is not None:
            close()


def _where(filter: Mapping[str, Any]) -> Any:
    """Return equalities as Chroma has them."""
    parts = [{key: {"$eq": value}} for key, value in filter.items()]
    if not parts:
        return None
    return {"$and": parts} if len(parts) > 1 else parts[0]
