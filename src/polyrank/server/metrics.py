"""Prometheus metrics: text-embeddings-inference's names where it has them, and our own.

Its counters have no ``_total`` at their end, which prometheus-client puts on every counter. They
are counted in a registry of their own and shown under their exact names.
"""

from collections.abc import Callable, Iterator
from typing import get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from polyrank.engine.scheduler import BatchReport, Scheduler
from polyrank.server.admission import Reason
from polyrank.server.context import RequestContext

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
TASKS = ("embed", "predict", "rerank")


class _WithoutTotal(Collector):
    """The counters of a registry under names without ``_total``."""

    def __init__(self, inner: CollectorRegistry) -> None:
        self._inner = inner

    def collect(self) -> Iterator[Metric]:
        for metric in self._inner.collect():
            shown = Metric(metric.name, metric.documentation, "unknown")
            for sample in metric.samples:
                if sample.name == f"{metric.name}_total":
                    shown.add_sample(metric.name, sample.labels, sample.value)
            yield shown


class Metrics:
    """All metrics of one server, in a registry of its own.

    Attributes:
        computing_s: Seconds of all batches that have ended.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.computing_s = 0.0
        exact = CollectorRegistry()
        self.requests = Counter("te_request_count", "Requests.", ["method"], registry=exact)
        self.successes = Counter("te_request_success", "Answers.", ["method"], registry=exact)
        self.failures = Counter("te_request_failure", "Errors.", ["err"], registry=exact)
        self.task_counts = {
            task: Counter(f"te_{task}_count", f"Texts to {task}.", registry=exact) for task in TASKS
        }
        self.task_successes = {
            task: Counter(f"te_{task}_success", f"Texts done by {task}.", registry=exact)
            for task in TASKS
        }
        self.registry.register(_WithoutTotal(exact))
        self.durations = {
            name: self._seconds(f"te_request_{name}", text)
            for name, text in (
                ("duration", "Seconds of a request."),
                ("tokenization_duration", "Seconds of tokenising a request."),
                ("queue_duration", "Seconds until a request's first batch."),
                ("inference_duration", "Seconds from a request's first batch to its last."),
            )
        }
        self.task_durations = {
            task: self._seconds(f"te_{task}_duration", f"Seconds of a request to {task}.")
            for task in TASKS
        }
        self.input_length = self._histogram("te_request_input_length", "Tokens of a text.", TOKENS)
        self.batch_sequences = self._histogram("te_batch_next_size", "Texts of a batch.", COUNTS)
        self.batch_tokens = self._histogram("te_batch_next_tokens", "Tokens of a batch.", TOKENS)
        self.tokens = self._counter("polyrank_tokens", "Tokens computed.")
        self.padding = self._counter("polyrank_padding_tokens", "Padding computed beside them.")
        self.batch_seconds = self._counter("polyrank_batch_seconds", "Seconds of computing.")
        self.truncated = self._counter("polyrank_truncated_texts", "Texts that were cut.")
        self.cache_hits = self._counter("polyrank_cache_hits", "Results from the cache.")
        self.cache_misses = self._counter("polyrank_cache_misses", "Results not in the cache.")
        self.row_cache_hits = self._counter(
            "polyrank_row_cache_hits", "Sequences of which token rows were kept."
        )
        self.row_cache_misses = self._counter(
            "polyrank_row_cache_misses", "Sequences of which they were not."
        )
        self.drops = self._counter(
            "polyrank_queue_drops", "Requests that left the queue: not to be done in their time."
        )
        self.refusals = Counter(
            "polyrank_refusals", "Requests refused by 429.", ["reason"], registry=self.registry
        )
        for reason in get_args(Reason):
            self.refusals.labels(reason)
        self.answers = Counter(
            "polyrank_responses", "Answers.", ["dialect", "status"], registry=self.registry
        )

    def _seconds(self, name: str, text: str) -> Histogram:
        return self._histogram(name, text, SECONDS)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, text, buckets=buckets, registry=self.registry)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(name, text, registry=self.registry)

    def watch(self, scheduler: Scheduler, num_requests: Callable[[], int]) -> None:
        """Show the state of the queue whenever the metrics are read.

        Args:
            scheduler: Its queue.
            num_requests: Tells how many requests are under way.
        """
        for name, text, value in (
            ("te_queue_size", "Texts that wait.", lambda: scheduler.num_waiting_sequences),
            ("polyrank_queue_tokens", "Tokens that wait.", lambda: scheduler.num_waiting_tokens),
            ("polyrank_queue_seconds", "Work that waits, at the speed seen.", scheduler.waiting_s),
            ("polyrank_queue_age_seconds", "Age of the oldest that waits.", scheduler.oldest_s),
            ("polyrank_requests_under_way", "Requests under way.", num_requests),
        ):
            self.gauge(name, text, value)

    def gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Show a value that is asked for whenever the metrics are read."""
        Gauge(name, text, registry=self.registry).set_function(value)

    def count_batch(self, report: BatchReport) -> None:
        """Count a forward pass."""
        self.batch_sequences.observe(report.num_sequences)
        self.batch_tokens.observe(report.num_tokens)
        self.tokens.inc(report.num_tokens)
        self.padding.inc(report.num_padding_tokens)
        self.batch_seconds.inc(report.seconds)
        self.computing_s += report.seconds

    def count_request(self, context: RequestContext, failure: str | None, total_s: float) -> None:
        """Count a request that was answered.

        Args:
            context: What is known of it.
            failure: TEI's label of what went wrong, or None.
            total_s: Seconds that it took.
        """
        method = "batch" if context.num_texts > 1 else "single"
        self.requests.labels(method).inc()
        task = context.task
        if task:
            self.task_counts[task].inc(context.num_texts)
        if failure is not None:
            self.failures.labels(failure).inc()
            return
        self.successes.labels(method).inc()
        self.durations["duration"].observe(total_s)
        self.durations["tokenization_duration"].observe(context.tokenization_s)
        self.durations["queue_duration"].observe(context.queue_s)
        self.durations["inference_duration"].observe(context.inference_s)
        self.truncated.inc(context.num_truncated)
        if task:
            self.task_successes[task].inc(context.num_texts)
            self.task_durations[task].observe(total_s)

    def count_cache(self, *, hits: int, misses: int) -> None:
        """Count results that were, and were not, in the cache."""
        self.cache_hits.inc(hits)
        self.cache_misses.inc(misses)

    def count_row_cache(self, *, hits: int, misses: int) -> None:
        """Count sequences of which token rows were kept, and those that had to run."""
        self.row_cache_hits.inc(hits)
        self.row_cache_misses.inc(misses)

    def count_refusal(self, reason: Reason) -> None:
        """Count a request that was refused since there was too much of something."""
        self.refusals.labels(reason).inc()

    def page(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        return generate_latest(self.registry)
