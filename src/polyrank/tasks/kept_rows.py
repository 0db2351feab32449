"""A document's token rows made small: fewer of them, and eight bits a value. Pure.

Rows that late interaction compares take four bytes a value. `keep_rows` joins rows that are alike
and rounds what is left; documents are compared by what it returns whether that was kept from an
earlier call or made a moment ago, so a score never depends on a cache.

A text's codes share one scale, so that the largest product of codes is that of the rows they stand
for. Up to 1,040 values a row such products are whole numbers below 2^24, which float32 holds
exactly: every kernel gives the same bits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from polyrank.config import MOST_ROW_POOLING, check_choice, check_whole
from polyrank.tasks.heads import normalize
from polyrank.tasks.maxsim import Matcher
from polyrank.tasks.scoring import PairPlan
from polyrank.types import Float32Array, PackedBatch, RowDtype, Spans

_LARGEST_CODE = 127
_LEAST = np.float32(1e-12)
_BLOCK_ROWS = 2048  # made float32 at a time: 3 MB of 384 values

Codes = NDArray[np.int8]


@dataclass(frozen=True, slots=True)
class RowFormat:
    """How small a document's rows are made before they are compared.

    Attributes:
        pooling: Rows that are joined into one on average; 1 joins none.
        dtype: "float32", or "int8" for eight bits a value.

    Raises:
        ConfigError: If a value is out of range.
    """

    pooling: int = 1
    dtype: RowDtype = "float32"

    def __post_init__(self) -> None:
        check_whole("row_pooling", self.pooling, high=MOST_ROW_POOLING)
        check_choice("row_dtype", self.dtype, get_args(RowDtype))

    @property
    def is_plain(self) -> bool:
        """Whether rows are compared as they were read."""
        return self.pooling == 1 and self.dtype == "float32"

    @property
    def key(self) -> str:
        """What tells formats apart, as a part of keys; empty where rows stay as they are."""
        return "" if self.is_plain else f"{self.pooling}x{self.dtype}"


AS_READ = RowFormat()


@dataclass(frozen=True, slots=True)
class KeptRows:
    """A text's rows, made small.

    Attributes:
        values: Rows of unit length, shape (num_kept, width): float32, or codes in int8.
        scale: What a code counts for; None where values are float32.
        num_rows: Rows before any were joined.
    """

    values: Float32Array | Codes
    scale: np.float32 | None
    num_rows: int

    def __len__(self) -> int:
        return len(self.values)

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return self.values.nbytes

    def decoded(self) -> Float32Array:
        """Return the rows in float32, shape (num_kept, width)."""
        values = np.asarray(self.values, np.float32)
        return values if self.scale is None else values * self.scale


def keep_rows(rows: Float32Array, row_format: RowFormat, matcher: Matcher) -> KeptRows:
    """Return a text's rows made small. Depends on these rows alone.

    Args:
        rows: Of unit length, shape (num_rows, width), one at least.
        row_format: How small.
        matcher: Compares rows.

    Returns:
        Their own copies, read-only.
    """
    joined = pool_rows(rows, row_format.pooling, matcher)
    kept = KeptRows(np.array(joined, np.float32), None, len(rows))
    if row_format.dtype == "int8":
        kept = KeptRows(*coded(joined), len(rows))
    kept.values.setflags(write=False)
    return kept


def coded(rows: Float32Array) -> tuple[Codes, np.float32]:
    """Return rows as codes from -127 to 127, and what a code counts for.

    Args:
        rows: Finite, shape (num_rows, width).

    Returns:
        Codes of the same shape; their scale is 1 where all values are 0.
    """
    largest = np.abs(rows).max(initial=0)
    scale = np.float32(largest) / np.float32(_LARGEST_CODE) if largest > 0 else np.float32(1)
    # a quotient of the smallest numbers can come out above 127
    codes = np.clip(np.rint(rows / scale), -_LARGEST_CODE, _LARGEST_CODE)
    return codes.astype(np.int8), scale


def pool_rows(rows: Float32Array, pooling: int, matcher: Matcher) -> Float32Array:
    """Return rows with those that are most alike joined until one in `pooling` is left.

    In rounds, rows that are each other's nearest are joined, the nearest first. A joined row
    points where the sum of its rows does. Likeness is taken of 8-bit codes, whose products are
    exact, so that which rows are joined depends on no library and no thread.

    Args:
        rows: Of unit length, shape (num_rows, width).
        pooling: Rows that are joined into one on average; 1 joins none.
        matcher: Compares rows.

    Returns:
        Of unit length, shape (ceil(num_rows / pooling), width).

    Reference: Clavié, Chaffin and Adams, 2024, arXiv:2409.14683 (token pooling, there by Ward's
        clustering).
    """
    target = -(-len(rows) // pooling)
    if len(rows) <= target:
        return rows
    sums = np.array(rows, np.float32)
    clusters = _Clusters(_products(coded(rows)[0], matcher))
    stays = np.ones(len(rows), bool)
    for _ in range(len(rows)):  # at least one pair a round
        left = int(stays.sum()) - target
        if left <= 0:
            break
        first, second = clusters.nearest_pairs(stays, left)
        sums[first] += sums[second]
        stays[second] = False
        clusters.join(first, second)
    return normalize(sums[stays])


class _Clusters:
    """Products and likeness of sums of rows, kept up as rows are joined."""

    def __init__(self, products: Float32Array) -> None:
        self._products = products
        self._lengths = np.sqrt(np.maximum(self._products.diagonal(), _LEAST))
        self._likeness = self._products / (self._lengths[:, None] * self._lengths)
        np.fill_diagonal(self._likeness, -np.inf)

    def nearest_pairs(
        self, stays: NDArray[np.bool_], at_most: int
    ) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return rows that are each other's nearest, the nearest pairs first."""
        nearest = self._likeness.argmax(axis=1)
        places = np.arange(len(nearest))
        values = self._likeness[places, nearest]
        is_first = (nearest[nearest] == places) & (places < nearest) & (values > -np.inf)
        first = np.flatnonzero(is_first)
        if not len(first):  # of rows that are not numbers
            left = np.flatnonzero(stays)
            return left[:1], left[1:2]
        first = first[np.argsort(-values[first], kind="stable")[:at_most]]
        return first, nearest[first]

    def join(self, first: NDArray[np.intp], second: NDArray[np.intp]) -> None:
        """Put the sums of pairs in the place of their first rows; the second ones leave."""
        # products of sums are sums of products
        rows = self._products[first] + self._products[second]
        both = rows[:, first] + rows[:, second]
        rows[:, first] = np.maximum(both, both.T)  # sums in another order differ in the last bit
        self._products[first], self._products[:, first] = rows, rows.T
        self._lengths[first] = np.sqrt(np.maximum(rows[np.arange(len(first)), first], _LEAST))
        self._likeness[second], self._likeness[:, second] = -np.inf, -np.inf
        own = rows / (self._lengths[first, None] * self._lengths)
        own[self._likeness[first] == -np.inf] = -np.inf  # of what has left, and of itself
        self._likeness[first], self._likeness[:, first] = own, own.T


