"""Weaviate: ``weaviate://HOST:PORT``, or a cluster of its cloud, ``weaviate://CLUSTER`` with a key.

How many values vectors have is not in Weaviate's schema; it stands in the collection's description.
Proven against the shapes of the wire that Weaviate's own client sends and reads, not against a
server of Weaviate.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import weaviate
from weaviate.classes.config import Configure, DataType, Property, Tokenization, VectorDistances
from weaviate.classes.data import DataObject
from weaviate.classes.init import AdditionalConfig, Timeout
from weaviate.classes.query import Filter, MetadataQuery
from weaviate.exceptions import WeaviateBaseError

from polyrank.errors import CapabilityError, ConfigError, InputError, StoreError
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

_GRPC_PORT = 50_051
_LOCAL = ("localhost", "127.0.0.1")
_BATCH, _BATCH_WITH_ROWS = 200, 50  # objects in a request: 4 MB of 50 rows of 384 values each
_MOST_FOUND = 10_000
_ROWS_SINCE = (1, 29)
_NAME, _FACTS = "_name", "_facts"
_TYPES = {
    bool: DataType.BOOL,  # first, since truth values are whole numbers too
    int: DataType.INT,
    float: DataType.NUMBER,
    str: DataType.TEXT,
}
_CONFIG = AdditionalConfig(timeout=Timeout(init=10, query=60, insert=120))


class WeaviateStore(Store):
    """A collection of Weaviate. Rows are kept as a multi-vector that Weaviate compares by MaxSim.

    Its own filters name metadata as properties: ``Filter.by_property("page").less_than(5)``. A key
    that begins with a capital is the property ``_of_Key``, since Weaviate makes the letter small.
    """

    capabilities = frozenset({"rows", "scan"})
    dtypes = ("float32", "int8", "binary")
    foreign_errors = (OSError, RuntimeError, ValueError, WeaviateBaseError)

    def __init__(self, url: str, settings: StoreSettings) -> None:
        """Connect to a server and open a collection; see `Store`."""
        super().__init__(url, settings)
        with self._translating():
            self._client = _connected(url, settings.api_key)
            try:
                self._collection = self._opened()
                self._types = self._properties()
            except BaseException:
                self._client.close()
                raise

    def _opened(self) -> Any:
        settings, collections = self.settings, self._client.collections
        if not collections.exists(settings.collection):
            if not settings.create:
                raise StoreError(f"{self.url} holds no collection {settings.collection}.")
            self._make()
        collection = collections.get(settings.collection)
        try:
            held = json.loads(collection.config.get(simple=True).description or "")["polyrank"]
        except (ValueError, TypeError, KeyError) as exc:
            raise StoreError(
                f"the collection {settings.collection} of {self.url} is none of polyrank's. Name "
                "another collection."
            ) from exc
        self._compare(held["dimensions"], held["dtype"], held["row_dimensions"])
        return collection

    def _make(self) -> None:
        settings = self.settings
        if settings.row_dimensions:
            self._need_rows()
        quantizers: dict[str, Any] = {
            "float32": Configure.VectorIndex.Quantizer.none(),
            "int8": Configure.VectorIndex.Quantizer.rq(bits=8),
            "binary": Configure.VectorIndex.Quantizer.bq(rescore_limit=OVERSAMPLING * 50),
        }
        vectors = [
            Configure.Vectors.self_provided(
                name="vector",
                quantizer=quantizers[settings.dtype],
                vector_index_config=Configure.VectorIndex.hnsw(
                    distance_metric=VectorDistances.COSINE
                ),
            )
        ]
        if settings.row_dimensions:
            rows = Configure.MultiVectors.self_provided(
                name="rows",
                quantizer=Configure.VectorIndex.Quantizer.none(),
                vector_index_config=Configure.VectorIndex.hnsw(distance_metric=VectorDistances.DOT),
            )
            vectors.append(rows)
        held = {
            "dimensions": settings.dimensions,
            "dtype": settings.dtype,
            "row_dimensions": settings.row_dimensions,
        }
        self._client.collections.create(
            settings.collection,
            description=json.dumps({"polyrank": held}),
            vector_config=vectors,
            properties=[
                Property(name="text", data_type=DataType.TEXT, tokenization=Tokenization.WORD),
                _unsearched(_NAME),
                _unsearched(_FACTS),
            ],
        )

    def _need_rows(self) -> None:
        version = str(self._client.get_meta()["version"])
        if tuple(int(part) for part in version.split(".")[:2]) < _ROWS_SINCE:
            raise CapabilityError(
                f"{self.url} is Weaviate {version}, which keeps no rows of late interaction; "
                f"{'.'.join(map(str, _ROWS_SINCE))} does. Renew it, or set row_dimensions to 0."
            )

    def _properties(self) -> dict[str, DataType]:
        held = self._collection.config.get(simple=True).properties
        return {each.name: each.data_type for each in held}

    def _upsert(self, entries: Sequence[Entry]) -> None:
        self._prepare(entries)
        objects = [
            DataObject(
                uuid=uuid_of(entry.id),
                vector={"vector": entry.vector.tolist(), **_rows(entry)},
                properties={
                    **{_property(key): value for key, value in entry.metadata.items()},
                    _NAME: entry.id,
                    _FACTS: json.dumps(dict(entry.metadata)),
                    "text": entry.text,
                },
            )
            for entry in entries
        ]
        size = _BATCH_WITH_ROWS if self.settings.row_dimensions else _BATCH
        for start in range(0, len(objects), size):
            done = self._collection.data.insert_many(objects[start : start + size])
            if done.errors:
                first = next(iter(done.errors.values()))
                raise StoreError(
                    f"{self.url} took all but {len(done.errors):,} of {len(entries):,} entries: "
                    f"{first.message}. Add the entries again."
                )

    def _prepare(self, entries: Sequence[Entry]) -> None:
        """Make the properties that metadata need and the collection lacks, one type each."""
        wanted: dict[str, DataType] = {}
        for entry in entries:
            for key, value in entry.metadata.items():
                name = _property(key)
                held = wanted.get(name) or self._types.get(name)
                if held is None:
                    wanted[name] = _kind(value)
                elif not _fits(value, held):
                    raise InputError(
                        f"metadata {key!r} must be of one type in all entries of {self.url}: it is "
                        f"{held.value} there, and {type(value).__name__} in entry {entry.id!r:.80}"
                    )
        if wanted:
            self._types = self._properties()
        for name, kind in wanted.items():
            if name not in self._types:
                is_text = kind is DataType.TEXT
                tokens = Tokenization.FIELD if is_text else None  # compared whole
                made = Property(
                    name=name,
                    data_type=kind,
                    tokenization=tokens,
                    index_searchable=False if is_text else None,
                )
                self._collection.config.add_property(made)
                self._types[name] = kind

    def _search(
        self, vector: Float32Array, top_k: int, filter: Any, return_rows: bool
    ) -> list[Found]:
        if isinstance(filter, Mapping):
            if not self._can_fit(filter):
                return []
            filter = self._conditions(filter)
        hits = self._collection.query.near_vector(
            vector.tolist(),
            target_vector="vector",
            limit=min(top_k, _MOST_FOUND),
            filters=filter or None,
            include_vector=["rows"] if return_rows and self.settings.row_dimensions else False,
            return_properties=[_NAME, _FACTS, "text"],
            return_metadata=MetadataQuery(distance=True),
        ).objects
        return [_found(hit) for hit in hits]

    def _can_fit(self, filter: Mapping[str, Scalar]) -> bool:
        """Return whether the collection has properties of these names and types."""
        if any(_property(key) not in self._types for key in filter):
            self._types = self._properties()
        kinds = ((value, self._types.get(_property(key))) for key, value in filter.items())
        return all(kind is not None and _fits(value, kind) for value, kind in kinds)

    def _conditions(self, filter: Mapping[str, Scalar]) -> Any:
        parts = []
        for key, value in filter.items():
            name = _property(key)
            is_number = self._types[name] is DataType.NUMBER
            parts.append(Filter.by_property(name).equal(float(value) if is_number else value))
        return Filter.all_of(parts) if parts else None

    def _get_rows(self, ids: list[str]) -> Iterable[tuple[str, Float32Array | None]]:
        names = [uuid_of(name) for name in ids]
        hits = self._collection.query.fetch_objects(
            filters=Filter.by_id().contains_any(names),
            limit=len(ids),
            include_vector=["rows"],
            return_properties=[_NAME],
        ).objects
        return ((hit.properties[_NAME], _matrix(hit)) for hit in hits)

    def _delete(self, ids: list[str]) -> None:
        names = [uuid_of(name) for name in ids]
        done = self._collection.data.delete_many(where=Filter.by_id().contains_any(names))
        if done.failed:
            raise StoreError(f"{self.url} could not remove {done.failed:,} entries. Try again.")

    def _count(self) -> int:
        return int(self._collection.aggregate.over_all(total_count=True).total_count)

    def _scan(self) -> Iterator[tuple[str, Metadata]]:
        held = self._collection.iterator(return_properties=[_NAME, _FACTS], cache_size=BATCH_SIZE)
        for each in held:
            yield each.properties[_NAME], json.loads(each.properties[_FACTS])

    def _close(self) -> None:
        self._client.close()


def _connected(url: str, api_key: str | None) -> Any:
    """Return a client of the server at a URL; nothing else is asked, not for newer versions."""
    parts = urlsplit(url)
    if parts.port is None:
        if api_key is None:
            raise ConfigError(f"{url} needs the key of your cluster; give api_key, or a port.")
        return weaviate.connect_to_weaviate_cloud(
            parts.netloc, api_key, additional_config=_CONFIG, skip_init_checks=True
        )
    host = parts.hostname or ""
    port = parse_qs(parts.query).get("grpc", [str(_GRPC_PORT)])[0]
    if not port.isdecimal():
        raise ConfigError(f"{url}: grpc must be a port, as in ?grpc={_GRPC_PORT}, not {port!r:.40}")
    is_secure = api_key is not None and host not in _LOCAL
    return weaviate.connect_to_custom(
        *(host, parts.port, is_secure),
        *(host, int(port), is_secure),
        additional_config=_CONFIG,
        auth_credentials=api_key,
        skip_init_checks=True,
    )


def _unsearched(name: str) -> Property:
    return Property(
        name=name, data_type=DataType.TEXT, index_filterable=False, index_searchable=False
    )


def _property(key: str) -> str:
    """Return the property of a key of metadata."""
    return key if key[0].islower() else f"_of_{key}"


def _kind(value: Scalar) -> DataType:
    return next(kind for each, kind in _TYPES.items() if isinstance(value, each))


def _fits(value: Scalar, kind: DataType) -> bool:
    """Return whether a value can be one of a property; whole numbers are numbers too."""
    own = _kind(value)
    return own is kind or (own is DataType.INT and kind is DataType.NUMBER)


def _rows(entry: Entry) -> dict[str, Any]:
    """Return the rows of an entry; Weaviate takes none of no rows."""
    return {} if entry.rows is None or not len(entry.rows) else {"rows": entry.rows.tolist()}


def _found(hit: Any) -> Found:
    name, text = hit.properties[_NAME], hit.properties["text"]
    facts = json.loads(hit.properties[_FACTS])
    return Found(name, text, 1 - float(hit.metadata.distance), facts, _matrix(hit))


def _matrix(hit: Any) -> Float32Array | None:
    given = hit.vector.get("rows")
    return None if given is None else np.asarray(given, np.float32)
