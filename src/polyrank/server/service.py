"""From texts to results: what every dialect calls, whatever its shapes.

A request's texts are cut into parts. Each is tokenised in a worker thread and given to the
scheduler as soon as it is ready, so that tokenising runs beside encoding and a large request
neither blocks the workers nor waits for its own last text. Results come back in input order.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NoReturn, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from polyrank.calibration.thresholds import Threshold
from polyrank.engine.fair_queue import Flow
from polyrank.engine.scheduler import Ran, Scheduler
from polyrank.errors import EmptyRequestError, InputError
from polyrank.inference.computations import Computation, Item, Prepared
from polyrank.inference.passage_pairs import PairResult, by_logit, described
from polyrank.inference.probabilities import (
    label_probabilities,
    least_probability,
    probable,
)
from polyrank.server.admission import Admission
from polyrank.server.cache import CachedRow, Counts, ResultCache, cache_key
from polyrank.server.context import RequestContext
from polyrank.server.cutting import TruncationRequest
from polyrank.server.metrics import Metrics
from polyrank.server.models import Registry, ServedModel
from polyrank.tasks.embed import check_dimensions, finish_vectors
from polyrank.tasks.first_stage import first_stage_adder
from polyrank.tasks.rerank import Probable, best_first
from polyrank.text.inputs import check_text
from polyrank.text.windows import window_of
from polyrank.types import FirstStageKind, Float32Array, InputType, OutputDtype, Passage

PART_CHARACTERS = 50_000
PART_ITEMS = 256
SMALL_CHARACTERS = 1_000  # tokenised within the event loop: quicker than the way to a thread
SMALL_ROWS = 16

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class FirstStage:
    """What a search gave the documents of one query.

    Attributes:
        scores: One for each document, in any unit.
        kind: The kind of search, for the weight that the model has learnt, or a weight.
    """

    scores: Sequence[float]
    kind: FirstStageKind | float


@dataclass(frozen=True, slots=True)
class ScoredPairs:
    """Relevance of pairs, in input order.

    Attributes:
        model: Name of the model.
        logits: Raw values, shape (num_pairs,).
        scores: Activated values, shape (num_pairs,).
        is_truncated: Whether a pair lost tokens, one a pair.
        num_tokens: Tokens of all pairs.
        probable: Their probabilities, where the model is calibrated and the query is one.
        passages_of: Gives the passages of a pair's document, best first; none where that was read
            at once.
    """

    model: str
    logits: Float32Array
    scores: Float32Array
    is_truncated: list[bool]
    num_tokens: int
    probable: Probable | None = None
    passages_of: Callable[[int], tuple[Passage, ...]] = lambda i: ()

    def best_first(self, top_n: int | None = None) -> list[int]:
        """Return the documents of one query to show, best first; see `tasks.rerank`."""
        return best_first(self.logits, self.probable, top_n)


@dataclass(frozen=True, slots=True)
class Classified:
    """Labels of texts or pairs, in input order.

    Attributes:
        model: Name of the model.
        labels: Name of each column.
        logits: Raw values, shape (num_items, num_labels).
        probabilities: Activated values, same shape.
        is_truncated: Whether an item lost tokens, one an item.
        num_tokens: Tokens of all items.
        calibrated: Calibrated probabilities, same shape, where the model has them.
    """

    model: str
    labels: tuple[str, ...]
    logits: Float32Array
    probabilities: Float32Array
    is_truncated: list[bool]
    num_tokens: int
    calibrated: NDArray[np.float64] | None = None


@dataclass(frozen=True, slots=True)
class Embedded:
    """Vectors of texts, in input order.

    Attributes:
        model: Name of the model.
        vectors: Shape (num_texts, dimensions); of token rows, one array per text.
        num_tokens: Tokens of all texts.
    """

    model: str
    vectors: Any
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Vectors:
    """How vectors are wanted.

    Attributes:
        input_type: "query" or "document", for the checkpoint's prompt of that purpose.
        prompt_name: Name of one of its prompts, instead.
        is_normalized: Whether they get unit length; None does as the checkpoint says.
        dimensions: Values to keep; None keeps all.
        output_dtype: Their type.
    """

    input_type: InputType | None = None
    prompt_name: str | None = None
    is_normalized: bool | None = None
    dimensions: int | None = None
    output_dtype: OutputDtype = "float32"


class Service:
    """Models, scheduler, cache and worker threads."""

    def __init__(
        self,
        registry: Registry,
        scheduler: Scheduler,
        admission: Admission,
        metrics: Metrics,
        *,
        cache: ResultCache | None = None,
        num_workers: int = 2,
    ) -> None:
        self.registry = registry
        self.scheduler = scheduler
        self.admission = admission
        self.metrics = metrics
        self.cache = cache
        self._workers = ThreadPoolExecutor(num_workers, thread_name_prefix="polyrank-worker")

    async def in_worker(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return a call's result, computed in a worker thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._workers, lambda: call(*args, **kwargs))

    async def score(
        self,
        context: RequestContext,
        pairs: Sequence[tuple[str, str]],
        *,
        model: str | None,
        cut: TruncationRequest,
        first_stage: FirstStage | None = None,
        min_probability: Threshold | None = None,
    ) -> ScoredPairs:
        """Return the relevance of pairs; of one query with `first_stage` or `min_probability`."""
        served = self.registry.find(model, "rerank")
        least_probability(served.model, min_probability)  # fails before the work
        context.task = "rerank"
        add = None
        if first_stage is not None:
            add = first_stage_adder(served.spec, first_stage.scores, first_stage.kind, len(pairs))
        computation = served.ranker(cut)
        work = await self._compute(context, served, computation, pairs, cut)
        results = [PairResult.of(row, computation.num_values) for row in work.rows]
        logits = np.stack([result.logits for result in results])
        # of the model's own logits: what a search found is no part of the calibration
        likely = _probable(served, pairs, logits[:, 0], min_probability)
        if add is not None:
            logits = add(logits)
        scores = computation.scorer.activate(logits, None)

        def passages_of(i: int) -> tuple[Passage, ...]:  # most dialects ask for none
            found = by_logit(results[i].passages)
            if not found:
                return ()
            return described(served.model, computation.scorer, None, *pairs[i], found)

        return ScoredPairs(
            served.name,
            logits[:, 0],
            scores[:, 0],
            work.is_truncated,
            context.num_tokens,
            likely,
            passages_of,
        )

    async def classify(
        self,
        context: RequestContext,
        items: Sequence[Item],
        *,
        model: str | None,
        cut: TruncationRequest,
    ) -> Classified:
        """Return the labels of texts or pairs."""
        served = self.registry.find(model, "classify")
        context.task = "predict"
        computation = served.classifier(cut)
        head = computation.head
        work = await self._compute(context, served, computation, items, cut)
        logits = np.stack(work.rows)
        return Classified(
            served.name,
            head.spec.labels,
            logits,
            head.activate(logits),
            work.is_truncated,
            context.num_tokens,
            label_probabilities(served.model, logits),
        )

    async def embed(
        self,
        context: RequestContext,
        texts: Sequence[str],
        *,
        model: str | None,
        cut: TruncationRequest,
        wanted: Vectors,
    ) -> Embedded:
        """Return the vectors of texts."""
        served = self.registry.find(model, "embed")
        context.task = "embed"
        before = served.prompt(input_type=wanted.input_type, prompt_name=wanted.prompt_name)
        computation = served.embedder(cut, before)
        head = computation.head
        dimensions = check_dimensions(wanted.dimensions, head.out_features)
        work = await self._compute(context, served, computation, _prompted(before, texts), cut)
        own = head.spec.is_normalized
        is_normalized = own if wanted.is_normalized is None else wanted.is_normalized

        def finish() -> NDArray[Any]:
            return finish_vectors(
                np.stack(work.rows), dimensions, wanted.output_dtype, is_normalized=is_normalized
            )

        vectors = await self.in_worker(finish) if len(texts) > SMALL_ROWS else finish()
        return Embedded(served.name, vectors, context.num_tokens)

    async def embed_chunks(
        self,
        context: RequestContext,
        chunks: Sequence[str],
        *,
        model: str | None,
        wanted: Vectors,
    ) -> Embedded:
        """Return the vectors of one text's chunks, each read with those around it."""
        served = self.registry.find(model, "embed")
        context.task = "embed"
        before = served.prompt(input_type=wanted.input_type, prompt_name=wanted.prompt_name)
        for i, chunk in enumerate(chunks):
            check_text(chunk, f"text {i}")
        computation = await self.in_worker(served.chunk_embedder, chunks, before)
        head = computation.head
        dimensions = check_dimensions(wanted.dimensions, head.out_features)
        windows = [window.text for window in computation.windows]
        work = await self._compute(
            context, served, computation, windows, TruncationRequest(), is_cached=False
        )
        own = head.spec.is_normalized
        vectors = await self.in_worker(
            lambda: finish_vectors(
                np.concatenate(work.rows),
                dimensions,
                wanted.output_dtype,
                is_normalized=own if wanted.is_normalized is None else wanted.is_normalized,
            )
        )
        return Embedded(served.name, vectors, context.num_tokens)

    async def embed_tokens(
        self,
        context: RequestContext,
        texts: Sequence[str],
        *,
        model: str | None,
        cut: TruncationRequest,
        prompt_name: str | None,
    ) -> Embedded:
        """Return one row for each token of each text."""
        served = self.registry.find(model, "embed")
        before = served.prompt(input_type=None, prompt_name=prompt_name)
        context.task = "embed"
        computation = served.token_embedder(cut)
        prompted = _prompted(before, texts)
        work = await self._compute(context, served, computation, prompted, cut, is_cached=False)
        return Embedded(served.name, work.rows, context.num_tokens)

    async def probe(self, served: ServedModel) -> None:
        """Run a real forward pass ahead of all that waits.

        Args:
            served: The model to run it on.

        Raises:
            EncoderError: If the pass fails.
        """
        task = "rerank" if "rerank" in served.spec.tasks else served.tasks[0]
        context = RequestContext(flow=Flow(is_urgent=True))
        computation: Computation
        items: list[Item] = ["ready?"]
        if task == "rerank":
            computation, items = served.ranker(TruncationRequest()), [("ready?", "ready.")]
        elif task == "classify":
            computation = served.classifier(TruncationRequest())
        else:
            computation = served.embedder(TruncationRequest())
        await self._compute(
            context, served, computation, items, TruncationRequest(), is_cached=False, is_fresh=True
        )

    async def _compute(
        self,
        context: RequestContext,
        served: ServedModel,
        computation: Computation,
        items: Sequence[Item],
        cut: TruncationRequest,
        *,
        is_cached: bool = True,
        is_fresh: bool = False,
    ) -> "_Work":
        if not items:
            raise EmptyRequestError("the request holds no text; give one or more")
        # several batches may come in one request, so its sum counts
        self.admission.check_batch(context.num_texts + len(items), "texts or documents")
        sizes, num_characters = _sizes(items, 2 * window_of(computation.longest))
        context.model = served.name
        context.num_characters += num_characters
        context.num_texts += len(items)
        work = _Work(self, context, served, computation, cut, items, sizes, is_fresh=is_fresh)
        if self.cache is None or not is_cached:
            await work.run(range(len(items)))
            return work
        keys = await work.look_up(self.cache)
        missing = [i for i, row in enumerate(work.results) if row is None]
        self.metrics.count_cache(hits=len(items) - len(missing), misses=len(missing))
        if missing:
            await work.run(missing)
            await work.keep(self.cache, keys, missing)
        return work

    def close(self) -> None:
        """End the worker threads."""
        self._workers.shutdown(wait=False, cancel_futures=True)


