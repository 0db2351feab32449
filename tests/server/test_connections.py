"""Connections that are slow, half closed, endless or too many."""

import http.client
import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from polyrank.server.settings import Limits
from tests.server.running import Running, held, running, unharmed, wait_until

Folders = dict[str, Path]
BODY = b'{"query": "a", "texts": ["b"]}'


@pytest.fixture(scope="module")
def strict(folders: Folders) -> Iterator[Running]:
    limits = Limits(body_timeout_s=1, write_timeout_s=1, max_connections=20)
    with running(folders, limits=limits) as made:
        yield made


@pytest.fixture(scope="module")
def caching(folders: Folders) -> Iterator[Running]:
    limits = Limits(write_timeout_s=1, max_pending_bytes=40_000_000)
    with running({"embedder": folders["embedder"]}, limits=limits, cache_bytes=50_000_000) as made:
        yield made


def head(path: str = "/rerank", *lines: str, body: bytes = BODY) -> bytes:
    named = [f"POST {path} HTTP/1.1", "Host: localhost", *lines, f"Content-Length: {len(body)}"]
    return "\r\n".join([*named, "", ""]).encode()


def connect(server: Running, *, receive_bytes: int | None = None) -> socket.socket:
    made = socket.socket()
    if receive_bytes is not None:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    made.settimeout(10)
    made.connect(("127.0.0.1", server.port))
    return made


def read_all(connection: socket.socket) -> bytes:
    received = b""
    while chunk := connection.recv(65_536):
        received += chunk
    return received


def test_a_place_is_held_until_the_reply_is_read_and_no_longer(caching: Running) -> None:
    texts = {"input": [f"text {i}" for i in range(9_000)]}
    data = json.dumps(texts).encode()
    size = len(caching.call("/v1/embeddings", data).body)  # computed once, cached
    assert 5_000_000 < size < 40_000_000
    with unharmed(caching), ExitStack() as stack:
        for _ in range(12):
            slow = stack.enter_context(closing(connect(caching, receive_bytes=4_096)))
            slow.sendall(head("/v1/embeddings", body=data) + data)
        wait_until(lambda: caching.site.exchange.outbox.num_bytes > 0)
        assert caching.site.admission.num_requests > 0
        assert caching.site.exchange.outbox.num_bytes <= 40_000_000
        # no client reads: each is hung up on, and what it held is free
        wait_until(lambda: caching.site.admission.num_requests == 0, 30)
        assert caching.site.exchange.outbox.num_bytes == 0
    assert caching.call("/v1/embeddings", data).status == 200


def test_a_client_that_reads_slowly_but_reads_gets_all(caching: Running) -> None:
    data = json.dumps({"input": [f"text {i}" for i in range(2_000)]}).encode()
    with closing(connect(caching, receive_bytes=65_536)) as slow:
        slow.sendall(head("/v1/embeddings", "Connection: close", body=data) + data)
        received = b""
        while chunk := slow.recv(65_536):
            received += chunk
            time.sleep(0.02)
    start, _, rest = received.partition(b"\r\n\r\n")
    assert start.startswith(b"HTTP/1.1 200")
    assert len(json.loads(rest)["data"]) == 2_000


def test_replies_that_wait_for_their_readers_are_bounded(folders: Folders) -> None:
    limits = Limits(max_pending_bytes=8_000_000, write_timeout_s=30)
    data = json.dumps({"input": [f"text {i}" for i in range(9_000)]}).encode()
    with running({"embedder": folders["embedder"]}, limits=limits) as server:
        with closing(connect(server, receive_bytes=4_096)) as slow:
            slow.sendall(head("/v1/embeddings", body=data) + data)
            wait_until(lambda: server.site.exchange.outbox.num_bytes > 4_000_000)
            reply = server.call("/v1/embeddings", data)
            assert reply.status == 429
            assert "replies" in reply.json["message"]
        wait_until(lambda: server.site.exchange.outbox.num_bytes == 0)
        assert server.call("/v1/embeddings", data).status == 200


def send_until_hung_up(server: Running, start: bytes, piece: bytes, most: int) -> int:
    """Return how many bytes a server takes until it hangs up."""
    sent = 0
    with closing(connect(server)) as connection:
        try:
            connection.sendall(start)
            while sent < most:
                connection.sendall(piece)
                sent += len(piece)
        except OSError:
            pass
    return sent


def is_hung_up_on(connection: socket.socket, data: bytes, *, every_s: float = 0) -> bool:
    end = time.monotonic() + 5
    try:
        while time.monotonic() < end:
            connection.sendall(data)
            time.sleep(every_s)
    except ConnectionError:
        return True
    return False


CHUNKED = b"POST /rerank HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (b"2\r\n{}\r\n0\r\n", b"A: " + b"b" * 990 + b"\r\n"),
        (b"2\r\n{}\r\n0\r\nA: ", b"b" * 1_000),
        (b"2;a=", b"b" * 1_000),
        (b"2\r\n{}\r\n", b"1" + b"0" * 1_000),
    ],
    ids=["trailers", "an endless trailer", "an endless extension", "an endless size"],
)
def test_what_is_around_a_body_is_bounded(strict: Running, start: bytes, piece: bytes) -> None:
    with unharmed(strict, growth=50_000_000):
        assert send_until_hung_up(strict, CHUNKED + start, piece, 50_000_000) < 8_000_000
    wait_until(lambda: strict.site.admission.num_requests == 0)


