"""Bodies and connections that do not keep to the rules: no 500, no leak, no hang."""

import base64
import hashlib
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polyrank.server.dialects.routes import ROUTES
from polyrank.server.settings import Limits
from tests.server.running import Running, running, unharmed

POSTS = sorted({route.path for route in ROUTES if route.method == "POST"})
BODIES = {
    "empty": b"",
    "not JSON": b"{",
    "a list": b"[]",
    "a text": b'"query"',
    "null": b"null",
    "an empty object": b"{}",
    "NaN": b'{"query": "a", "texts": ["b"], "x": NaN}',
    "a number beyond float": b'{"query": "a", "texts": ["b"], "dimensions": 1e999}',
    "a number beyond int": b'{"input": "a", "inputs": "a", "dimensions": 99999999999999999999999}',
    "invalid UTF-8": b'{"query": "\xff\xfe", "texts": ["b"]}',
    "half a character": b'{"query": "\\ud800", "texts": ["b"]}',
    "deep lists": b'{"texts": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep objects": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    "deep enough": b'{"texts": ' + b"[" * 40 + b"]" * 40 + b"}",
    "null for texts": b'{"query": null, "texts": null, "documents": null, "inputs": null}',
    "numbers for texts": b'{"query": 1, "texts": [1], "documents": [1], "inputs": 1, "input": 1}',
    "objects for texts": b'{"query": {}, "texts": [{}], "documents": [{}], "inputs": [{}]}',
    "mixed": b'{"query": "a", "documents": ["a", {"text": 1}, null], "inputs": ["a", [1], [[1]]]}',
    "negative ids": b'{"input": [-1], "inputs": [-1], "ids": [-1]}',
    "huge ids": b'{"input": [[4294967296]], "inputs": [[4294967296]], "ids": [[4294967296]]}',
    "no documents": b'{"query": "a", "texts": [], "documents": [], "inputs": [], "input": []}',
    "top_n 0": b'{"query": "a", "documents": ["b"], "top_n": 0, "top_k": 0}',
    "top_n -1": b'{"query": "a", "documents": ["b"], "top_n": -1, "top_k": -1}',
    "prompt": b'{"inputs": "a", "prompt_name": "../../etc/passwd"}',
    "model path": b'{"inputs": "a", "input": "a", "model": "/etc/passwd", "query": "a"}',
    "same key twice": b'{"query": "a", "query": ["b"], "texts": ["c"]}',
    "instances": b'{"instances": [{}, {"inputs": {"source_sentence": "a"}}]}',
    "vertex in vertex": b'{"instances": [{"instances": [{"instances": []}]}]}',
}


@pytest.fixture(scope="module")
def strict(folders: dict[str, Path]) -> Iterator[Running]:
    limits = Limits(body_timeout_s=0.5, request_timeout_s=10)
    with running(folders, limits=limits) as made:
        yield made


@pytest.fixture(autouse=True)
def _unharmed(strict: Running) -> Iterator[None]:
    """Whatever is sent: the server's event loop goes on, and its process does not swell."""
    with unharmed(strict):
        yield


@pytest.mark.parametrize("name", BODIES)
def test_no_body_breaks_any_route(strict: Running, name: str) -> None:
    for path in POSTS:
        reply = strict.call(path, BODIES[name], method="POST")
        assert reply.status < 500, (path, reply.body)
        if reply.status != 200:
            assert reply.json, path  # every refusal is JSON, in its dialect's shape
            assert len(reply.body) < 5000
    assert strict.site.admission.num_requests == strict.site.admission.num_bytes == 0
    assert strict.call("/live").status == 200


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
NAMES = st.sampled_from(
    [
        name
        for route in ROUTES
        for operation in route.operations
        if operation.schema is not None
        for name in operation.schema.model_fields
    ]
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.dictionaries(NAMES, JSON, max_size=6), st.sampled_from(POSTS))
def test_no_drawn_body_breaks_a_route(strict: Running, body: dict, path: str) -> None:
    reply = strict.call(path, body)
    assert reply.status < 500, reply.body


def raw(server: Running, data: bytes, *, wait_s: float = 5) -> bytes:
    """Send bytes and read until the server hangs up."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=wait_s) as connection:
        connection.sendall(data)
        received = b""
        while chunk := connection.recv(65_536):
            received += chunk
        return received


HEAD = b"POST /rerank HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def test_broken_heads(strict: Running) -> None:
    assert raw(strict, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03").startswith(b"HTTP/1.1 400")
    assert raw(strict, b"POST / HTTP/9.9\r\n\r\n").startswith(b"HTTP/1.1 400")
    assert raw(strict, HEAD + b"Content-Length: -5\r\n\r\n").startswith(b"HTTP/1.1 400")
    twice = HEAD + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert raw(strict, twice).startswith(b"HTTP/1.1 400")


def test_endless_heads(strict: Running) -> None:
    try:
        answer = raw(strict, HEAD + b"X: " + b"a" * 200_000)
    except ConnectionResetError:
        answer = b""  # what the server had not read yet resets the connection
    assert answer == b"" or answer.startswith(b"HTTP/1.1 431")


def test_slow_heads_and_bodies(strict: Running) -> None:
    begin = time.monotonic()
    assert raw(strict, HEAD) == b""  # a head that never ends
    assert raw(strict, b"") == b""  # a connection that says nothing
    slow = raw(strict, HEAD + b"Content-Length: 100\r\nConnection: close\r\n\r\n{")
    assert slow.startswith(b"HTTP/1.1 504")
    assert time.monotonic() - begin < 8


def test_half_closed_and_lost_connections(strict: Running) -> None:
    body = b'{"query": "a", "texts": ["b"]}'
    whole = HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    for cut in (len(HEAD), len(whole) - 5):
        with socket.create_connection(("127.0.0.1", strict.port)) as connection:
            connection.sendall(whole[:cut])
    assert raw(strict, whole).startswith(b"HTTP/1.1 200")
    pipelined = raw(strict, whole.replace(b"Connection: close\r\n", b"") + whole)
    assert pipelined.count(b"HTTP/1.1 200") == 2


def test_errors_tell_nothing_of_the_machine(strict: Running) -> None:
    for name in ("model path", "prompt", "not JSON"):
        for path in POSTS:
            reply = strict.call(path, BODIES[name], method="POST")
            assert b"Traceback" not in reply.body
            assert b"site-packages" not in reply.body


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_the_pages_load_nothing_from_elsewhere(strict: Running, path: str) -> None:
    reply = strict.call(path)
    text = reply.body.decode()
    assert reply.headers["content-type"].startswith("text/html")
    assert not re.search(r"https?://|//[a-z]+\.|<link[^>]+stylesheet|<script [^>]*src", text)
    policy = reply.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    for tag in ("script", "style"):
        (inner,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert '"{sample}"' not in text
    assert "unsafe" not in policy


def test_unknown_paths_and_methods(strict: Running) -> None:
    for method, path, status in (
        ("GET", "/nothing", 404),
        ("POST", "/v3/rerank", 404),
        ("GET", "/rerank", 405),
        ("DELETE", "/v1/models", 405),
        ("GET", "/../../etc/passwd", 404),
    ):
        reply = strict.call(path, method=method)
        assert reply.status == status
        assert reply.json["error"]["message"]
