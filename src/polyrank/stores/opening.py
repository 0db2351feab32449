"""From the URL of a store to the store: the one place that knows which there are."""

from dataclasses import dataclass
from importlib import import_module

from polyrank import _extras
from polyrank.errors import ConfigError
from polyrank.stores.base import Store, StoreDtype, StoreSettings


@dataclass(frozen=True, slots=True)
class StoreKind:
    """A kind of store.

    Attributes:
        module: Its file in `polyrank.stores`.
        class_name: The class in it.
        extra: What to install for it.
        example: How its URLs look.
    """

    module: str
    class_name: str
    extra: str
    example: str


KINDS = {
    "lancedb": StoreKind("lancedb", "LanceStore", "lancedb", "lancedb://FOLDER"),
    "faiss": StoreKind("faiss", "FaissStore", "faiss", "faiss://FOLDER"),
    "sqlite": StoreKind("sqlite", "SqliteStore", "sqlite", "sqlite://FILE"),
    "qdrant": StoreKind("qdrant", "QdrantStore", "qdrant", "qdrant://HOST:PORT or FOLDER"),
    "chroma": StoreKind("chroma", "ChromaStore", "chroma", "chroma://HOST:PORT or FOLDER"),
    "milvus": StoreKind("milvus", "MilvusStore", "milvus", "milvus://HOST:PORT or FILE.db"),
    "pinecone": StoreKind("pinecone", "PineconeStore", "pinecone", "pinecone://INDEX-HOST"),
    "weaviate": StoreKind(
        "weaviate", "WeaviateStore", "weaviate", "weaviate://HOST:PORT or CLUSTER"
    ),
    "postgresql": StoreKind(
        "postgresql", "PostgresStore", "pgvector", "postgresql://USER@HOST/DATABASE"
    ),
}
"""Kinds by the scheme of their URLs."""


def open_store(
    url: str,
    *,
    dimensions: int,
    dtype: StoreDtype = "float32",
    row_dimensions: int = 0,
    collection: str = "polyrank",
    create: bool = True,
    api_key: str | None = None,
) -> Store:
    """Open a store of vectors, or make it.

    Args:
        url: Scheme and place, as in ``lancedb://index`` (a folder here), ``lancedb:///var/index``
            or ``qdrant://localhost:6333``.
        dimensions: Values of a vector; `Embedder.dimensions`, or what vectors are shortened to.
        dtype: How vectors are kept; see `StoreSettings`.
        row_dimensions: Values of a row of late interaction; 0 keeps no rows.
        collection: The table, collection, class or index inside the store.
        create: Whether to make what is not there yet.
        api_key: Key of a server that asks for one.

    Returns:
        The open store.

    Raises:
        ConfigError: If the URL names no kind of store, or a setting is out of range.
        CapabilityError: If this kind keeps no such vectors or rows.
        MissingExtraError: If its client is not installed.
        StoreError: If it cannot be opened, is not there, or holds other vectors.
    """
    settings = StoreSettings(dimensions, dtype, row_dimensions, collection, create, api_key)
    scheme, separator, place = url.partition("://")
    kind = KINDS.get(scheme)
    if kind is None or not separator or not place:
        known = ", ".join(kind.example for kind in KINDS.values())
        raise ConfigError(f"{url!r:.120} names no store. Write it as one of: {known}.")
    _extras.require(kind.extra, purpose=f"A store at {scheme}://")
    cls: type[Store] = getattr(import_module(f"polyrank.stores.{kind.module}"), kind.class_name)
    return cls(url, settings)