def _products(codes: Codes, matcher: Matcher) -> Float32Array:
    """Return the product of each row with each other."""
    number = len(codes)
    ends = np.arange(1, number + 1, dtype=np.int32)
    whole = np.tile(np.array([[0, number]], np.int32), (number, 1))
    # the best of one row is that row
    products, _ = matcher.best(codes.astype(np.float32), whole, np.stack([ends - 1, ends], axis=1))
    return products.reshape(number, number)


@dataclass(frozen=True, slots=True)
class KeptMatches:
    """How well the rows of one query are matched by some documents.

    Attributes:
        by_query: Largest product of each of the query's rows with a row of each document, shape
            (num_documents, num_query_rows).
        by_document: Largest product of each document's rows with a row of the query, one array a
            document; empty where they were not asked for.
    """

    by_query: Float32Array
    by_document: list[Float32Array]


def match_kept(
    matcher: Matcher,
    query: Float32Array,
    documents: Sequence[KeptRows],
    *,
    both_ways: bool = False,
) -> KeptMatches:
    """Compare one query with some documents.

    Args:
        matcher: Compares rows in float32.
        query: Its rows, of unit length, shape (num_query_rows, width), one at least. Where
            documents are codes, so are they made.
        documents: Rows of each document, none empty, all of one format; one document at least.
        both_ways: Whether the documents' own matches are wanted too.

    Returns:
        Largest products.
    """
    asked, scale = query, np.float32(1)
    if documents[0].scale is not None:
        codes, scale = coded(query)
        asked = codes.astype(np.float32)
    by_query = np.empty((len(documents), len(query)), np.float32)
    by_document: list[Float32Array] = []
    for start, end in _blocks([len(document) for document in documents]):
        part = documents[start:end]
        best, best_of_rows = _best(matcher, asked, part)
        counts = np.array([d.scale or 1 for d in part], np.float32) * scale
        by_query[start:end] = best * counts[:, None]
        if both_ways:
            by_document += [own * by for own, by in zip(best_of_rows, counts, strict=True)]
    return KeptMatches(by_query, by_document)


