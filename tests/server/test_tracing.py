"""Spans of requests: what they hold, whose trace they join, and where they are sent."""

import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased

from polyrank._extras import install_command, is_installed, require
from polyrank.errors import ConfigError, MissingExtraError
from polyrank.server import otel
from polyrank.server.tracing import NO_TRACING
from tests.server.running import Running, held, running, wait_until
from tests.server.test_process import process
from tests.texts import SENTENCES

DOCUMENTS = list(SENTENCES.values())
BODY = {"query": "private question", "texts": DOCUMENTS}
TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{CALLER}-01"
Folders = dict[str, Path]


class Traced:
    """A server whose spans are kept."""

    def __init__(self, server: Running, exporter: InMemorySpanExporter) -> None:
        self.server = server
        self.exporter = exporter

    def spans(self, path: str, body: Any, status: int = 200, **headers: str) -> list[ReadableSpan]:
        """Spans of a call, the request's own first, then its steps by the time they began."""
        self.exporter.clear()
        reply = self.server.call(path, body, headers=headers)
        assert reply.status == status, reply.body
        wait_until(lambda: any(each.name.startswith("POST") for each in self.found))
        steps = [each for each in self.found if not each.name.startswith("POST")]
        (own,) = [each for each in self.found if each.name.startswith("POST")]
        return [own, *sorted(steps, key=lambda each: each.start_time or 0)]

    @property
    def found(self) -> tuple[ReadableSpan, ...]:
        return self.exporter.get_finished_spans()


def keeping(**settings: Any) -> tuple[otel.OpenTelemetry, InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False, **settings)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return otel.OpenTelemetry(provider), exporter


@pytest.fixture(scope="module")
def traced(folders: Folders) -> Iterator[Traced]:
    tracing, exporter = keeping()
    with running(folders, tracing=tracing, cache_bytes=1_000_000) as server:
        yield Traced(server, exporter)


def test_a_request_and_its_steps(traced: Traced) -> None:
    own, *steps = traced.spans("/rerank", BODY | {"model": "reranker"}, **{"X-Request-Id": "id-7"})
    assert own.name == "POST /rerank"
    assert own.parent is None
    facts = dict(own.attributes or {})
    tokens = facts.pop("polyrank.tokens")
    assert facts == {
        "http.request.method": "POST",
        "http.route": "/rerank",
        "http.response.status_code": 200,
        "polyrank.request_id": "id-7",
        "polyrank.dialect": "tei",
        "polyrank.model": "reranker",
        "polyrank.texts": len(DOCUMENTS),
        "polyrank.truncated": 0,
    }
    assert [each.name for each in steps] == ["tokenize", "queue", "encode"]
    assert dict(steps[0].attributes or {}) == {
        "polyrank.texts": len(DOCUMENTS),
        "polyrank.tokens": tokens,
    }
    times = [time for each in steps for time in (each.start_time, each.end_time)]
    assert times == sorted(times)  # type: ignore[type-var]
    assert own.start_time <= times[0] < times[-1] <= own.end_time  # type: ignore[operator]
    for each in steps:
        assert each.parent is not None
        assert each.parent.span_id == own.context.span_id  # type: ignore[union-attr]
        assert each.context.trace_id == own.context.trace_id  # type: ignore[union-attr]
    # what the cache has is neither tokenised nor encoded again
    assert len(traced.spans("/rerank", BODY | {"model": "reranker"})) == 1
    assert not any("private" in each.to_json() for each in traced.found)


def test_parts_have_steps_of_their_own(traced: Traced) -> None:
    texts = [f"{text} {i}" for i in range(30) for text in DOCUMENTS]
    _, *steps = traced.spans("/embed", {"inputs": texts})
    names = [each.name for each in steps]
    parts = names.count("tokenize")
    assert parts >= len(texts) // 256 > 1
    assert names.count("queue") == names.count("encode") == parts
    counts = [dict(each.attributes or {}) for each in steps if each.name == "encode"]
    assert sum(each["polyrank.sequences"] for each in counts) == len(texts)  # type: ignore[misc]


def test_the_callers_trace_is_joined(traced: Traced) -> None:
    own, *_ = traced.spans(
        "/v2/rerank", {"query": "q", "documents": ["a"]}, traceparent=TRACEPARENT
    )
    assert f"{own.context.trace_id:032x}" == TRACE  # type: ignore[union-attr]
    assert own.parent is not None
    assert f"{own.parent.span_id:016x}" == CALLER
    for wrong in ("", "x", f"00-{'0' * 32}-{CALLER}-01", TRACEPARENT * 50):
        own, *_ = traced.spans("/rerank", {"query": "q", "texts": ["a"]}, traceparent=wrong)
        assert own.parent is None