class _Work:
    """The items of one computation of a request, on their way."""

    def __init__(
        self,
        service: Service,
        context: RequestContext,
        served: ServedModel,
        computation: Computation,
        cut: TruncationRequest,
        items: Sequence[Item],
        sizes: list[int],
        *,
        is_fresh: bool,
    ) -> None:
        self.service = service
        self.context = context
        self.served = served
        self.computation = computation
        self.cut = cut
        self.is_truncating = served.is_truncating if cut.is_allowed is None else cut.is_allowed
        self.items = items
        self.sizes = sizes
        self.is_fresh = is_fresh
        self.results: list[Float32Array | None] = [None] * len(items)
        self.counts: dict[int, Counts] = {}
        self.counted_queries: set[str] = set()

    @property
    def rows(self) -> list[Float32Array]:
        return [row for row in self.results if row is not None]

    @property
    def is_truncated(self) -> list[bool]:
        return [self.counts[i].is_truncated for i in range(len(self.items))]

    async def look_up(self, cache: ResultCache) -> list[bytes]:
        settings = f"{self.served.fingerprint}\n{self.computation.settings}".encode()

        def search() -> list[bytes]:
            known: dict[int, bytes] = {}
            keys = [cache_key(settings, _texts(item), known) for item in self.items]
            for i, key in enumerate(keys):
                found = cache.get(key)
                # a text that must not be cut has to be refused again
                if found is not None and (self.is_truncating or not found.counts.is_truncated):
                    self.results[i] = found.row
                    self._count(i, found.counts)
            return keys

        return await self._call(sum(self.sizes), search)

    async def keep(self, cache: ResultCache, keys: list[bytes], indices: list[int]) -> None:
        def put() -> None:
            for i in indices:
                row = self.results[i]
                assert row is not None
                cache.put(keys[i], CachedRow(row, self.counts[i]))

        await self._call(len(indices) * 10, put)

    async def run(self, indices: Sequence[int]) -> None:
        waiting: list[tuple[list[int], Prepared, asyncio.Future[Ran]]] = []
        if self.computation.engine.row_cache is None:  # else some of it may need no time at all
            self._announce(indices)
        try:
            for part in _parts(indices, self.sizes):
                prepared = await self._prepare(part, indices, is_first=not waiting)
                future = self.service.scheduler.submit(
                    self.context.flow,
                    self.computation.engine,
                    prepared.batch,
                    self.computation.pooling,
                    self.computation.width,
                    is_fresh=self.is_fresh,
                )
                waiting.append((part, prepared, asyncio.wrap_future(future)))
            self.service.scheduler.expect_no_more(self.context.flow)
            while waiting:
                part, prepared, queued = waiting[0]
                await self._finish(part, prepared, await queued)
                del waiting[0]  # and with it the part's rows: of every token, for some heads
        finally:
            # after an error, a deadline or a lost client, what still waits leaves the queue
            for _, _, queued in waiting:
                queued.cancel()
            self.service.scheduler.expect_no_more(self.context.flow)

    def _announce(self, indices: Sequence[int]) -> None:
        longest = self.computation.longest
        self.service.admission.check_time(
            self.context.flow, self.computation.engine, [self.sizes[i] for i in indices], longest
        )

    async def _prepare(
        self, part: list[int], indices: Sequence[int], *, is_first: bool
    ) -> Prepared:
        size = sum(self.sizes[i] for i in part)
        begin = time.monotonic()
        # many short ones are spread over threads, which an event loop must not wait for
        effort = size if len(part) <= SMALL_ROWS else SMALL_CHARACTERS + 1
        items = [self.items[i] for i in part]
        prepared = await self._call(effort, self.computation.prepare, items)
        self.context.note_tokenized(begin, prepared)
        if not self.is_truncating and prepared.is_truncated.any():
            self._refuse_to_cut(part[int(prepared.is_truncated.argmax())])
        if is_first:
            # later parts are taken to be alike
            whole = sum(self.sizes[i] for i in indices)
            batch, pooling = prepared.batch, self.computation.pooling
            engine, admission = self.computation.engine, self.service.admission
            num_fresh = engine.num_fresh_tokens(batch, pooling)
            admission.learn(engine, size, batch.total_tokens)
            whole_fresh = num_fresh * whole // max(size, 1)
            admission.check_tokens(self.context.flow, engine, whole_fresh)
            num_tokens = batch.total_tokens * whole // max(size, 1)
            num_rows = len(indices) if pooling else num_tokens
            self.context.num_values += num_rows * self.computation.num_values
            admission.check_values(self.context.num_values)
        return prepared

    def _refuse_to_cut(self, at: int) -> NoReturn:
        limit = self.computation.longest
        is_told = self.cut.is_allowed is False
        why = self.cut.why_not if is_told else "this server was started with --no-auto-truncate"
        raise InputError(
            f"text {at} is longer than the {limit:,} tokens that are read, and {why}. Shorten it, "
            "or let it be cut."
        )

    async def _finish(self, part: list[int], prepared: Prepared, ran: Ran) -> None:
        self.context.note_run(ran)
        self._count_rows(ran)
        size = 0 if len(part) <= SMALL_ROWS else SMALL_CHARACTERS + 1
        rows = await self._call(size, self.computation.finish, prepared, ran.rows)
        for k, (i, row) in enumerate(zip(part, rows, strict=True)):
            self.results[i] = row
            queries = prepared.num_query_tokens
            own, shared = prepared.num_tokens[k], 0 if queries is None else queries[k]
            self._count(i, Counts(int(own), int(shared), bool(prepared.is_truncated[k])))

    def _count_rows(self, ran: Ran) -> None:
        is_kept = self.computation.engine.row_cache is not None and not self.computation.pooling
        if is_kept and not self.is_fresh:
            num_missed = len(ran.rows) - ran.num_known
            self.service.metrics.count_row_cache(hits=ran.num_known, misses=num_missed)

    def _count(self, i: int, counts: Counts) -> None:
        self.counts[i] = counts
        self.service.metrics.input_length.observe(counts.num_tokens + counts.num_query_tokens)
        self.context.num_tokens += counts.num_tokens
        self.context.num_truncated += counts.is_truncated
        if counts.num_query_tokens and (query := self.items[i][0]) not in self.counted_queries:
            self.counted_queries.add(query)
            self.context.num_tokens += counts.num_query_tokens

    async def _call(self, size: int, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        if size <= SMALL_CHARACTERS:
            return call(*args, **kwargs)
        return await self.service.in_worker(call, *args, **kwargs)


def _parts(indices: Sequence[int], sizes: list[int]) -> list[list[int]]:
    parts: list[list[int]] = []
    room = 0
    for i in indices:
        room -= sizes[i]
        if not parts or room < 0 or len(parts[-1]) == PART_ITEMS:
            parts.append([])
            room = PART_CHARACTERS - sizes[i]
        parts[-1].append(i)
    return parts


def _texts(item: Item) -> tuple[str, ...]:
    return (item,) if isinstance(item, str) else item


def _sizes(items: Sequence[Item], longest: int) -> tuple[list[int], int]:
    """Return how many characters of each item are tokenised, and those of all texts.

    Args:
        items: Texts and pairs; each text is checked once, however many pairs it stands in.
        longest: Characters of a text from which on only a part of it is tokenised.

    Returns:
        One size an item, and the sum of all that was sent.
    """
    lengths: dict[int, int] = {}
    sizes, total = [], 0
    for i, item in enumerate(items):
        size = 0
        for text in _texts(item):
            if id(text) not in lengths:
                lengths[id(text)] = len(check_text(text, f"text {i}"))
            size += min(lengths[id(text)], longest)
            total += lengths[id(text)]
        sizes.append(size)
    return sizes, total


def _probable(
    served: ServedModel,
    pairs: Sequence[tuple[str, str]],
    logits: Float32Array,
    least: Threshold | None,
) -> Probable | None:
    """Return the probabilities of one query's documents; of pairs of several queries none."""
    query = pairs[0][0]
    if any(other != query for other, _ in pairs):
        return None
    return probable(served.model, query, [text for _, text in pairs], logits, least)


def _prompted(before: str, texts: Sequence[str]) -> list[str]:
    return [before + text for text in texts] if before else list(texts)
