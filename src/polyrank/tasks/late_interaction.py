"""Scoring of pairs by the token rows of texts that were read apart (late interaction). Pure.

A document's rows do not depend on the query, so each different text runs once, as it does for
vectors. From the rows of a pair a few features are made; the head's layers turn them into logits.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from polyrank.checkpoint.spec import MatchFeature, PromptsSpec
from polyrank.encoder.pooling import pool
from polyrank.tasks.heads import Dense, Head, LateInteraction
from polyrank.tasks.kept_rows import (
    AS_READ,
    KeptRows,
    RowFormat,
    keep_rows,
    logits_of_kept,
    match_pairs,
)
from polyrank.tasks.maxsim import choose_matcher
from polyrank.tasks.scoring import CosineScorer, PairPlan, Pairs, cosines
from polyrank.text.pairs import SequenceBuilder
from polyrank.types import Activation, Float32Array, Int32Array, PackedBatch, PoolingMode, Spans

_LEAST_SHARE = 4  # least_match is over one in so many of a query's tokens


class LateInteractionScorer:
    """Compares each token of the query with those of the document, and the other way round.

    Of each text the rows of its own tokens count, without special tokens and the prompt's; all
    rows where it has none. The head's center and directions are taken out of them
    (c = r - center, then c - (c D^T) D) and they are scaled to unit length. With s_ij the product
    of query row i and document row j, and m_i = max_j s_ij, the features are:

    - sharp_match: mean of max(m_i, 0)^1.5 weighted by w_i = softplus(weight . q_i + bias): good
      matches count for more
    - plain_match: mean of m_i
    - least_match: mean of the lowest quarter of the m_i, rounded up
    - reverse_match: mean over j of max_i s_ij
    - clean_cosine: of the means of the two texts' clean rows
    - document_length: natural logarithm of the number of its rows that count

    Reference: Khattab and Zaharia, SIGIR 2020, arXiv:2004.12832 (MaxSim); Yang et al., EMNLP 2021,
        arXiv:2109.04727, and Xie et al., EMNLP 2022, arXiv:2401.05792 (directions of languages
        projected out).
    """

    pooling: tuple[PoolingMode, ...] = ()

    def __init__(
        self,
        builder: SequenceBuilder,
        head: Head,
        embed_head: Head,
        prompts: PromptsSpec,
        row_format: RowFormat = AS_READ,
    ) -> None:
        """Set what scores.

        Args:
            builder: Makes sequences of texts.
            head: A head of late interaction.
            embed_head: The checkpoint's embed head, whose pooling `vectors` takes.
            prompts: What the checkpoint wants put before queries and documents.
            row_format: How small documents' rows are made before they are compared.
        """
        assert head.late_interaction is not None
        assert head.spec.late_interaction is not None
        self.head = head
        self._interaction: LateInteraction = head.late_interaction
        self._features = head.spec.late_interaction.features
        self._embed_head = embed_head
        self._texts = CosineScorer(builder, embed_head, prompts)
        self._builder = builder
        self.row_format = row_format
        self._matcher = choose_matcher()
        asked = (self._texts.query_prompt.strip(), self._texts.document_prompt.strip())
        # the space at a prompt's end belongs to the first piece of what follows
        self._prompt_ids = builder.tokenizer.encode(asked)

    @property
    def width(self) -> int:
        """Values of a token row."""
        return len(self._interaction.center)

    def prepare(self, pairs: Pairs) -> PairPlan:
        """Return one sequence per different query and document, prompts put before them."""
        return self._texts.prepare(pairs)

    def logits(self, plan: PairPlan, rows: Float32Array) -> Float32Array:
        """Return the head's outputs, shape (num_pairs, num_labels).

        Args:
            plan: What was run.
            rows: Token rows in packed order, shape (total_tokens, hidden_size).

        Returns:
            Before the activation; a pair's values depend on its two texts alone.
        """
        if not self.row_format.is_plain:
            return logits_of_kept(self, plan, rows)
        return self.head(self.features(plan, rows))

    def keep(self, batch: PackedBatch, rows: Float32Array) -> list[KeptRows]:
        """Return the clean rows that count of each document, made small.

        Args:
            batch: Documents that were run.
            rows: Their token rows in packed order, shape (total_tokens, hidden_size).

        Returns:
            One entry a document, which depends on that document alone.
        """
        spans = self._kept(batch, np.arange(len(batch)), self._prompt_ids[1])
        clean = self._clean(batch, rows)
        return [
            keep_rows(clean[start:end], self.row_format, self._matcher)
            for start, end in spans.tolist()
        ]

    def kept_logits(
        self,
        batch: PackedBatch,
        rows: Float32Array,
        documents: Sequence[KeptRows],
        members: NDArray[np.intp],
    ) -> Float32Array:
        """Return the head's outputs for queries and documents whose rows were made small.

        Args:
            batch: Queries that were run.
            rows: Their token rows in packed order, shape (total_tokens, hidden_size).
            documents: As `keep` returns them.
            members: Query and document of each pair, by their places, shape (num_pairs, 2).

        Returns:
            Shape (num_pairs, num_labels).
        """
        if not len(members):
            return self.head(np.empty((0, len(self._features)), np.float32))
        spans = self._kept(batch, np.arange(len(batch)), self._prompt_ids[0])
        clean = self._clean(batch, rows)
        given = ComparedKept(clean, spans[members[:, 0]], [documents[i] for i in members[:, 1]])
        both_ways = "reverse_match" in self._features
        best = match_pairs(self._matcher, clean, spans, documents, members, both_ways=both_ways)
        return self.head(self.features_of(TokenMatches(given, *best, self._interaction.weight)))

    def _clean(self, batch: PackedBatch, rows: Float32Array) -> Float32Array:
        interaction = self._interaction
        return self._matcher.clean(
            rows, batch.cu_seqlens, interaction.center, interaction.directions
        )

    def features(self, plan: PairPlan, rows: Float32Array) -> Float32Array:
        """Return what the head's layers are given, in the order that the checkpoint names.

        Args:
            plan: What was run.
            rows: As for `logits`.

        Returns:
            Shape (num_pairs, num_features).
        """
        if not len(plan.members):
            return np.empty((0, len(self._features)), np.float32)
        return self.features_of(self.compare(plan, rows))

    def features_of(self, matches: "TokenMatches") -> Float32Array:
        """Return the features of pairs that were compared, as `features` does."""
        makers = self._makers(matches)
        columns = [makers[name]() for name in self._features]
        return np.stack(columns, axis=1).astype(np.float32, copy=False)

    def compare(self, plan: PairPlan, rows: Float32Array) -> "TokenMatches":
        """Return how well the tokens of each pair match, which the features are made of.

        Args:
            plan: What was run; one pair at least.
            rows: As for `logits`.

        Returns:
            The matches; training weighs them anew.
        """
        given = self.compared_rows(plan, rows)
        best = self._matcher.best(given.clean, given.queries, given.documents)
        return TokenMatches(given, *best, self._interaction.weight)

    def compared_rows(self, plan: PairPlan, rows: Float32Array) -> "ComparedRows":
        """Return the rows that `compare` compares, and which of them count."""
        spans = [
            self._kept(plan.batch, plan.members[:, role], prompt)
            for role, prompt in enumerate(self._prompt_ids)
        ]
        clean = self._clean(plan.batch, rows)
        return ComparedRows(plan, rows, clean, spans[0], spans[1])

    def token_vectors(
        self, plan: PairPlan, rows: Float32Array
    ) -> tuple[dict[int, Float32Array], dict[int, Float32Array]]:
        """Return the clean rows that count of each query and of each document, by its sequence."""
        given = self.compared_rows(plan, rows)
        queries, documents = (
            {
                index: given.clean[start:end]
                for index, (start, end) in zip(column, spans.tolist(), strict=True)
            }
            for column, spans in zip(
                plan.members.T.tolist(), (given.queries, given.documents), strict=True
            )
        )
        return queries, documents

    def vectors(self, plan: PairPlan, rows: Float32Array) -> Float32Array:
        """Return the pooled row of each pair's document, shape (num_pairs, width of the vectors).

        Encoders are compared by it; the logits are made of all rows.
        """
        return self._pooled(plan, rows)[plan.members[:, 1]]

    def activate(self, logits: Float32Array, activation: Activation | None) -> Float32Array:
        """Return the checkpoint's activation, or another, of the logits."""
        return self.head.activate(logits, activation)

    def _makers(self, matches: "TokenMatches") -> Mapping[MatchFeature, Callable[[], Float32Array]]:
        given = matches.given
        return {
            "sharp_match": matches.sharp,
            "plain_match": matches.plain,
            "least_match": matches.least,
            "reverse_match": matches.reverse,
            "clean_cosine": given.clean_cosines,
            "document_length": lambda: np.log(given.document_lengths.astype(np.float32)),
        }

    def _pooled(self, plan: PairPlan, rows: Float32Array) -> Float32Array:
        return pool(rows, plan.batch.cu_seqlens, self._embed_head.spec.pooling)

    def _kept(self, batch: PackedBatch, sequences: NDArray[np.intp], prompt: Int32Array) -> Spans:
        """Return the tokens of the texts themselves, shape (num_sequences, 2)."""
        before, after = (len(part) for part in self._builder.tokenizer.single.parts)
        spans = np.stack([batch.cu_seqlens[sequences], batch.cu_seqlens[sequences + 1]], axis=1)
        kept = spans + np.array([before, -after], np.int32)
        kept[:, 0] += len(prompt)
        if self._builder.side == "left":
            for k in np.flatnonzero(batch.lengths[sequences] == self._builder.max_length):
                ids = batch.input_ids[spans[k, 0] + before : spans[k, 1] - after]
                kept[k, 0] = spans[k, 0] + before + _left_of_prompt(ids, prompt)
        return np.where(kept[:, :1] < kept[:, 1:], kept, spans).astype(np.int32)