def test_trailers_are_no_headers(strict: Running) -> None:
    chunked = CHUNKED.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    data = b"%x\r\n%s\r\n0\r\nX-Request-Timeout-Ms: soon\r\n\r\n" % (len(BODY), BODY)
    with closing(connect(strict)) as connection:
        connection.sendall(chunked + data)
        assert read_all(connection).startswith(b"HTTP/1.1 200")


def test_a_client_that_closes_its_side_first_gets_its_answer(strict: Running) -> None:
    with held(strict, "reranker") as encoder, closing(connect(strict)) as connection:
        connection.sendall(head() + BODY)
        connection.shutdown(socket.SHUT_WR)
        wait_until(lambda: encoder.num_begun == 1)
        time.sleep(0.3)
        assert strict.site.admission.num_requests == 1
        encoder.go.set()
        interim, _, answer = read_all(connection).partition(b"\r\n\r\n")
    assert interim == b"HTTP/1.1 100 Continue"
    assert answer.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("further", [100, 300_000])
def test_a_pipelining_client_that_left_is_not_computed_for(strict: Running, further: int) -> None:
    data = b'{"query": "a", "texts": ["%s"]}' % (b"b" * further)
    with held(strict, "reranker") as encoder:
        with closing(connect(strict)) as connection:
            connection.sendall(head() + BODY)
            wait_until(lambda: encoder.num_begun == 1)
            connection.sendall((head(body=data) + data) * 3)
            time.sleep(0.2)
        wait_until(lambda: strict.site.admission.num_requests == 0, 4)


def test_a_pipeline_is_read_no_further_than_it_is_answered(strict: Running) -> None:
    with held(strict, "reranker") as encoder:
        with closing(connect(strict)) as connection, unharmed(strict, growth=50_000_000):
            connection.sendall(head() + BODY)
            wait_until(lambda: encoder.num_begun == 1)
            connection.settimeout(0.5)
            with pytest.raises(TimeoutError):  # the server reads no more
                connection.sendall((head() + BODY) * 200_000)
        wait_until(lambda: strict.site.admission.num_requests == 0, 4)


def test_pipelined_requests_are_answered_in_order(strict: Running) -> None:
    bodies = [b'{"query": "a", "texts": [%s]}' % b",".join([b'"b"'] * k) for k in range(1, 40)]
    with closing(connect(strict)) as connection:
        connection.sendall(b"".join(head(body=each) + each for each in bodies[:-1]))
        connection.sendall(head("/rerank", "Connection: close", body=bodies[-1]) + bodies[-1])
        received = read_all(connection)
    counts = [
        len(json.loads(b"[" + each.split(b"]")[0] + b"]"))
        for each in received.split(b"\r\n\r\n[")[1:]
    ]
    assert counts == list(range(1, 40))


def test_blank_lines_do_not_keep_a_connection_open(strict: Running) -> None:
    with closing(connect(strict)) as connection:
        connection.sendall(head() + BODY)
        wait_until(lambda: strict.site.admission.num_requests == 0)
        time.sleep(0.2)
        connection.sendall(b"\r\n")
        begin = time.monotonic()
        assert read_all(connection).startswith(b"HTTP/1.1 200")
        assert time.monotonic() - begin < 5


def test_a_body_that_goes_on_after_its_answer_is_hung_up_on(strict: Running) -> None:
    with closing(connect(strict)) as connection:
        connection.sendall(
            b"GET /live HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n"
        )
        assert is_hung_up_on(connection, b"a", every_s=0.05)


def test_connections_are_bounded_and_idle_ones_make_room(strict: Running) -> None:
    with ExitStack() as stack:
        for _ in range(60):
            stack.enter_context(closing(connect(strict)))
            assert strict.call("/live").status == 200
    with held(strict, "reranker") as encoder, ExitStack() as stack:
        for _ in range(20):
            busy = stack.enter_context(closing(connect(strict)))
            busy.sendall(head() + BODY)
        wait_until(lambda: strict.site.admission.num_requests == 20)
        with closing(connect(strict)) as refused:
            assert read_all(refused).startswith(b"HTTP/1.1 503")
        encoder.go.set()
        wait_until(lambda: strict.site.admission.num_requests == 0)
    wait_until(lambda: strict.call("/live").status == 200)


@pytest.mark.parametrize("upgrade", ["h2c", "websocket", "TLS/1.3"])
def test_upgrades_are_ignored(strict: Running, upgrade: str) -> None:
    lines = (
        "Connection: Upgrade, HTTP2-Settings",
        f"Upgrade: {upgrade}",
        "HTTP2-Settings: AAMAAABk",
    )
    with closing(http.client.HTTPConnection("127.0.0.1", strict.port, timeout=10)) as connection:
        for _ in range(3):  # on one connection
            headers = dict(line.split(": ") for line in lines)
            connection.request("POST", "/rerank", BODY, headers)
            answer = connection.getresponse()
            assert answer.status == 200, answer.read()
            answer.read()
            connection.request("GET", "/live", headers=headers)
            assert connection.getresponse().read() == b""
    with closing(connect(strict)) as connection:
        last = head("/rerank", "Connection: close")
        connection.sendall(
            head("/rerank", *lines) + BODY + head("/rerank", *lines) + BODY + last + BODY
        )
        assert read_all(connection).count(b"HTTP/1.1 200") == 3
