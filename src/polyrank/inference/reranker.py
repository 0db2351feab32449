"""`Reranker`: relevance of documents to a query."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import overload

import numpy as np
from numpy.typing import NDArray

from polyrank.calibration.thresholds import Threshold
from polyrank.config import (
    DEFAULT_MAX_BATCH_TOKENS,
    WHOLE,
    EngineConfig,
    PassageConfig,
    TruncationConfig,
    check_source,
)
from polyrank.errors import ConfigError, InputError
from polyrank.inference.computations import Prepared, Window
from polyrank.inference.foreign import RANK_HINTS, SCORE_HINTS, naming
from polyrank.inference.kept_runs import check_row_format, row_format_notes
from polyrank.inference.model import Front, ModelInfo, ModelName, load_model, row_format
from polyrank.inference.passage_pairs import (
    PairResult,
    PassagePairs,
    described,
    run_ranking,
    scores_of_passages,
)
from polyrank.inference.probabilities import (
    least_probability,
    pair_probabilities,
    probable,
)
from polyrank.inference.token_vectors import document_rows, row_logits, row_width, token_vectors
from polyrank.progress import Progress
from polyrank.tasks.first_stage import first_stage_adder, first_stage_weight
from polyrank.tasks.rerank import check_top_n, ranking
from polyrank.tasks.scoring import (
    CosineScorer,
    CrossEncoderScorer,
)
from polyrank.text.inputs import (
    as_list,
    check_pair,
    check_pairs,
    check_text,
    check_texts,
    document_text,
    is_single_pair,
)
from polyrank.types import (
    Activation,
    ComputeDtype,
    Document,
    FirstStageKind,
    Float32Array,
    InputType,
    Passage,
    RankedDocument,
    RowDtype,
    TruncationStrategy,
)


class Reranker(Front):
    """Scores and ranks documents for a query, in any language the checkpoint knows.

    A cross-encoder checkpoint reads query and document together. An embedding checkpoint ranks
    by the cosine of their vectors. Late interaction
    compares the two texts token by token. Safe to use from several threads.
    """

    _task = "rerank"

    def __init__(
        self,
        model: ModelName = None,
        *,
        max_length: int | None = None,
        truncation: TruncationStrategy = "longest_first",
        max_query_length: int | None = None,
        activation: Activation | None = None,
        encoder: str = "auto",
        num_threads: int | None = None,
        max_batch_tokens: int = DEFAULT_MAX_BATCH_TOKENS,
        device: str = "cpu",
        compute_dtype: ComputeDtype = "auto",
        row_cache_bytes: int = 0,
        row_pooling: int = 1,
        row_dtype: RowDtype = "float32",
        passages: PassageConfig | None = WHOLE,
        revision: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
    ) -> None:
        """Load a checkpoint.

        Args:
            model: Local folder or Hub id; None takes the default model, which works offline.
            max_length: Tokens of a pair, special tokens included; None takes the checkpoint's
                limit.
            truncation: "longest_first" shortens the longer text, as transformers does;
                "only_second" shortens the document alone.
            max_query_length: Under "only_second", tokens that the query may hold.
            activation: From logits to scores; None takes the checkpoint's own.
            encoder: Backend name, or "auto" for the best one installed.
            num_threads: Threads; None takes what this process may use.
            max_batch_tokens: Tokens in one forward pass, padding included.
            device: "cpu", or a device of the pytorch encoder.
            compute_dtype: "float32", "int8" or "bfloat16" (both native encoder only), or "auto":
                float32 unless the checkpoint carries a passed quality gate and int8 is quicker on
                this processor.
            row_cache_bytes: Most bytes of token rows to keep; 0 keeps none. Where a checkpoint
                compares texts token by token, as the default model does, a document that comes
                again, with another query too, is then not read again, and the scores are the
                same. A document takes tokens x hidden_size x 4 bytes: 0.3 MB for 200 tokens of
                the default model.
            row_pooling: Rows of a document that are joined into one, on average, before a query
                meets them; 1 joins none. Changes scores a little, and takes so many times less
                memory to keep.
            row_dtype: "float32", or "int8" for rows of eight bits a value, in a quarter of the
                memory. Changes scores in the third digit. Rows are rounded whether they are kept
                or not.
            passages: How a document is read that does not fit in the window: whole, in passages,
                of which the best counts, unless the setting says otherwise. None cuts it at the
                window's end, as the reference libraries do.
            revision: Branch, tag or commit on the Hub.
            cache_dir: The Hub's cache folder, if not the usual one.
            local_files_only: Whether to use only what is on this machine.

        Raises:
            CheckpointError: If the checkpoint cannot be used.
            CapabilityError: If it can neither score pairs nor make vectors.
            ConfigError: If a setting does not fit.
            MissingExtraError: If no encoder is installed.
        """
        check_source(model, revision, cache_dir)
        if activation is not None and activation not in ("sigmoid", "identity"):
            raise ConfigError(f"activation must be sigmoid or identity, not {activation!r:.80}")
        config = EngineConfig(
            encoder,
            max_batch_tokens,
            num_threads,
            device,
            compute_dtype,
            row_cache_bytes,
            row_pooling,
            row_dtype,
        )
        loaded = load_model(
            model,
            config,
            revision=revision,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
        )
        limits = TruncationConfig(max_length, truncation, max_query_length)
        pairs = loaded.computations.ranking(Window(limits))
        self._computation = pairs if passages is None else PassagePairs(pairs, passages)
        super().__init__(loaded, pairs, limits)
        loaded.calibration  # noqa: B018  # a broken file must not wait for the first query
        self._activation = activation
        self._scorer = self._computation.scorer
        check_row_format(self._scorer, row_format(config))

    @property
    def is_cross_encoder(self) -> bool:
        """Whether query and document are read together; False where vectors or rows compare."""
        return isinstance(self._scorer, CrossEncoderScorer)

    @property
    def info(self) -> ModelInfo:
        """What is loaded, and what differs from the checkpoint."""
        own = self._head.spec.activation
        notes = row_format_notes(self._scorer)
        if isinstance(self._scorer, CosineScorer):
            notes += ("An embedding checkpoint: scores are cosines, from -1 to 1.",)
        elif self._activation not in (None, own):
            notes += (f"The checkpoint's own activation is {own}.",)
        if isinstance(self._computation, PassagePairs):
            rule = self._computation.config.aggregation
            notes += (f"Documents longer than the window are read in passages ({rule}).",)
        return self._describe(self._activation or own, notes)

    @naming(RANK_HINTS)
    def rank(
        self,
        query: str,
        documents: Iterable[Document],
        *,
        top_n: int | None = None,
        first_stage_scores: Sequence[float] | None = None,
        first_stage: FirstStageKind | float = "lexical",
        min_probability: Threshold | None = None,
        progress: Progress | None = None,
    ) -> list[RankedDocument]:
        """Return documents by relevance to a query, best first.

        Args:
            query: What is looked for. An empty one gets scores too, which say little.
            documents: Strings, or mappings or objects that hold the text as "text", "content" or
                "page_content", as LangChain's, LlamaIndex's and Haystack's do. Any number.
            top_n: How many to return; None returns all.
            first_stage_scores: What the search that found the documents gave each, in any unit:
                standardised over the documents, they are added to the logits. None leaves them
                out.
            first_stage: What made those scores, for the weight that the checkpoint has learnt:
                "lexical" (BM25 and its like) or "dense" (vectors); or a weight, in logits for a
                standard deviation.
            min_probability: Leave out documents that answer with less probability: a number from
                0 to 1, or "precision:0.9" or "recall:0.9" for what reached that on the
                calibration data. None keeps all.
            progress: Called with tokens done and tokens in all.

        Returns:
            At most `top_n` results, none where none is probable enough; documents with equal
            logits keep their order.

        Raises:
            InputError: If the query or a document cannot be read, or first-stage scores are not
                one finite number a document.
            ConfigError: If `top_n` is below 1, `first_stage` is no kind or weight, or
                `min_probability` no threshold.
            CapabilityError: If the checkpoint has no weight for the kind of first stage, or no
                calibration that `min_probability` could go by.
            EncoderError: If the encoder fails.
        """
        check_text(query, "query")
        documents = as_list(documents, "documents", "strings, mappings or objects with a text")
        texts = [document_text(entry, f"documents[{i}]") for i, entry in enumerate(documents)]
        top_n = check_top_n(top_n)
        add = None
        if first_stage_scores is not None:
            add = first_stage_adder(self.spec, first_stage_scores, first_stage, len(texts))
        least_probability(self._model, min_probability)  # fails before the work
        prepared, results = self._run([(query, text) for text in texts], progress)
        logits = _logits(results)
        # of the model's own logits: what a search found is no part of the calibration
        likely = probable(self._model, query, texts, logits[:, 0], min_probability)
        own = scores = self._scorer.activate(logits, self._activation)[:, 0]
        if add is not None:
            logits = add(logits)
            scores = self._scorer.activate(logits, self._activation)[:, 0]

        def passages_of(i: int) -> tuple[Passage, ...]:
            chance = None if likely is None else float(likely.values[i])
            whole = Passage(texts[i], 0, len(texts[i]), float(own[i]), chance)
            return self._passages(query, whole, prepared, results[i], i)

        return ranking(
            documents,
            logits[:, 0],
            scores,
            prepared.is_truncated,
            passages_of,
            top_n,
            likely,
        )

    @overload
    def score(
        self, pairs: tuple[str, str], *, logits: bool = ..., progress: Progress | None = ...
    ) -> float: ...

    @overload
    def score(
        self,
        pairs: Iterable[tuple[str, str]],
        *,
        logits: bool = ...,
        progress: Progress | None = ...,
    ) -> Float32Array: ...

    @naming(SCORE_HINTS)
    def score(
        self,
        pairs: tuple[str, str] | Iterable[tuple[str, str]],
        *,
        logits: bool = False,
        progress: Progress | None = None,
    ) -> float | Float32Array:
        """Return the relevance of each (query, document) pair.

        Args:
            pairs: Pairs of texts, any number, or a single pair.
            logits: Whether to return raw logits instead of scores.
            progress: Called with tokens done and tokens in all.

        Returns:
            Scores in input order, shape (num_pairs,), dtype float32; of a single pair its score
            alone, a float.

        Raises:
            InputError: If a pair cannot be read.
            EncoderError: If the encoder fails.
        """
        is_single = is_single_pair(pairs)
        checked = [check_pair(pairs, "pairs")] if is_single else check_pairs(pairs)
        raw = _logits(self._run(checked, progress)[1])
        scores = raw[:, 0] if logits else self._scorer.activate(raw, self._activation)[:, 0]
        return float(scores[0]) if is_single else scores

    def probabilities(
        self, pairs: Iterable[tuple[str, str]], *, progress: Progress | None = None
    ) -> NDArray[np.float64]:
        """Return how probable it is that the document of each (query, document) pair answers.

        Args:
            pairs: Pairs of texts, any number.
            progress: Called with tokens done and tokens in all.

        Returns:
            Calibrated probabilities in input order, shape (num_pairs,).

        Raises:
            InputError: If a pair cannot be read.
            CapabilityError: If the checkpoint carries no calibration of rankings.
            EncoderError: If the encoder fails.
        """
        checked = check_pairs(pairs)
        least_probability(self._model, 0.0)  # tells how to calibrate where it is not
        logits = _logits(self._run(checked, progress)[1])
        found = pair_probabilities(self._model, checked, logits[:, 0])
        assert found is not None
        return found

    def score_with_probabilities(
        self, pairs: Iterable[tuple[str, str]], *, progress: Progress | None = None
    ) -> tuple[Float32Array, NDArray[np.float64] | None]:
        """Return what `score` and `probabilities` do of (query, document) pairs, in one pass.

        Args:
            pairs: Pairs of texts, any number.
            progress: Called with tokens done and tokens in all.

        Returns:
            Scores in input order, shape (num_pairs,), and calibrated probabilities, the same shape;
            None for them where the checkpoint carries no calibration of rankings.

        Raises:
            InputError: If a pair cannot be read.
            EncoderError: If the encoder fails.
        """
        checked = check_pairs(pairs)
        logits = _logits(self._run(checked, progress)[1])
        scores = self._scorer.activate(logits, self._activation)[:, 0]
        return scores, pair_probabilities(self._model, checked, logits[:, 0])

    def token_vectors(
        self,
        texts: Iterable[str],
        *,
        input_type: InputType,
        progress: Progress | None = None,
    ) -> list[Float32Array]:
        """Return the rows of texts that late interaction compares, for stores of multi-vectors.

        Args:
            texts: Any number of texts.
            input_type: "query" for questions, "document" for what is searched.
            progress: Called with tokens done and tokens in all.

        Returns:
            One array a text, shape (num_rows, dim), of unit length unless the checkpoint has them
            otherwise. Special tokens, prompts and what the checkpoint leaves out have no row.

        Raises:
            InputError: If a text cannot be read.
            CapabilityError: If the checkpoint does not compare texts token by token.
            ConfigError: If there is no such input type.
            EncoderError: If the encoder fails.
        """
        return token_vectors(self._engine, self._scorer, check_texts(texts), input_type, progress)

    def document_rows(
        self, documents: Iterable[str], *, progress: Progress | None = None
    ) -> list[Float32Array | None]:
        """Return the rows of documents to keep for `rank_rows`, of those that fit in the window.

        Args:
            documents: Any number of texts.
            progress: Called with tokens done and tokens in all.

        Returns:
            What `token_vectors` gives for each document; None for one that is longer than the
            window, which is to be read in passages whenever it is ranked.

        Raises:
            InputError: If a document cannot be read.
            CapabilityError: If the checkpoint does not compare texts token by token.
            EncoderError: If the encoder fails.
        """
        return document_rows(self._engine, self._scorer, check_texts(documents), progress)

    @property
    def row_dimensions(self) -> int:
        """Values of a row of late interaction; `CapabilityError` where there are no rows."""
        return row_width(self._scorer)

    def score_rows(
        self, query: str, rows: Iterable[Float32Array], *, logits: bool = False
    ) -> Float32Array:
        """Return the relevance of documents by their rows, which were kept: none is read again.

        Args:
            query: What is looked for.
            rows: One array a document, as `token_vectors` gave it for ``input_type="document"``.
                Rows kept in float32 give the bits of `score` for documents that fit in the
                window, where `row_pooling` and `row_dtype` leave rows as they are; in float16,
                scores within a thousandth or so. Keep a longer document as its passages.
            logits: Whether to return raw logits instead of scores.

        Returns:
            Scores in input order, shape (num_documents,).

        Raises:
            InputError: If the query cannot be read, or rows are not of the checkpoint's width.
            CapabilityError: If the checkpoint does not compare texts token by token.
            EncoderError: If the encoder fails.
        """
        check_text(query, "query")
        raw = row_logits(self._engine, self._scorer, query, rows)
        return raw[:, 0] if logits else self._scorer.activate(raw, self._activation)[:, 0]

    def rank_rows(
        self,
        query: str,
        documents: Iterable[Document],
        rows: Sequence[Float32Array | None],
        *,
        top_n: int | None = None,
    ) -> list[RankedDocument]:
        """Return what `rank` does of documents whose rows were kept: those are not read again.

        Args:
            query: What is looked for.
            documents: As for `rank`; calibrations by length count their tokens.
            rows: As for `score_rows`, one entry a document; None for a document to be read.
            top_n: How many to return; None returns all.

        Returns:
            At most `top_n` results; documents with equal logits keep their order.

        Raises:
            InputError: If the query or a document cannot be read, or rows are not one entry a
                document, of the checkpoint's width.
            ConfigError: If `top_n` is below 1.
            CapabilityError: If the checkpoint does not compare texts token by token.
            EncoderError: If the encoder fails.
        """
        check_text(query, "query")
        documents = as_list(documents, "documents", "strings, mappings or objects with a text")
        texts = [document_text(entry, f"documents[{i}]") for i, entry in enumerate(documents)]
        top_n = check_top_n(top_n)
        if len(rows) != len(texts):
            raise InputError(
                f"{len(rows):,} entries of rows were given for {len(texts):,} documents; give one "
                "each, None for a document to be read"
            )
        places = [i for i, own in enumerate(rows) if own is None]
        prepared, results = self._run([(query, texts[i]) for i in places], None)
        read = dict(zip(places, range(len(places)), strict=True))
        given = [own for own in rows if own is not None]
        kept = iter(row_logits(self._engine, self._scorer, query, given))
        logits = np.empty((len(texts), self._head.out_features), np.float32)
        for i in range(len(texts)):
            logits[i] = results[read[i]].logits if i in read else next(kept)
        likely = probable(self._model, query, texts, logits[:, 0])
        scores = self._scorer.activate(logits, self._activation)[:, 0]
        is_cut = np.zeros(len(texts), bool)
        is_cut[places] = prepared.is_truncated

        def passages_of(i: int) -> tuple[Passage, ...]:
            chance = None if likely is None else float(likely.values[i])
            whole = Passage(texts[i], 0, len(texts[i]), float(scores[i]), chance)
            if i not in read:
                return (whole,)
            return self._passages(query, whole, prepared, results[read[i]], read[i])

        return ranking(documents, logits[:, 0], scores, is_cut, passages_of, top_n, likely)

    def first_stage_weight(self, first_stage: FirstStageKind | float) -> float:
        """Return what a standard deviation of first-stage scores adds to a logit.

        Args:
            first_stage: The kind of first stage, for the checkpoint's own weight, or a weight.

        Returns:
            The weight, 0 or more.

        Raises:
            ConfigError: If it is neither a kind nor a finite number from 0 upwards.
            CapabilityError: If the checkpoint has no weight for that kind.
        """
        return first_stage_weight(self.spec, first_stage)

    def _passages(
        self, query: str, whole: Passage, prepared: Prepared, result: PairResult, i: int
    ) -> tuple[Passage, ...]:
        """Return the passages of a document that was read as the i-th of some, best first."""
        found = scores_of_passages(prepared, result, i, whole.text, self._model.tokenizer)
        if len(found) > 1:
            scorer, activation = self._scorer, self._activation
            return described(self._model, scorer, activation, query, whole.text, found)
        start, end = found[0].start, found[0].end
        return (replace(whole, text=whole.text[start:end], start=start, end=end),)

    def _run(
        self, pairs: Sequence[tuple[str, str]], progress: Progress | None
    ) -> tuple[Prepared, list[PairResult]]:
        prepared, results = run_ranking(self._computation, pairs, progress)
        self._count_truncated(prepared)
        return prepared, results


def _logits(results: Sequence[PairResult]) -> Float32Array:
    """Return the logits of some pairs, shape (num_pairs, num_outputs)."""
    if not results:
        return np.empty((0, 1), np.float32)
    return np.stack([result.logits for result in results])
