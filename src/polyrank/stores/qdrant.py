"""Qdrant: a server at ``qdrant://HOST:PORT``, or its local mode in a folder, ``qdrant://FOLDER``.

The local mode is Python that compares every vector: for trying things out. On a server int8 and
binary are copies in memory to search by; the vectors themselves stay on the disk, to choose the
best of what the copies find.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import ApiException

from polyrank.errors import CapabilityError, StoreError
from polyrank.stores.base import (
    BATCH_SIZE,
    OVERSAMPLING,
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
_BATCH_WITH_ROWS = 50  # points in a request: 4 MB of 50 rows of 384 values each
_SEARCH = models.SearchParams(
    quantization=models.QuantizationSearchParams(rescore=True, oversampling=float(OVERSAMPLING))
)


class QdrantStore(Store):
    """A collection of Qdrant. Rows are kept as a multi-vector that Qdrant compares by MaxSim."""

    capabilities = frozenset({"rows", "scan"})
    dtypes = ("float32", "float16", "int8", "binary")
    foreign_errors = (OSError, RuntimeError, ValueError, ApiException)

    def __init__(self, url: str, settings: StoreSettings) -> None:
        """Open a server's collection or a folder; see `Store`."""
        super().__init__(url, settings)
        place, key, self._name = url.partition("://")[2], settings.api_key, settings.collection
        is_server = _SERVER.fullmatch(place) is not None
        if settings.dtype != "float32" and not is_server:
            raise CapabilityError(f"{url} is Qdrant's local mode, which keeps float32 alone.")
        with self._translating():
            if is_server:
                scheme = "http" if key is None else "https"
                self._client = QdrantClient(
                    f"{scheme}://{place}", api_key=key, check_compatibility=False, timeout=60
                )
            else:
                self._client = QdrantClient(path=place)
            try:
                self._open()
            except BaseException:
                self._client.close()
                raise

    def _open(self) -> None:
        settings = self.settings
        if not self._client.collection_exists(self._name):
            if not settings.create:
                raise StoreError(f"{self.url} holds no collection {self._name}.")
            self._make()
        vectors = self._client.get_collection(self._name).config.params.vectors
        if not isinstance(vectors, dict) or "vector" not in vectors:
            raise StoreError(f"the collection {self._name} of {self.url} is none of polyrank's.")
        rows = vectors.get("rows")
        held = _dtype(vectors["vector"])
        self._compare(vectors["vector"].size, held, 0 if rows is None else rows.size)

    def _make(self) -> None:
        settings = self.settings
        quantizations: dict[str, Any] = {
            "int8": models.ScalarQuantization(
                scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8, always_ram=True)
            ),
            "binary": models.BinaryQuantization(
                binary=models.BinaryQuantizationConfig(always_ram=True)
            ),
        }
        half = models.Datatype.FLOAT16
        vectors = {
            "vector": models.VectorParams(
                size=settings.dimensions,
                distance=models.Distance.COSINE,
                datatype=half if settings.dtype == "float16" else None,
                quantization_config=quantizations.get(settings.dtype),
                on_disk=True if settings.dtype in quantizations else None,
            )
        }
        if settings.row_dimensions:
            vectors["rows"] = models.VectorParams(
                size=settings.row_dimensions,
                distance=models.Distance.DOT,
                # float32 rows give the scores of reading
                datatype=None if settings.dtype == "float32" else half,
                multivector_config=models.MultiVectorConfig(
                    comparator=models.MultiVectorComparator.MAX_SIM
                ),
                hnsw_config=models.HnswConfigDiff(m=0),  # they are read, not searched
                on_disk=True,
            )
        self._client.create_collection(self._name, vectors_config=vectors)

    def _upsert(self, entries: Sequence[Entry]) -> None:
        points = [
            models.PointStruct(
                id=uuid_of(entry.id),
                vector={"vector": entry.vector.tolist(), **_rows(entry)},
                payload={**entry.metadata, "id": entry.id, "text": entry.text},
            )
            for entry in entries
        ]
        size = _BATCH_WITH_ROWS if self.settings.row_dimensions else BATCH_SIZE
        for start in range(0, len(points), size):
            self._client.upsert(self._name, points[start : start + size], wait=True)

    def _search(
        self, vector: Float32Array, top_k: int, filter: Any, return_rows: bool
    ) -> list[Found]:
        if isinstance(filter, Mapping):
            conditions = [_condition(key, value) for key, value in filter.items()]
            filter = models.Filter(must=conditions) if conditions else None
        is_quantized = self.settings.dtype in ("int8", "binary")
        points = self._client.query_points(
            self._name,
            query=vector.tolist(),
            using="vector",
            limit=top_k,
            query_filter=filter,
            search_params=_SEARCH if is_quantized else None,
            with_payload=True,
            with_vectors=["rows"] if return_rows else False,
        ).points
        return [_found(point) for point in points]

    def _get_rows(self, ids: list[str]) -> Iterable[tuple[str, Float32Array | None]]:
        points = self._client.retrieve(
            self._name, [uuid_of(name) for name in ids], with_payload=["id"], with_vectors=["rows"]
        )
        return ((point.payload["id"], _matrix(point)) for point in points if point.payload)

    def _delete(self, ids: list[str]) -> None:
        self._client.delete(self._name, [uuid_of(name) for name in ids], wait=True)

    def _count(self) -> int:
        return int(self._client.count(self._name, exact=True).count)

    def _scan(self) -> Iterator[tuple[str, Metadata]]:
        offset: Any = None
        while True:
            points, offset = self._client.scroll(
                self._name, limit=BATCH_SIZE, offset=offset, with_payload=True
            )
            for point in points:
                facts = dict(point.payload or {})
                facts.pop("text", None)
                yield facts.pop("id"), facts
            if offset is None:
                return

    def _close(self) -> None:
        self._client.close()


def _rows(entry: Entry) -> dict[str, Any]:
    """Return the rows of an entry; Qdrant takes none of no rows."""
    return {} if entry.rows is None or not len(entry.rows) else {"rows": entry.rows.tolist()}


def _condition(key: str, value: Scalar) -> Any:
    if isinstance(value, float):  # which are not matched, but compared
        return models.FieldCondition(key=key, range=models.Range(gte=value, lte=value))
    return models.FieldCondition(key=key, match=models.MatchValue(value=value))


def _dtype(params: Any) -> str:
    if params.quantization_config is not None:
        return "binary" if hasattr(params.quantization_config, "binary") else "int8"
    return "float16" if params.datatype == models.Datatype.FLOAT16 else "float32"


def _found(point: Any) -> Found:
    facts = dict(point.payload)
    score = float(point.score)
    return Found(facts.pop("id"), facts.pop("text"), score, facts, _matrix(point))


def _matrix(point: Any) -> Float32Array | None:
    given = (point.vector or {}).get("rows")
    return None if given is None else np.asarray(given, np.float32)