def _left_of_prompt(ids: Int32Array, prompt: Int32Array) -> int:
    """Return how many pieces of a prompt stand before a text that was cut at its start."""
    at_most = min(len(prompt), len(ids))
    fits = (
        left
        for left in range(at_most, 0, -1)
        if np.array_equal(ids[:left], prompt[len(prompt) - left :])
    )
    return next(fits, 0)


@dataclass(frozen=True, slots=True)
class ComparedRows:
    """The rows of some pairs.

    Attributes:
        plan: What was run.
        rows: Token rows as the encoder gave them.
        clean: The same, cleaned.
        queries: Tokens of each pair's query that count, shape (num_pairs, 2).
        documents: Those of its document.
    """

    plan: PairPlan
    rows: Float32Array
    clean: Float32Array
    queries: Spans
    documents: Spans

    @property
    def document_lengths(self) -> NDArray[np.intp]:
        """Rows of each pair's document, shape (num_pairs,)."""
        return _lengths(self.documents)

    @property
    def num_compared(self) -> NDArray[np.intp]:
        """Those of them that were compared, shape (num_pairs,)."""
        return _lengths(self.documents)

    def clean_cosines(self) -> Float32Array:
        """Return the cosine of the mean clean rows of each pair, shape (num_pairs,)."""
        # a text's mean is made once for all pairs; its span hangs on whether it is a query
        spans, owners = np.unique(
            np.concatenate([self.queries, self.documents]), axis=0, return_inverse=True
        )
        means = np.stack([self.clean[start:end].mean(axis=0) for start, end in spans])
        return cosines(means, owners.reshape(2, -1).T)


