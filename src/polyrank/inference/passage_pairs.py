"""Scoring of documents of any length: those that do not fit in the window are read in passages.

Where every document fits, the same sequences run as without this module, to the bit. Library and
server plan and finish here, as for everything else.
"""

import hashlib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from polyrank._bounded import BoundedCache
from polyrank.config import PassageConfig
from polyrank.engine.engine import Engine
from polyrank.errors import CapabilityError
from polyrank.inference.computations import Item, Prepared, ScorePairs, as_pair, run
from polyrank.inference.kept_runs import compares_rows, joined_logits
from polyrank.inference.model import Model
from polyrank.inference.pair_runs import pair_logits
from polyrank.inference.probabilities import probable
from polyrank.progress import Progress
from polyrank.tasks.aggregation import aggregate
from polyrank.tasks.heads import Head
from polyrank.tasks.kept_rows import joined_logits_of_kept
from polyrank.tasks.rerank import end_of_reading
from polyrank.tasks.scoring import PairPlan, PairScorer
from polyrank.text.pairs import SequenceBuilder
from polyrank.text.passages import Span, split_passages
from polyrank.text.tokenizer import Tokenizer
from polyrank.types import Activation, Float32Array, Passage, PoolingMode

MOST_SPLIT_PASSAGES = 200_000  # 20 MB and less
_LEAST_ROOM = 8  # tokens beside a query; with fewer a document is cut, as the query is


@dataclass(frozen=True, slots=True)
class PassageScore:
    """A passage that was read.

    Attributes:
        start: Offset of its first character in the document, in code points.
        end: Offset after its last character.
        logit: Its own relevance.
    """

    start: int
    end: int
    logit: float


@dataclass(frozen=True, slots=True)
class PassagePlan:
    """What passages some pairs were made into.

    Attributes:
        inner: The passages' pairs, ready to run.
        starts: Where the passages of each pair begin among them, and the end of the last, shape
            (num_pairs + 1,).
        spans: For each pair the spans of its passages; empty where its document was left whole.
    """

    inner: Prepared
    starts: NDArray[np.intp]
    spans: list[list[Span]]


@dataclass(frozen=True, slots=True)
class Reading:
    """How a document is read.

    Attributes:
        spans: Of its passages; none where it is read at once, as it is.
        is_cut: Whether a cap left some of it out.
    """

    spans: list[Span]
    is_cut: bool = False


_AT_ONCE = Reading([])
Splits = BoundedCache[Hashable, Reading]


def kept_splits() -> Splits:
    """Return a place for how long documents are read, so that each is split once for all queries.

    Where a document's rows are kept, splitting it anew would be half of the work for a query.
    """
    return BoundedCache(MOST_SPLIT_PASSAGES)


