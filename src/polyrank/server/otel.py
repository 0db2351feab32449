"""Traces as spans of OpenTelemetry (extra ``otel``): one a request, and below it one a step.

A request's texts are tokenised, queued and encoded in parts beside each other, so each part has
its own three spans. Spans hold counts, times and names of models: never texts, keys or headers.
"""

import os
import time
from collections.abc import Mapping

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

import polyrank
from polyrank.errors import ConfigError
from polyrank.server.tracing import NO_TRACE, NO_TRACING, Fact, Step, Trace, Tracing

PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
PROTOCOL = "http/protobuf"
EXPORTER = "OTEL_TRACES_EXPORTER"
_UNNAMED = "unknown_service"  # how the SDK names what has no OTEL_SERVICE_NAME


class OpenTelemetry:
    """Begins spans; the caller's come by W3C's ``traceparent`` and ``tracestate``."""

    def __init__(self, provider: TracerProvider) -> None:
        """Take spans' samplers and exporters from a provider, which `close` shuts down."""
        self._provider = provider
        self._tracer = provider.get_tracer("polyrank.server", polyrank.__version__)
        self._callers = TraceContextTextMapPropagator()

    def begin(self, method: str, path: str, headers: Mapping[str, str]) -> Trace:
        """Return the span of a request; one that is not sampled records nothing."""
        span = self._tracer.start_span(
            f"{method} {path}",
            context=self._callers.extract(headers),
            kind=SpanKind.SERVER,
            attributes={"http.request.method": method, "http.route": path},
        )
        return _Recorded(self, span) if span.is_recording() else NO_TRACE

    def add(
        self, parent: Span, name: str, begin_ns: int, end_ns: int, facts: Mapping[str, Fact]
    ) -> None:
        """Record a step below a request's span."""
        context = set_span_in_context(parent)
        span = self._tracer.start_span(name, context, attributes=facts, start_time=begin_ns)
        span.end(end_ns)

    def close(self) -> None:
        """Send what is left, within the exporter's time limit."""
        self._provider.shutdown()


class _Recorded:
    """A request's span."""

    def __init__(self, tracing: OpenTelemetry, span: Span) -> None:
        self._tracing = tracing
        self._span = span
        self.trace_id = f"{span.get_span_context().trace_id:032x}"
        # spans have the time of day, and must not jump when somebody sets the clock
        self._epoch_ns = time.time_ns() - time.monotonic_ns()

    def add(self, step: Step, begin: float, end: float, facts: Mapping[str, Fact]) -> None:
        """Record a step of the request."""
        times = self._epoch_ns + int(begin * 1e9), self._epoch_ns + int(end * 1e9)
        self._tracing.add(self._span, step, *times, _named(facts))

    def end(self, status: int, error: str | None, facts: Mapping[str, Fact]) -> None:
        """End the span, now."""
        self._span.set_attributes({"http.response.status_code": status, **_named(facts)})
        if error is not None:
            self._span.set_attribute("error.type", error)
        if status >= 500:
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()


def _named(facts: Mapping[str, Fact]) -> dict[str, Fact]:
    return {f"polyrank.{name}": value for name, value in facts.items()}


def from_environment() -> Tracing:
    """Return tracing as OpenTelemetry's own environment variables set it up.

    ``OTEL_EXPORTER_OTLP_*`` say where spans go (else to port 4318 of this machine),
    ``OTEL_SERVICE_NAME`` and ``OTEL_RESOURCE_ATTRIBUTES`` what they are called,
    ``OTEL_TRACES_SAMPLER`` which are kept; ``OTEL_SDK_DISABLED=true`` and
    ``OTEL_TRACES_EXPORTER=none`` switch it off.

    Returns:
        The tracing.

    Raises:
        ConfigError: If a variable asks for what is not here, or cannot be read.
    """
    exporter = os.environ.get(EXPORTER) or "otlp"
    if exporter == "none":
        return NO_TRACING
    if exporter != "otlp":
        raise ConfigError(f"{EXPORTER} must be otlp or none, not {exporter!r}")
    for variable in PROTOCOLS:
        if (protocol := os.environ.get(variable) or PROTOCOL) != PROTOCOL:
            raise ConfigError(
                f"{variable} is {protocol!r}; spans are sent by {PROTOCOL} alone, which every "
                "collector takes, as a rule on port 4318"
            )
    try:
        provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    except (ValueError, OSError) as exc:
        raise ConfigError(f"a variable of OpenTelemetry cannot be used: {exc}") from exc
    return OpenTelemetry(provider)


def _resource() -> Resource:
    found = Resource.create({SERVICE_VERSION: polyrank.__version__})
    if str(found.attributes[SERVICE_NAME]).startswith(_UNNAMED):
        found = found.merge(Resource({SERVICE_NAME: "polyrank"}))
    return found