@dataclass(frozen=True, slots=True)
class ComparedKept:
    """The rows of some pairs whose documents' rows were made small.

    Attributes:
        clean: Clean rows of all queries.
        queries: Those of each pair's query that count, shape (num_pairs, 2).
        documents: Rows of each pair's document.
    """

    clean: Float32Array
    queries: Spans
    documents: list[KeptRows]

    @property
    def document_lengths(self) -> NDArray[np.intp]:
        """Rows of each pair's document before any were joined, shape (num_pairs,)."""
        return np.array([document.num_rows for document in self.documents], np.intp)

    @property
    def num_compared(self) -> NDArray[np.intp]:
        """Rows that are left of them, shape (num_pairs,)."""
        return np.array([len(document) for document in self.documents], np.intp)

    def clean_cosines(self) -> Float32Array:
        """Return the cosine of the mean rows of each pair, shape (num_pairs,)."""
        pairs = zip(self.queries.tolist(), self.documents, strict=True)
        means = [
            np.stack([self.clean[start:end].mean(axis=0), document.decoded().mean(axis=0)])
            for (start, end), document in pairs
        ]
        return np.concatenate([cosines(two, np.array([[0, 1]])) for two in means])


class TokenMatches:
    """How well each token of some pairs is matched by the other text of its pair.

    Attributes:
        given: The rows.
        by_query: Largest product of each query token with a row of the document, pair after pair.
        sizes: Tokens of each pair's query, shape (num_pairs,).
    """

    def __init__(
        self,
        given: "ComparedRows | ComparedKept",
        by_query: Float32Array,
        by_document: Float32Array,
        weight: Dense | None,
    ) -> None:
        """Take what was compared; `weight` gives a query's clean row its weight before softplus."""
        self.given = given
        self.by_query = by_query
        self.sizes = _lengths(given.queries)
        self._by_document = by_document
        self._weight = weight

    def sharp(self) -> Float32Array:
        """Return the weighted mean of the matches to the power 1.5, of those above 0."""
        above = np.maximum(self.by_query, 0)
        # not a power: its bits differ by processor, those of a root do not
        return self._weighted(above * np.sqrt(above))

    def plain(self) -> Float32Array:
        """Return the mean over the tokens of each query."""
        return _means(self.by_query, self.sizes)

    def least(self) -> Float32Array:
        """Return the mean over those tokens of each query that are matched worst."""
        owners = np.repeat(np.arange(len(self.sizes)), self.sizes)
        ordered = self.by_query[np.lexsort((self.by_query, owners))]
        ranks = np.arange(len(ordered)) - _starts(self.sizes)[owners]
        num_least = -(-self.sizes // _LEAST_SHARE)
        return _means(ordered[ranks < num_least[owners]], num_least)

    def reverse(self) -> Float32Array:
        """Return the mean over the tokens of each document."""
        return _means(self._by_document, self.given.num_compared)

    def _weighted(self, values: Float32Array) -> Float32Array:
        if self._weight is None:
            return _means(values, self.sizes)
        weights = {
            (start, end): self._weights(start, end)
            for start, end in np.unique(self.given.queries, axis=0).tolist()
        }
        flat = np.concatenate([weights[start, end] for start, end in self.given.queries.tolist()])
        starts = _starts(self.sizes)
        sums = np.add.reduceat(flat * values, starts)
        return np.asarray(sums / np.add.reduceat(flat, starts), np.float32)

    def _weights(self, start: int, end: int) -> Float32Array:
        assert self._weight is not None
        values = np.concatenate([self._weight(row) for row in self.given.clean[start:end]])
        # softplus without overflow
        return np.maximum(values, 0) + np.log1p(np.exp(-np.abs(values)))


def _lengths(spans: Spans) -> NDArray[np.intp]:
    return (spans[:, 1] - spans[:, 0]).astype(np.intp)


def _starts(sizes: NDArray[np.intp]) -> NDArray[np.intp]:
    return np.cumsum(sizes) - sizes


def _means(values: Float32Array, sizes: NDArray[np.intp]) -> Float32Array:
    return np.asarray(np.add.reduceat(values, _starts(sizes)) / sizes, np.float32)
