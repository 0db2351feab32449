"""Pinecone: a namespace of an index that is there, as in ``pinecone://INDEX-HOST``.

An index is made in Pinecone's console, with the metric cosine; its host is shown there. A host on
this machine, as Pinecone's emulator has it, is spoken to without TLS. Proven against the shapes of
the wire that Pinecone's own client sends and reads, not against the service.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from pinecone import Pinecone
from pinecone.errors.exceptions import PineconeError

from polyrank.errors import ConfigError, StoreError
from polyrank.stores.base import (
    Entry,
    Found,
    Metadata,
    Store,
    StoreSettings,
    is_equalities,
    uuid_of,
)
from polyrank.types import Float32Array

_BATCH = 100  # a request is 2 MB at most, 40 kB of metadata and text for an entry
_MOST_FOUND = 10_000
_LOCAL = ("localhost", "127.0.0.1")


class PineconeStore(Store):
    """A namespace of an index. What was written is found, and counted, some seconds later."""

    capabilities = frozenset({"scan"})
    has_mapping_filters = True
    foreign_errors = (OSError, PineconeError)

    def __init__(self, url: str, settings: StoreSettings) -> None:
        """Connect to the host of an index; see `Store`."""
        super().__init__(url, settings)
        host, self._name = url.partition("://")[2], settings.collection
        is_local = host.partition(":")[0] in _LOCAL
        if settings.api_key is None and not is_local:
            raise ConfigError(f"{url} needs the key of your Pinecone project; give api_key.")
        with self._translating():
            client = Pinecone(api_key=settings.api_key or "local")
            self._index: Any = client.Index(host=f"http://{host}" if is_local else host)
            held = self._index.describe_index_stats()
        if self._name not in held.namespaces and not settings.create:
            raise StoreError(f"{url} holds no namespace {self._name}.")
        self._compare(int(held.dimension or 0), "float32", 0)

    def _upsert(self, entries: Sequence[Entry]) -> None:
        for start in range(0, len(entries), _BATCH):
            vectors = [
                {
                    "id": uuid_of(entry.id),  # which takes no other letters than English ones
                    "values": entry.vector.tolist(),
                    "metadata": {**entry.metadata, "id": entry.id, "text": entry.text},
                }
                for entry in entries[start : start + _BATCH]
            ]
            self._index.upsert(vectors=vectors, namespace=self._name)

    def _search(
        self, vector: Float32Array, top_k: int, filter: Any, return_rows: bool
    ) -> list[Found]:
        if is_equalities(filter):
            filter = {key: {"$eq": value} for key, value in filter.items()}
        hits = self._index.query(
            vector=vector.tolist(),
            top_k=min(top_k, _MOST_FOUND),
            namespace=self._name,
            filter=filter or None,
            include_metadata=True,
        ).matches
        found = [(dict(hit.metadata), float(hit.score)) for hit in hits]
        return [Found(facts.pop("id"), facts.pop("text"), score, facts) for facts, score in found]

    def _delete(self, ids: list[str]) -> None:
        self._index.delete(ids=[uuid_of(name) for name in ids], namespace=self._name)

    def _count(self) -> int:
        held = self._index.describe_index_stats().namespaces.get(self._name)
        return 0 if held is None else int(held.vector_count)

    def _scan(self) -> Iterator[tuple[str, Metadata]]:
        for page in self._index.list(limit=_BATCH, namespace=self._name):
            keys = [item.id for item in page.vectors]
            entries = self._index.fetch(ids=keys, namespace=self._name).vectors
            for entry in entries.values():
                facts = dict(entry.metadata)
                facts.pop("text")
                yield facts.pop("id"), facts

    def _close(self) -> None:
        self._index.close()