def _best(
    matcher: Matcher, query: Float32Array, documents: Sequence[KeptRows]
) -> tuple[Float32Array, list[Float32Array]]:
    ends = len(query) + np.cumsum([len(document) for document in documents], dtype=np.int32)
    bounds = np.concatenate([[len(query)], ends]).astype(np.int32)
    rows = np.empty((bounds[-1], query.shape[1]), np.float32)
    rows[: len(query)] = query
    for document, start, end in zip(documents, bounds[:-1], ends, strict=True):
        rows[start:end] = document.values  # from codes too
    queries = np.tile(np.array([[0, len(query)]], np.int32), (len(documents), 1))
    spans = np.stack([bounds[:-1], bounds[1:]], axis=1)
    by_query, by_document = matcher.best(rows, queries, spans)
    by_query = by_query.reshape(len(documents), len(query))
    return by_query, np.split(by_document, ends[:-1] - len(query))


def match_pairs(
    matcher: Matcher,
    rows: Float32Array,
    queries: Spans,
    documents: Sequence[KeptRows],
    members: NDArray[np.intp],
    *,
    both_ways: bool = False,
) -> tuple[Float32Array, Float32Array]:
    """Compare the query and the document of some pairs.

    Args:
        matcher: Compares rows in float32.
        rows: Rows of all queries, of unit length.
        queries: Rows of each query, none empty, shape (num_queries, 2).
        documents: Rows of each document, none empty.
        members: Query and document of each pair, shape (num_pairs, 2), one pair at least.
        both_ways: Whether the documents' own matches are wanted too.

    Returns:
        The largest product of each query row, pair after pair, as `Matcher.best` has it; and those
        of the documents' rows, empty where they were not asked for.
    """
    by_query: list[Float32Array] = [np.empty(0, np.float32)] * len(members)
    by_document = list(by_query)
    for query in np.unique(members[:, 0]).tolist():
        pairs = np.flatnonzero(members[:, 0] == query)
        start, end = queries[query]
        own = [documents[i] for i in members[pairs, 1]]
        found = match_kept(matcher, rows[start:end], own, both_ways=both_ways)
        for place, pair in enumerate(pairs.tolist()):
            by_query[pair] = found.by_query[place]
            if both_ways:
                by_document[pair] = found.by_document[place]
    return np.concatenate(by_query), np.concatenate(by_document)


class KeepsRows(Protocol):
    """A scorer that can compare documents by rows made small."""

    row_format: RowFormat

    @property
    def width(self) -> int:
        """Values of a row that the engine gives."""
        ...

    def keep(self, batch: PackedBatch, rows: Float32Array) -> list[KeptRows]:
        """Return the rows of each document, made small."""
        ...

    def kept_logits(
        self,
        batch: PackedBatch,
        rows: Float32Array,
        documents: Sequence[KeptRows],
        members: NDArray[np.intp],
    ) -> Float32Array:
        """Return logits of pairs of a query that was run and a document made small."""
        ...


