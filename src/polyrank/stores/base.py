"""What all stores of vectors have in common: entries, settings, checks, batches, errors.

A `Store` keeps texts with a vector and metadata each, and finds those nearest to a query's vector
by cosine. This file knows no store: `polyrank.stores.opening` maps URLs to them. A store's own file
implements the methods with a leading underline; what is checked before they are called is checked
here, once for all stores.
"""

import re
import uuid
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from polyrank._closing import Closing
from polyrank.config import check_choice, check_whole
from polyrank.errors import CapabilityError, InputError, PolyrankError, StoreMismatchError
from polyrank.progress import Progress
from polyrank.stores.failures import translated
from polyrank.tasks.embed import quantize_vectors
from polyrank.tasks.heads import normalize
from polyrank.types import Float32Array

Scalar = str | int | float | bool
Metadata = Mapping[str, Scalar]
StoreDtype = Literal["float32", "float16", "int8", "binary"]
Capability = Literal["rows", "scan", "text", "index"]

BATCH_SIZE = 1_000  # entries written at a time: 1.5 MB of 384 float32 values
OVERSAMPLING = 8  # candidates by bits for each result wanted, of which finer vectors choose
RESERVED = frozenset({"id", "text", "vector", "rows", "fine", "bits"})
_NAMES = uuid.UUID("5f0c8c1e-3b0a-4f0e-9c39-6d0f3f9d9a52")
_KEY = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}")
_WITHOUT_ROWS = "Leave them out, or take a store that keeps them, such as lancedb:// or sqlite://."
_NO_METADATA: Metadata = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Entry:
    """A text to keep.

    Attributes:
        id: Its name, unique in the store; an entry of the same name takes its place.
        text: The text.
        vector: Its vector, shape (dimensions,); stores keep it at unit length.
        metadata: Facts to filter by. A key is a letter followed by letters, digits and
            underlines, and is none of the store's own words (`RESERVED`).
        rows: What late interaction compares, shape (num_rows, row_dimensions); see
            `Reranker.token_vectors`.
    """

    id: str
    text: str
    vector: Float32Array
    metadata: Metadata = field(default_factory=lambda: _NO_METADATA)
    rows: Float32Array | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """A text that was found.

    Attributes:
        id: Its name.
        text: The text.
        score: Cosine with the query's vector, -1 to 1; by words, what the store gives.
        metadata: What was kept with it.
        rows: Its rows, where they were kept and asked for.
    """

    id: str
    text: str
    score: float
    metadata: Metadata
    rows: Float32Array | None = None


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """What a store holds.

    Attributes:
        dimensions: Values of a vector.
        dtype: How vectors are kept. "binary" keeps a bit for each value to search by, and eight
            for each to choose the best of what the bits find.
        row_dimensions: Values of a row of late interaction; 0 keeps no rows.
        collection: The table, collection, class or index inside the store.
        create: Whether to make what is not there yet.
        api_key: Key of a server that asks for one.
    """

    dimensions: int
    dtype: StoreDtype = "float32"
    row_dimensions: int = 0
    collection: str = "polyrank"
    create: bool = True
    api_key: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Check the values."""
        check_whole("dimensions", self.dimensions, high=65_536)
        check_whole("row_dimensions", self.row_dimensions, low=0, high=65_536)
        check_choice("dtype", self.dtype, get_args(StoreDtype))
        if not _KEY.fullmatch(self.collection):
            raise InputError(
                "collection must be a letter followed by at most 62 letters, digits and "
                f"underlines, not {self.collection!r:.80}"
            )


class Store(Closing):
    """A store of texts with vectors and metadata, searched by cosine. Closed by `with`."""

    capabilities: ClassVar[frozenset[Capability]] = frozenset()
    dtypes: ClassVar[tuple[StoreDtype, ...]] = ("float32",)
    has_mapping_filters: ClassVar[bool] = False
    """Whether the store's own filters are mappings too, whose values are not all scalars."""
    foreign_errors: ClassVar[tuple[type[BaseException], ...]] = (OSError,)
    """What the client raises; translated by `polyrank.stores.failures`."""
    disk: Path | None = None
    """Where the store writes, if its client may not tell that no room is left there."""

    def __init__(self, url: str, settings: StoreSettings) -> None:
        """Take where the store is and what it holds; whoever inherits opens it.

        Args:
            url: As the caller named it, for messages.
            settings: What it holds.

        Raises:
            CapabilityError: If it keeps no vectors of this dtype, or no rows.
        """
        self.url, self.settings = url, settings
        if settings.dtype not in self.dtypes:
            raise CapabilityError(
                f"{url} keeps no {settings.dtype} vectors. Choose one of: {', '.join(self.dtypes)}."
            )
        if settings.row_dimensions:
            self._need("rows", f"keeps no rows of late interaction. {_WITHOUT_ROWS}")

    def add(
        self, entries: Iterable[Entry], *, total: int = 0, progress: Progress | None = None
    ) -> int:
        """Keep entries, in place of those of the same names.

        They are written in batches of `BATCH_SIZE`: no more of an iterator lies in memory, and
        after a kill each batch is there whole or not at all.

        Args:
            entries: Any number.
            total: How many there are, for `progress`, where it is known.
            progress: Called with entries written and `total`, after each batch.

        Returns:
            How many entries were written.

        Raises:
            InputError: If an entry does not fit the store.
            StoreError: If the store cannot take it.
        """
        done, source = 0, iter(entries)
        try:
            while batch := list(islice(source, BATCH_SIZE)):
                # of equal names in a batch the last one stays, as it does across batches
                unique = list({entry.id: self._checked(entry) for entry in batch}.values())
                with self._translating():
                    self._upsert(unique)
                done += len(batch)
                if progress is not None:
                    progress(done, max(total, done))
        finally:
            with self._translating():
                self._flush()
        return done

    def query(
        self, vector: Float32Array, top_k: int, *, filter: Any = None, return_rows: bool = False
    ) -> list[Found]:
        """Return the entries nearest to a vector, best first.

        Args:
            vector: Shape (dimensions,).
            top_k: How many at most.
            filter: A mapping of metadata keys to the values that entries must have, or the store's
                own filter, which is passed on as it is.
            return_rows: Whether to read the rows of late interaction too.

        Returns:
            At most `top_k`; ties are in the store's order.

        Raises:
            ConfigError: If `top_k` is below 1.
            InputError: If the vector does not fit the store.
            StoreError: If the store cannot answer.
        """
        check_whole("top_k", top_k)
        checked = _unit(self._fitting(vector, "the query's vector"))
        with self._translating():
            return self._search(checked, top_k, self._passed(filter), return_rows)

    def query_text(self, text: str, top_k: int, *, filter: Any = None) -> list[Found]:
        """Return the entries whose words match a text best, best first.

        Args:
            text: What is looked for, as a person writes it.
            top_k: How many at most.
            filter: As for `query`.

        Returns:
            At most `top_k`, with the store's own scores, the higher the better.

        Raises:
            CapabilityError: If the store searches no words ("text" is not in `capabilities`).
            StoreError: If the store cannot answer.
        """
        self._need("text", "searches no words.")
        check_whole("top_k", top_k)
        if not text.strip():
            return []
        with self._translating():
            return self._search_text(text, top_k, self._passed(filter))

    def get_rows(self, ids: Iterable[str]) -> dict[str, Float32Array]:
        """Return the rows of late interaction of some entries.

        Args:
            ids: Names of the entries.

        Returns:
            Rows by name, shape (num_rows, row_dimensions) each; entries that are not there or have
            none are left out.

        Raises:
            CapabilityError: If the store keeps no rows.
            StoreError: If the store cannot answer.
        """
        self._need("rows", f"keeps no rows of late interaction. {_WITHOUT_ROWS}")
        if not self.settings.row_dimensions:
            return {}
        source = iter(ids)
        found: dict[str, Float32Array | None] = {}
        while batch := list(islice(source, BATCH_SIZE)):
            with self._translating():
                found.update(self._get_rows(batch))
        return {name: rows for name, rows in found.items() if rows is not None and len(rows)}

    def delete(self, ids: Iterable[str]) -> None:
        """Remove entries by their names; names that are not there are passed over."""
        source = iter(ids)
        while batch := list(islice(source, BATCH_SIZE)):
            with self._translating():
                self._delete(batch)

    def count(self) -> int:
        """Return how many entries there are."""
        with self._translating():
            return self._count()

    def scan(self) -> Iterator[tuple[str, Metadata]]:
        """List what is there.

        Yields:
            The name and the metadata of every entry, in no order.

        Raises:
            CapabilityError: If the store cannot list what it holds.
        """
        self._need("scan", "cannot list its entries.")
        with self._translating():
            yield from self._scan()

    def optimize(self) -> None:
        """Make or renew the store's approximate index and tidy its files; worth it at 100,000.

        Raises:
            CapabilityError: If the store has nothing to make ("index" is not in `capabilities`).
        """
        self._need("index", "has no index to make: it searches all vectors, or does so by itself.")
        with self._translating():
            self._optimize()

    def close(self) -> None:
        """Write what is open and let the store go; again does nothing."""
        with self._translating():
            self._close()

    @abstractmethod
    def _upsert(self, entries: Sequence[Entry]) -> None:
        """Write checked entries, all or none of them."""

    def _flush(self) -> None:
        """Write what the last batches have left open, where a store leaves some."""
        return

    @abstractmethod
    def _search(
        self, vector: Float32Array, top_k: int, filter: Any, return_rows: bool
    ) -> list[Found]:
        """Return the nearest entries to a vector of unit length."""

    def _search_text(self, text: str, top_k: int, filter: Any) -> list[Found]:
        raise NotImplementedError

    def _get_rows(self, ids: list[str]) -> Iterable[tuple[str, Float32Array | None]]:
        raise NotImplementedError

    @abstractmethod
    def _delete(self, ids: list[str]) -> None:
        """Remove some entries."""

    @abstractmethod
    def _count(self) -> int:
        """Return how many entries there are."""

    def _scan(self) -> Iterator[tuple[str, Metadata]]:
        raise NotImplementedError

    def _optimize(self) -> None:
        raise NotImplementedError

    @abstractmethod
    def _close(self) -> None:
        """Let the store go."""

    def _need(self, capability: Capability, lack: str) -> None:
        if capability not in self.capabilities:
            raise CapabilityError(f"{self.url} {lack}")

    @contextmanager
    def _translating(self) -> Iterator[None]:
        """Raise errors of the store's client as ours."""
        try:
            yield
        except PolyrankError:
            raise
        except self.foreign_errors as exc:
            raise translated(exc, self.url, self.disk) from exc

    def _compare(self, dimensions: int, dtype: str, row_dimensions: int) -> None:
        """Compare what an opened store holds with what was asked for.

        Args:
            dimensions: Values of its vectors.
            dtype: How it keeps them.
            row_dimensions: Values of its rows.

        Raises:
            StoreMismatchError: If they differ.
        """
        wanted = self.settings
        if (dimensions, dtype, row_dimensions) != (
            wanted.dimensions,
            wanted.dtype,
            wanted.row_dimensions,
        ):
            raise StoreMismatchError(
                f"{self.url} holds {_shape(dimensions, dtype, row_dimensions)}, but "
                f"{_shape(wanted.dimensions, wanted.dtype, wanted.row_dimensions)} were asked "
                "for. Open it with what it holds and the model that filled it, or name another "
                "collection or place."
            )

    def _checked(self, entry: Entry) -> Entry:
        what = f"entry {entry.id!r:.80}"
        if not _is_text(entry.id) or not entry.id:
            raise InputError(
                f"an entry's id must be a text that is not empty, not {entry.id!r:.80}"
            )
        metadata = {self._key(key): _scalar(key, value) for key, value in entry.metadata.items()}
        vector = _unit(self._fitting(entry.vector, f"the vector of {what}"))
        return Entry(entry.id, entry.text, vector, metadata, self._fitting_rows(entry, what))

    def _fitting(self, vector: Float32Array, what: str) -> Float32Array:
        values = np.asarray(vector, np.float32)
        if values.shape != (self.settings.dimensions,):
            raise InputError(
                f"{what} has shape {values.shape}; {self.url} holds vectors of "
                f"{self.settings.dimensions} values. Embed with the model that filled it."
            )
        if not np.isfinite(values).all():
            raise InputError(f"{what} holds values that are not finite")
        return values

    def _fitting_rows(self, entry: Entry, what: str) -> Float32Array | None:
        width = self.settings.row_dimensions
        if entry.rows is None or not width:
            return None
        if entry.rows.ndim != 2 or entry.rows.shape[1] != width:
            raise InputError(
                f"the rows of {what} have shape {entry.rows.shape}; {self.url} holds rows of "
                f"{width} values"
            )
        return np.ascontiguousarray(entry.rows, np.float32)

    def _passed(self, filter: Any) -> Any:
        """Return a filter of equalities checked, and one of the store's own as it is."""
        if not isinstance(filter, Mapping):
            return filter
        if self.has_mapping_filters and not all(map(_is_scalar, filter.values())):
            return filter
        return {self._key(key): _scalar(key, value) for key, value in filter.items()}

    def _key(self, key: str) -> str:
        if not _is_text(key) or not _KEY.fullmatch(key) or key in RESERVED:
            raise InputError(
                f"{key!r:.80} cannot be a key of metadata: take a letter followed by at most 62 "
                f"letters, digits and underlines, and none of {', '.join(sorted(RESERVED))}"
            )
        return key