@dataclass(frozen=True, slots=True)
class PassagePairs:
    """Logits of (query, document) pairs whose documents may be longer than the window.

    The result of a pair is its logits; where its document was split they are followed by three
    numbers for each passage, start, end and logit, in float64, so that one array holds all that
    a server keeps of it. `PairResult` takes it apart.
    """

    pairs: ScorePairs
    config: PassageConfig
    splits: Splits = field(default_factory=kept_splits, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Refuse a rule that the scorer cannot follow.

        Raises:
            CapabilityError: If token rows are to be joined, and it compares none.
        """
        if self.config.aggregation == "joint_maxsim" and not compares_rows(self.scorer):
            raise CapabilityError(
                'the aggregation "joint_maxsim" joins the token rows of passages, but this '
                "checkpoint does not compare texts token by token. Take max_p, or the default "
                "model or a ColBERT-like one."
            )

    @property
    def engine(self) -> Engine:
        """What runs the sequences."""
        return self.pairs.engine

    @property
    def builder(self) -> SequenceBuilder:
        """What makes sequences."""
        return self.pairs.builder

    @property
    def scorer(self) -> PairScorer:
        """What scores a passage."""
        return self.pairs.scorer

    @property
    def head(self) -> Head:
        """The head that gives the logits."""
        return self.pairs.head

    @property
    def num_values(self) -> int:
        """Logits of a pair."""
        return self.pairs.num_values

    @property
    def pooling(self) -> tuple[PoolingMode, ...]:
        """Pooling modes of the scorer."""
        return self.pairs.pooling

    @property
    def width(self) -> int:
        """Values in a row."""
        return self.pairs.width

    @property
    def settings(self) -> str:
        """All that changes a pair's result."""
        return f"{self.pairs.settings}:{self.config.key}"

    @property
    def longest(self) -> int:
        """Tokens that are read of one item, at most."""
        return self.config.max_tokens_per_document or self.pairs.longest

    def prepare(self, items: Sequence[Item]) -> Prepared:
        """Return the sequences of some pairs, one a passage where a document does not fit."""
        pairs = [as_pair(item) for item in items]
        whole = self.pairs.prepare(pairs)
        readings = self._readings(pairs, whole)
        spans_of = [reading.spans for reading in readings]
        if not any(spans_of):
            return replace(whole, plan=PassagePlan(whole, np.arange(len(pairs) + 1), spans_of))
        passages: list[tuple[str, str]] = []
        starts = [0]
        for (query, document), spans in zip(pairs, spans_of, strict=True):
            texts = [document[span.start : span.end] for span in spans] or [document]
            passages += [(query, text) for text in texts]
            starts.append(len(passages))
        inner = self.pairs.prepare(passages)
        plan = PassagePlan(inner, np.array(starts, np.intp), spans_of)
        is_cut = np.array([reading.is_cut for reading in readings], bool)
        return inner.grouped(plan.starts, is_cut, plan)

    def finish(self, prepared: Prepared, rows: list[Float32Array]) -> list[Float32Array]:
        """Return the result of each pair."""
        plan: PassagePlan = prepared.plan
        if self.joins_rows(plan) and compares_rows(self.scorer):
            inner, together = plan.inner.plan, np.concatenate(rows)
            return self.results(
                plan, *joined_logits_of_kept(self.scorer, inner, together, plan.starts)
            )
        logits = self.pairs.finish(plan.inner, rows)
        return self.results(plan, np.stack(logits) if logits else np.empty((0, 1), np.float32))

    def joins_rows(self, plan: PassagePlan) -> bool:
        """Return whether rows of passages are joined: where nothing was split, nothing is."""
        return self.config.aggregation == "joint_maxsim" and any(plan.spans)

    def results(
        self, plan: PassagePlan, logits: Float32Array, of_documents: Float32Array | None = None
    ) -> list[Float32Array]:
        """Return the result of each pair.

        Args:
            plan: What was run.
            logits: Of the passages' pairs, shape (num_passages, num_outputs).
            of_documents: Where the rows of passages were joined, of the documents, shape
                (num_pairs, num_outputs).

        Returns:
            One array a pair.
        """
        found: list[Float32Array] = []
        for i, spans in enumerate(plan.spans):
            own = logits[plan.starts[i] : plan.starts[i + 1]]
            if of_documents is None:
                joined = aggregate(own, self.config.aggregation)
            else:
                joined = of_documents[i]
            if spans:
                triples = [
                    (span.start, span.end, logit)
                    for span, logit in zip(spans, own[:, 0].tolist(), strict=True)
                ]
                joined = np.concatenate([joined.astype(np.float64), np.ravel(triples)])
            found.append(joined)
        return found

    def _readings(self, pairs: Sequence[tuple[str, str]], whole: Prepared) -> list[Reading]:
        plan: PairPlan = whole.plan
        before = self.builder.tokenizer.count_prompt(plan.prompt)
        readings: list[Reading] = []
        for i, (_, document) in enumerate(pairs):
            is_cut, room = bool(whole.is_truncated[i]), int(plan.num_kept_tokens[i]) - before
            if not is_cut and self.config.max_tokens_per_document is None:
                readings.append(_AT_ONCE)
            else:
                readings.append(self._read_once(document, room if is_cut else None))
        return readings

    def _read_once(self, document: str, room: int | None) -> Reading:
        """Return what is read of a document, as `_read` does; kept for queries to come."""
        digest = hashlib.blake2b(document.encode("utf8"), digest_size=16).digest()
        key = digest, room, self.config.key
        found = self.splits.get(key)
        if found is None:
            found = self._read(document, room)
            self.splits.put(key, found, 1 + len(found.spans))
        return found

    def _read(self, document: str, room: int | None) -> Reading:
        """Return what is read of a document.

        Args:
            document: Its text.
            room: Tokens that the window has for it; None where it fits.

        Returns:
            Its passages.
        """
        config, tokenizer = self.config, self.builder.tokenizer
        end = self._end(document, room)
        text, is_cut = document[:end], end < len(document)
        at_once = Reading([Span(0, end)], is_cut=True) if is_cut else _AT_ONCE
        if room is None:
            return at_once
        if room < _LEAST_ROOM:  # the window ends the reading, unless a cap does before it
            return at_once if (config.max_tokens_per_document or room) < room else _AT_ONCE
        spans = split_passages(text, tokenizer, max_tokens=room)
        if len(spans) <= 1:
            return at_once  # it is the query that was cut, or the cap lets it fit
        if config.overlap_tokens or (config.max_tokens or room) < room:
            size = min(config.max_tokens or room, room)
            overlap = min(config.overlap_tokens, size - 1)
            spans = split_passages(text, tokenizer, max_tokens=size, overlap_tokens=overlap)
        most_passages = config.max_passages_per_document
        kept = spans[:most_passages]
        return Reading(kept, is_cut or len(kept) < len(spans))

    def _end(self, document: str, room: int | None) -> int:
        """Return how far a document is looked at: where a cap on its tokens or passages lets it."""
        config, tokenizer = self.config, self.builder.tokenizer
        most = config.max_tokens_per_document
        if room is not None and config.max_passages_per_document is not None:
            # splitting all of 50 MB to keep three passages took 87 s; one more than are kept shows
            # where the last of them ends
            size = min(config.max_tokens or room, room)
            fitting = (config.max_passages_per_document + 1) * size
            most = fitting if most is None else min(most, fitting)
        return len(document) if most is None else tokenizer.end_within(document, most)


@dataclass(frozen=True, slots=True)
class PairResult:
    """The result of a pair, taken apart.

    Attributes:
        logits: Of the document, shape (num_outputs,), dtype float32.
        passages: Its passages in the order of the text; empty where it was read at once.
    """

    logits: Float32Array
    passages: list[PassageScore]

    @classmethod
    def of(cls, row: Float32Array, num_values: int) -> "PairResult":
        """Return what a result of `PassagePairs` holds."""
        triples = row[num_values:].reshape(-1, 3).tolist()
        passages = [PassageScore(int(start), int(end), logit) for start, end, logit in triples]
        return cls(row[:num_values].astype(np.float32, copy=False), passages)


def run_ranking(
    computation: ScorePairs | PassagePairs,
    pairs: Sequence[tuple[str, str]],
    progress: Progress | None = None,
) -> tuple[Prepared, list[PairResult]]:
    """Score pairs and wait for it.

    Args:
        computation: What scores.
        pairs: Pairs that were checked. Any number.
        progress: Called with tokens done and tokens in all.

    Returns:
        What was read, and the result of each pair.

    Raises:
        EncoderError: If the encoder fails.
    """
    if isinstance(computation, ScorePairs):
        prepared, logits = run(computation, pairs, progress)
        return prepared, [PairResult(row, []) for row in logits]
    prepared = computation.prepare(pairs)
    plan: PassagePlan = prepared.plan
    engine, scorer, inner = computation.engine, computation.scorer, plan.inner.plan
    if computation.joins_rows(plan) and compares_rows(scorer):
        logits, of_documents = joined_logits(engine, scorer, inner, plan.starts, progress)
        rows = computation.results(plan, logits, of_documents)
    else:
        logits = pair_logits(engine, scorer, inner, progress)
        rows = computation.results(plan, logits)
    return prepared, [PairResult.of(row, logits.shape[1]) for row in rows]


def by_logit(passages: Sequence[PassageScore]) -> list[PassageScore]:
    """Return passages best first, equal ones in the order of the text."""
    return sorted(passages, key=lambda passage: -passage.logit)


def described(
    model: Model,
    scorer: PairScorer,
    activation: Activation | None,
    query: str,
    text: str,
    found: Sequence[PassageScore],
) -> tuple[Passage, ...]:
    """Return passages with their texts, scores and probabilities, in the order given.

    Args:
        model: What scored them.
        scorer: Gives scores of logits.
        activation: From logits to scores; None takes the checkpoint's own.
        query: What they were scored for.
        text: The document.
        found: Its passages.

    Returns:
        One for each.
    """
    logits = np.array([passage.logit for passage in found], np.float32)
    scores = scorer.activate(logits[:, None], activation)[:, 0].tolist()
    texts = [text[passage.start : passage.end] for passage in found]
    likely = probable(model, query, texts, logits)
    chances = [None] * len(found) if likely is None else likely.values.tolist()
    return tuple(
        Passage(own, passage.start, passage.end, score, chance)
        for own, passage, score, chance in zip(texts, found, scores, chances, strict=True)
    )


def scores_of_passages(
    prepared: Prepared, result: PairResult, i: int, text: str, tokenizer: Tokenizer
) -> list[PassageScore]:
    """Return the passages of a document, best first; equal ones in the order of the text.

    Args:
        prepared: What was read.
        result: Of the pair.
        i: Its place in `prepared`.
        text: The document's text.
        tokenizer: Tells where a document was cut that was read at once.

    Returns:
        One passage or more.
    """
    if result.passages:
        return by_logit(result.passages)
    plan = prepared.plan
    if isinstance(plan, PassagePlan):
        plan, i = plan.inner.plan, int(plan.starts[i])
    return [PassageScore(0, end_of_reading(text, plan, i, tokenizer), float(result.logits[0]))]