def logits_of_kept(scorer: KeepsRows, plan: PairPlan, rows: Float32Array) -> Float32Array:
    """Return logits of pairs whose documents' rows are made small here.

    Args:
        scorer: What compares.
        plan: What was run.
        rows: Token rows in packed order, shape (total_tokens, hidden_size).

    Returns:
        Shape (num_pairs, num_outputs); the bits of documents that were kept.
    """
    (asked, asked_rows, first), (found, found_rows, second) = _apart(plan, rows)
    kept = scorer.keep(found, found_rows)
    return scorer.kept_logits(asked, asked_rows, kept, np.stack([first, second], axis=1))


def compare_joined(
    scorer: KeepsRows,
    queries: PackedBatch,
    rows: Float32Array,
    documents: Sequence[KeptRows],
    members: NDArray[np.intp],
    starts: NDArray[np.intp],
) -> tuple[Float32Array, Float32Array]:
    """Return logits of pairs, and of groups of them whose documents count as one.

    Args:
        scorer: What compares.
        queries: Queries that were run.
        rows: Their token rows in packed order, shape (total_tokens, hidden_size).
        documents: As `KeepsRows.keep` returns them.
        members: Query and document of each pair, by their places, shape (num_pairs, 2); the pairs
            of a group share their query.
        starts: Where the pairs of each group begin, and the end of the last, shape
            (num_groups + 1,); no group is empty.

    Returns:
        Shapes (num_pairs, num_outputs) and (num_groups, num_outputs). A group of one has the bits
        of its pair.
    """
    groups = [members[start:end, 1].tolist() for start, end in pairwise(starts.tolist())]
    places = np.arange(len(groups)) + len(documents)
    together = [*documents, *(_joined([documents[i] for i in group]) for group in groups)]
    of_groups = np.stack([members[starts[:-1], 0], places], axis=1)
    logits = scorer.kept_logits(queries, rows, together, np.concatenate([members, of_groups]))
    return logits[: len(members)], logits[len(members) :]


def _joined(documents: Sequence[KeptRows]) -> KeptRows:
    """Return the rows of several documents as those of one; in float32, since scales differ."""
    if len(documents) == 1:
        return documents[0]
    values = np.concatenate([document.decoded() for document in documents])
    return KeptRows(values, None, sum(document.num_rows for document in documents))


def joined_logits_of_kept(
    scorer: KeepsRows, plan: PairPlan, rows: Float32Array, starts: NDArray[np.intp]
) -> tuple[Float32Array, Float32Array]:
    """Return logits of pairs that were run, and of groups of them, as `compare_joined` does.

    Args:
        scorer: What compares.
        plan: What was run.
        rows: Token rows in packed order, shape (total_tokens, hidden_size).
        starts: As for `compare_joined`.

    Returns:
        As `compare_joined`.
    """
    (asked, asked_rows, first), (found, found_rows, second) = _apart(plan, rows)
    kept = scorer.keep(found, found_rows)
    members = np.stack([first, second], axis=1)
    return compare_joined(scorer, asked, asked_rows, kept, members, starts)


def _apart(
    plan: PairPlan, rows: Float32Array
) -> list[tuple[PackedBatch, Float32Array, NDArray[np.intp]]]:
    """Return for queries, then documents: sequences, their rows, and the place of each pair's."""
    parts = []
    for column in plan.members.T:
        sequences, places = np.unique(column, return_inverse=True)
        batch = plan.batch.select(sequences)
        parts.append((batch, rows[plan.batch.tokens_of(sequences)], places))
    return parts


def _blocks(sizes: Sequence[int]) -> list[tuple[int, int]]:
    """Return bounds of runs of documents that have about `_BLOCK_ROWS` rows together."""
    bounds, start, held = [], 0, 0
    for at, size in enumerate(sizes):
        if held and held + size > _BLOCK_ROWS:
            bounds.append((start, at))
            start, held = at, 0
        held += size
    return [*bounds, (start, len(sizes))] if sizes else []