def to_bits(vectors: Float32Array) -> NDArray[np.uint8]:
    """Return the signs of vectors, eight to a byte, shape (num_vectors, ceil(dim / 8))."""
    return quantize_vectors(vectors, "ubinary")


def to_int8(vectors: Float32Array) -> NDArray[np.int8]:
    """Return vectors as int8, each scaled by its largest value, which leaves its cosines."""
    return quantize_vectors(vectors, "int8")


def cosines_with(vector: Float32Array, fine: NDArray[Any]) -> Float32Array:
    """Return the cosine of a unit vector with vectors of any type.

    Args:
        vector: Shape (dim,).
        fine: Shape (num_vectors, dim).

    Returns:
        Shape (num_vectors,).
    """
    return np.asarray(normalize(np.asarray(fine, np.float32)) @ vector, np.float32)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _unit(vector: Float32Array) -> Float32Array:
    return normalize(vector[None, :])[0]


def is_equalities(filter: Any) -> bool:
    """Return whether a filter is a mapping of metadata keys to the values wanted."""
    return isinstance(filter, Mapping) and all(map(_is_scalar, filter.values()))


def uuid_of(name: str) -> str:
    """Return the UUID of an entry's name, for stores that take no other, or not all, names."""
    return str(uuid.uuid5(_NAMES, name))


def _is_scalar(value: object) -> bool:
    return isinstance(value, bool | int | float | str)


def _scalar(key: str, value: Scalar) -> Scalar:
    if _is_scalar(value):
        return value
    raise InputError(
        f"metadata {key!r:.80} must be a text, a number or a truth value, not "
        f"{type(value).__name__}"
    )


def _shape(dimensions: int, dtype: str, row_dimensions: int) -> str:
    rows = f" with rows of {row_dimensions} values" if row_dimensions else ""
    return f"vectors of {dimensions} values as {dtype}{rows}"
