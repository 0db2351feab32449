"""Milvus Lite: a file, as in ``milvus://index.db``; a server of Milvus at ``milvus://HOST:PORT``."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pymilvus import DataType, MilvusClient
from pymilvus.exceptions import MilvusException

from polyrank.errors import InputError, StoreError
from polyrank.stores.base import (
    BATCH_SIZE,
    Entry,
    Found,
    Metadata,
    Scalar,
    Store,
    StoreSettings,
    uuid_of,
)
from polyrank.types import Float32Array

_SERVER = re.compile(r"[\w.\-\[\]:]+:\d+")
_MOST_BYTES = 65_535  # of a text
_MOST_FOUND = 16_384  # that one search gives


class MilvusStore(Store):
    """A collection of Milvus; its own filters name metadata as ``metadata["page"] < 5``."""

    capabilities = frozenset({"scan"})
    foreign_errors = (OSError, RuntimeError, ValueError, MilvusException)

    def __init__(self, url: str, settings: StoreSettings) -> None:
        """Open a file or a server's collection; see `Store`."""
        super().__init__(url, settings)
        place, self._name = url.partition("://")[2], settings.collection
        is_server = _SERVER.fullmatch(place) is not None
        # Milvus tells files by their ending
        self._file = None if is_server else place if place.endswith(".db") else f"{place}.db"
        with self._translating():
            if self._file is not None:
                Path(self._file).parent.mkdir(parents=True, exist_ok=True)
            self._client = MilvusClient(
                self._file or f"http://{place}", token=settings.api_key or ""
            )
            try:
                self._open()
            except BaseException:
                self._close()
                raise

    def _open(self) -> None:
        if not self._client.has_collection(self._name):
            if not self.settings.create:
                raise StoreError(f"{self.url} holds no collection {self._name}.")
            self._make()
        self._client.load_collection(self._name)
        fields = self._client.describe_collection(self._name)["fields"]
        sizes = {field["name"]: field["params"].get("dim") for field in fields}
        if not sizes.get("vector"):
            raise StoreError(f"the collection {self._name} of {self.url} is none of polyrank's.")
        self._compare(int(sizes["vector"]), "float32", 0)

    def _make(self) -> None:
        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
        # names of entries hold characters that the client's own expressions do not quote
        schema.add_field("key", DataType.VARCHAR, is_primary=True, max_length=36)
        schema.add_field("id", DataType.VARCHAR, max_length=_MOST_BYTES)
        schema.add_field("text", DataType.VARCHAR, max_length=_MOST_BYTES)
        schema.add_field("metadata", DataType.JSON)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=self.settings.dimensions)
        index = self._client.prepare_index_params()
        index.add_index("vector", index_type="AUTOINDEX", metric_type="COSINE")
        self._client.create_collection(self._name, schema=schema, index_params=index)

    def _upsert(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            size = max(len(entry.text.encode()), len(entry.id.encode()))
            if size > _MOST_BYTES:
                raise InputError(
                    f"entry {entry.id!r:.80} has {size:,} bytes of text; Milvus takes "
                    f"{_MOST_BYTES:,}. Split the text."
                )
        rows = [
            {
                "key": uuid_of(entry.id),
                "id": entry.id,
                "text": entry.text,
                "metadata": dict(entry.metadata),
                "vector": entry.vector,
            }
            for entry in entries
        ]
        self._client.upsert(self._name, rows)

    def _search(
        self, vector: Float32Array, top_k: int, filter: Any, return_rows: bool
    ) -> list[Found]:
        if isinstance(filter, Mapping):
            filter = " and ".join(
                f'metadata["{key}"] == {_literal(v)}' for key, v in filter.items()
            )
        hits = self._client.search(
            self._name,
            [vector],
            filter=filter or "",
            limit=min(top_k, _MOST_FOUND),
            output_fields=["id", "text", "metadata"],
            consistency_level="Strong",
        )[0]
        rows = [(hit["entity"], float(hit["distance"])) for hit in hits]
        return [Found(row["id"], row["text"], score, row["metadata"]) for row, score in rows]

    def _delete(self, ids: list[str]) -> None:
        self._client.delete(self._name, ids=[uuid_of(name) for name in ids])

    def _count(self) -> int:
        rows = self._client.query(
            self._name, filter="", output_fields=["count(*)"], consistency_level="Strong"
        )
        return int(rows[0]["count(*)"])

    def _scan(self) -> Iterator[tuple[str, Metadata]]:
        pages = self._client.query_iterator(
            self._name, batch_size=BATCH_SIZE, output_fields=["id", "metadata"]
        )
        try:
            while rows := pages.next():
                yield from ((row["id"], row["metadata"]) for row in rows)
        finally:
            pages.close()

    def _close(self) -> None:
        self._client.close()
        if self._file is not None:
            # the client leaves the thread that holds the file to the end of the process
            from milvus_lite.server_manager import server_manager_instance

            server_manager_instance.release_server(self._file)


def _literal(value: Scalar) -> str:
    return json.dumps(value, ensure_ascii=False)
