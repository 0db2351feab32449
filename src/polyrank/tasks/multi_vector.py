"""Scoring of pairs by projected token rows, as ColBERT and its heirs do. Pure.

Knows the three kinds of foreign folders by their `MultiVectorSpec` alone.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from polyrank.checkpoint.spec import PromptsSpec
from polyrank.config import TruncationConfig
from polyrank.errors import CheckpointError
from polyrank.tasks.heads import NONLINEARITIES, Head, normalize
from polyrank.tasks.kept_rows import (
    AS_READ,
    KeptRows,
    RowFormat,
    keep_rows,
    logits_of_kept,
    match_pairs,
)
from polyrank.tasks.maxsim import choose_matcher
from polyrank.tasks.scoring import PairPlan, Pairs
from polyrank.text.pairs import SequenceBuilder
from polyrank.text.prompts import prompt_for_input_type
from polyrank.types import (
    Activation,
    Float32Array,
    Int32Array,
    PackedBatch,
    PoolingMode,
    Spans,
)


class MultiVectorScorer:
    """Sums up each query token's best product with a token of the document (MaxSim).

    Reference: Khattab and Zaharia, SIGIR 2020, arXiv:2004.12832.
    """

    pooling: tuple[PoolingMode, ...] = ()

    def __init__(
        self,
        builder: SequenceBuilder,
        head: Head,
        prompts: PromptsSpec,
        row_format: RowFormat = AS_READ,
    ) -> None:
        """Set what scores.

        Args:
            builder: Makes sequences of texts.
            head: A head with a `MultiVectorSpec`.
            prompts: What the checkpoint wants put before queries and documents.
            row_format: How small documents' rows are made before they are compared.

        Raises:
            CheckpointError: If the tokenizer has no such token as fills queries up.
        """
        spec = head.spec.multi_vector
        assert spec is not None
        self.row_format = row_format
        self.head, self._spec, self._matcher = head, spec, choose_matcher()
        self._prompts = [prompt_for_input_type(prompts, role) for role in ("query", "document")]
        longest = spec.query_length
        if spec.expansion_length:
            longest = spec.expansion_length if spec.is_fixed else longest
        self._queries = _shortened(builder, longest)
        self._documents = _shortened(builder, spec.document_length)
        tokenizer = builder.tokenizer
        self._filler = tokenizer.id_of(spec.expansion_token)
        if spec.expansion_length and self._filler is None:
            raise CheckpointError(
                f"{tokenizer.path} has no token {spec.expansion_token!r}, which the checkpoint "
                "fills queries up with. Take the tokenizer that it was trained with."
            )
        found = (tokenizer.id_of(word) for word in spec.skipped_words)
        unknown = tokenizer.unknown_id
        self._skipped = np.array([i for i in found if i is not None and i != unknown], np.int32)

    @property
    def width(self) -> int:
        """Values of a token row."""
        return self.head.in_features

    def prepare(self, pairs: Pairs) -> PairPlan:
        """Return one sequence per different query and one per different document."""
        texts = [list(dict.fromkeys(pair[role] for pair in pairs)) for role in (0, 1)]
        queries, documents = (
            builder.texts([prompt + text for text in own])
            for builder, prompt, own in zip(
                (self._queries, self._documents), self._prompts, texts, strict=True
            )
        )
        asked = self._filled(queries.batch) if self._spec.is_attended else queries.batch
        places = [{text: i for i, text in enumerate(own)} for own in texts]
        members = np.array(
            [[places[0][q], len(asked) + places[1][d]] for q, d in pairs], np.intp
        ).reshape(-1, 2)
        is_cut = np.concatenate([queries.is_truncated, documents.is_truncated])
        kept = documents.num_kept_tokens[members[:, 1] - len(asked)]
        return PairPlan(
            PackedBatch.join([asked, documents.batch]),
            np.any(is_cut[members], axis=1),
            kept,
            members,
            self._prompts[1],
        )

    def logits(self, plan: PairPlan, rows: Float32Array) -> Float32Array:
        """Return the sum, or the mean, over the rows of each pair's query, shape (num_pairs, 1)."""
        if not len(plan.members):
            return np.empty((0, 1), np.float32)
        if not self.row_format.is_plain:
            return logits_of_kept(self, plan, rows)
        queries, documents = self.token_vectors(plan, rows)
        flat = np.concatenate([*queries.values(), *documents.values()])
        spans = _spans([*queries.values(), *documents.values()])
        places = {index: i for i, index in enumerate([*queries, *documents])}
        of = [spans[[places[index] for index in column]] for column in plan.members.T.tolist()]
        best, _ = self._matcher.best(flat, *of)
        sizes = of[0][:, 1] - of[0][:, 0]
        return self._summed(best, sizes)

    def _summed(self, best: Float32Array, sizes: NDArray[np.int32]) -> Float32Array:
        sums = np.add.reduceat(best, np.cumsum(sizes) - sizes)
        return np.asarray(sums / sizes if self._spec.is_mean else sums, np.float32)[:, None]

    def keep(self, batch: PackedBatch, rows: Float32Array) -> list[KeptRows]:
        """Return the rows that count of each document, made small.

        Args:
            batch: Documents that were run.
            rows: Their token rows in packed order, shape (total_tokens, hidden_size).

        Returns:
            One entry a document, which depends on that document alone.
        """
        documents = (self._document(*_sequence(batch, rows, i)) for i in range(len(batch)))
        return [keep_rows(document, self.row_format, self._matcher) for document in documents]

    def kept_logits(
        self,
        batch: PackedBatch,
        rows: Float32Array,
        documents: Sequence[KeptRows],
        members: NDArray[np.intp],
    ) -> Float32Array:
        """Return the sum, or the mean, over the rows of each pair's query.

        Args:
            batch: Queries that were run.
            rows: Their token rows in packed order, shape (total_tokens, hidden_size).
            documents: As `keep` returns them.
            members: Query and document of each pair, by their places, shape (num_pairs, 2).

        Returns:
            Shape (num_pairs, 1).
        """
        if not len(members):
            return np.empty((0, 1), np.float32)
        queries = [self._query(*_sequence(batch, rows, i)) for i in range(len(batch))]
        flat, spans = np.concatenate(queries), _spans(queries)
        best, _ = match_pairs(self._matcher, flat, spans, documents, members)
        sizes = (spans[:, 1] - spans[:, 0])[members[:, 0]]
        return self._summed(best, sizes)

    def token_vectors(
        self, plan: PairPlan, rows: Float32Array
    ) -> tuple[dict[int, Float32Array], dict[int, Float32Array]]:
        """Return the rows that count of each query and of each document, by its sequence.

        Args:
            plan: What was run.
            rows: Token rows in packed order, shape (total_tokens, hidden_size).

        Returns:
            Shape (num_rows, dim) each.
        """
        columns = [np.unique(column).tolist() for column in plan.members.T]
        return (
            {i: self._query(*_sequence(plan.batch, rows, i)) for i in columns[0]},
            {i: self._document(*_sequence(plan.batch, rows, i)) for i in columns[1]},
        )

    def vectors(self, plan: PairPlan, rows: Float32Array) -> Float32Array:
        """Return the mean row of each pair's document, shape (num_pairs, hidden_size)."""
        bounds = plan.batch.cu_seqlens
        means = [rows[bounds[i] : bounds[i + 1]].mean(axis=0) for i in plan.members[:, 1]]
        return np.stack(means)

    def activate(self, logits: Float32Array, activation: Activation | None) -> Float32Array:
        """Return the sums themselves unless another activation is asked for."""
        return self.head.activate(logits, activation or "identity")

    def _filled(self, batch: PackedBatch) -> PackedBatch:
        """Return queries filled up with tokens that all others see."""
        missing = np.maximum(self._spec.expansion_length - batch.lengths, 0)
        ends = np.repeat(batch.cu_seqlens[1:], missing)
        filler = 0 if self._filler is None else self._filler
        bounds = batch.cu_seqlens + np.concatenate([[0], np.cumsum(missing)])
        types = batch.token_type_ids
        return replace(
            batch,
            input_ids=np.insert(batch.input_ids, ends, np.int32(filler)),
            cu_seqlens=bounds.astype(np.int32),
            token_type_ids=None if types is None else np.insert(types, ends, 0),
        )

    def _query(self, ids: Int32Array, rows: Float32Array) -> Float32Array:
        missing = self._spec.expansion_length - len(ids)
        kept = self._kept(ids) if self._spec.skips_queries else np.ones(len(ids), bool)
        rows = rows[kept]
        if missing > 0 and self.head.unattended is not None and self._filler is not None:
            rows = np.concatenate([rows, self.head.unattended(ids, self._filler, missing)])
        return self._projected(rows)

    def _document(self, ids: Int32Array, rows: Float32Array) -> Float32Array:
        kept = self._kept(ids) if self._spec.skips_documents else np.ones(len(ids), bool)
        return self._projected(rows[kept] if kept.any() else rows)

    def _kept(self, ids: Int32Array) -> NDArray[np.bool_]:
        return ~np.isin(ids, self._skipped)

    def _projected(self, rows: Float32Array) -> Float32Array:
        for layer in self.head.layers:
            # of one text at a time and not `@`, for the same bits whatever else is in the call
            sums = np.einsum("ti,oi->to", rows, layer.weight) + layer.bias
            rows = NONLINEARITIES[layer.nonlinearity](sums)
        rows = np.asarray(rows, np.float32)
        return normalize(rows) if self.head.spec.is_normalized else rows


def _shortened(builder: SequenceBuilder, length: int | None) -> SequenceBuilder:
    limits = [limit for limit in (builder.truncation.max_length, length) if limit is not None]
    return SequenceBuilder(
        builder.tokenizer,
        TruncationConfig(min(limits) if limits else None),
        model_limit=builder.model_limit,
        has_segments=builder.has_segments,
        max_characters=builder.max_characters,
        token_cache=builder.token_cache,
    )


def _sequence(
    batch: PackedBatch, rows: Float32Array, index: int
) -> tuple[Int32Array, Float32Array]:
    start, end = batch.cu_seqlens[index : index + 2]
    return batch.input_ids[start:end], rows[start:end]


def _spans(parts: Sequence[Float32Array]) -> Spans:
    ends = np.cumsum([len(part) for part in parts])
    return np.stack([np.concatenate([[0], ends[:-1]]), ends], axis=1).astype(np.int32)
