"""Which web pages may call, and by which names a server goes."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from polyrank.server.origins import OriginGate, name_of
from tests.server.running import Running, running

Folders = dict[str, Path]
BODY = {"query": "cats", "texts": ["a cat"]}


@pytest.fixture(scope="module")
def listed(folders: Folders) -> Iterator[Running]:
    with running(
        {"reranker": folders["reranker"]},
        cors_origins=("https://example.org",),
        allowed_hosts=("rank.example.org",),
    ) as made:
        yield made


def status(server: Running, path: str = "/rerank", **headers: str) -> int:
    return server.call(path, None if path == "/" else BODY, headers=headers).status


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/json", "application/x-www-form-urlencoded"]
)
def test_pages_of_other_origins_may_not_call(server: Running, kind: str) -> None:
    for origin in ("https://evil.example", "http://127.0.0.1:1", "null", "file://", ""):
        headers = {"Content-Type": kind, "Origin": origin}
        reply = server.call("/rerank", BODY, headers=headers)
        assert reply.status == 403, origin
        assert "--cors-allow-origin" in reply.json["error"]["message"]
    assert status(server, "/", Origin="https://evil.example") == 403


def test_clients_that_are_no_pages_and_own_pages_go_on(server: Running) -> None:
    for kind in ("text/plain", "application/json", "", "application/x-www-form-urlencoded"):
        assert server.call("/rerank", BODY, headers={"Content-Type": kind}).status == 200
    for name in ("127.0.0.1", "localhost", "[::1]"):
        own = f"{name}:{server.port}"
        assert status(server, Host=own, Origin=f"http://{own}") == 200
        assert status(server, Host=own, Origin=f"https://{own}") == 200  # TLS ended before
        assert status(server, "/", Host=own) == 200


def test_a_local_server_goes_by_this_machines_names_alone(server: Running, listed: Running) -> None:
    for host in ("evil.example", "evil.example:3000", "localhost.evil.example", "127.0.0.1.nip.io"):
        reply = server.call("/rerank", BODY, headers={"Host": host})
        assert reply.status == 403, host
        assert f"--allowed-host {name_of(host)}" in reply.json["error"]["message"]
        assert status(listed, Host=host) == 403
    assert status(listed, Host="rank.example.org") == 200
    assert status(listed, Host="RANK.example.org.:443") == 200
    assert status(listed) == 200


def test_listed_origins_may_call(listed: Running) -> None:
    assert status(listed, Origin="https://example.org") == 200
    assert status(listed, Origin="https://example.org.evil.example") == 403
    assert status(listed, Origin="http://example.org") == 403


@pytest.mark.parametrize(
    ("address", "hosts", "host", "is_let_in"),
    [
        ("0.0.0.0", (), "anything.example", True),
        ("0.0.0.0", ("a.example",), "anything.example", False),
        ("0.0.0.0", ("a.example",), "a.example:80", True),
        ("0.0.0.0", ("*",), "anything.example", True),
        ("127.0.0.1", ("*",), "anything.example", True),
        ("127.0.0.2", (), "127.0.0.2:3000", True),
        ("127.0.0.2", (), "anything.example", False),
        ("::1", (), "[::1]:3000", True),
        ("::1", (), "anything.example", False),
        ("localhost", (), "127.0.0.1", True),
        ("127.0.0.1", (), "", True),
    ],
)
def test_names_by_address(address: str, hosts: tuple[str, ...], host: str, is_let_in: bool) -> None:
    gate = OriginGate(lambda *_: None, address, hosts, ())  # type: ignore[arg-type,return-value]
    headers: Mapping[str, str] = {"host": host} if host else {}
    assert (gate._fault(headers) == "") is is_let_in  # type: ignore[arg-type]