def test_errors(traced: Traced) -> None:
    own, *steps = traced.spans("/rerank", {"query": 1}, 422)
    assert own.attributes is not None
    assert own.attributes["error.type"] == "invalid"
    assert own.status.is_ok  # the client's fault, not the server's
    assert not steps
    late = {"X-Request-Timeout-Ms": "300"}
    with held(traced.server, "reranker"):
        own, *steps = traced.spans("/rerank", {"query": "q", "texts": ["new"]}, 504, **late)
    assert own.attributes is not None
    assert own.attributes["error.type"] == "timeout"
    assert not own.status.is_ok
    assert [each.name for each in steps] == ["tokenize"]


def test_what_is_not_sampled_is_not_recorded(folders: Folders) -> None:
    tracing, exporter = keeping(sampler=ParentBased(ALWAYS_OFF))
    with running({"reranker": folders["reranker"]}, tracing=tracing) as server:
        server.post("/rerank", BODY)
        server.post("/rerank", BODY, traceparent=TRACEPARENT[:-1] + "0")
        assert not exporter.get_finished_spans()
        server.post("/rerank", BODY, traceparent=TRACEPARENT)
        wait_until(lambda: len(exporter.get_finished_spans()) == 4)


def test_nothing_is_imported_while_tracing_is_off() -> None:
    code = (
        "import sys, polyrank.cli.serve, polyrank.server.app, polyrank.server.run\n"
        "assert 'polyrank.server.tracing' in sys.modules\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.fixture
def collector() -> Iterator[HTTPServer]:
    """What takes spans by OTLP; they gather in its `spans`, with the service's name."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            body = self.rfile.read(int(self.headers["content-length"]))
            for each in ExportTraceServiceRequest.FromString(body).resource_spans:
                named = {pair.key: pair.value.string_value for pair in each.resource.attributes}
                for scope in each.scope_spans:
                    spans.extend((named["service.name"], span.name) for span in scope.spans)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            pass

    spans: list[tuple[str, str]] = []
    with HTTPServer(("127.0.0.1", 0), Handler) as made, ThreadPoolExecutor(1) as pool:
        made.spans = spans  # type: ignore[attr-defined]
        pool.submit(made.serve_forever)
        yield made
        made.shutdown()


@pytest.mark.parametrize("name", ["polyrank", "my-ranker"])
def test_spans_are_sent_where_the_environment_says(
    folders: Folders, collector: HTTPServer, name: str
) -> None:
    address = f"http://127.0.0.1:{collector.server_port}"
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": address, "OTEL_BSP_SCHEDULE_DELAY": "60000"}
    if name != "polyrank":
        environment["OTEL_SERVICE_NAME"] = name
    with process("--model", folders["reranker"], "--trace", **environment) as server:
        assert server.call("/rerank", BODY)[0] == 200
        server.popen.terminate()  # what was not sent yet is sent at the end
        assert server.wait() == 0
        (row,) = [row for row in server.log if row["message"] == "request"]
        assert len(row["trace_id"]) == 32
    steps = ["POST /rerank", "encode", "queue", "tokenize"]
    assert sorted(collector.spans) == [(name, step) for step in steps]  # type: ignore[attr-defined]


def test_a_collector_that_is_not_there_stops_nothing(folders: Folders) -> None:
    nobody = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_BSP_SCHEDULE_DELAY": "50"}
    nobody["OTEL_EXPORTER_OTLP_TIMEOUT"] = "2"
    with process("--model", folders["reranker"], "--trace", **nobody) as server:
        for _ in range(3):
            assert server.call("/rerank", BODY)[0] == 200
        server.popen.terminate()
        assert server.wait() == 0
        assert all(isinstance(row, dict) for row in server.log)  # its complaints are JSON, too


def test_a_missing_extra_is_named() -> None:
    # the API alone, which FastAPI brings along, is not enough
    assert is_installed("opentelemetry.sdk")
    assert not is_installed("opentelemetry.sdk", "opentelemetry.absent")
    command = re.escape(install_command("otel"))
    with pytest.raises(MissingExtraError, match=rf"absent\.inner.*{command}"):
        require("otel", "absent.inner", purpose="polyrank serve --trace")


def test_variables_that_cannot_be_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        ("OTEL_TRACES_EXPORTER", "zipkin"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json"),
    ):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            with pytest.raises(ConfigError, match=value):
                otel.from_environment()
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    assert otel.from_environment() is NO_TRACING
