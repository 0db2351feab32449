"""Large bodies of every kind: counted before they are parsed, answered or refused at once."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyrank.errors import PayloadTooLargeError, RequestError
from polyrank.server import bodies
from polyrank.server.dialects.routes import ROUTES
from polyrank.server.settings import Limits
from tests.server.heavy import KINDS
from tests.server.running import Running, running, unharmed

JSON = st.recursive(
    st.none() | st.integers(-9, 9) | st.text('a"\\,[]{}:é', max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


def depth_of(value: Any) -> int:
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(depth_of, value), default=0) if isinstance(value, list) else 0


def count_of(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(0, len(value) - 1) + len(value) + sum(map(count_of, value.values()))
    return 1 + max(0, len(value) - 1) + sum(map(count_of, value)) if isinstance(value, list) else 0


@settings(max_examples=300, deadline=None)
@given(JSON, st.integers(1, 40))
def test_what_is_counted_is_what_is_parsed(value: Any, block: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bodies, "_BLOCK", block)
        assert bodies.survey(orjson.dumps(value)) == (count_of(value), depth_of(value))


def test_bodies_of_too_many_values_or_too_deep_are_not_parsed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limits = Limits(max_client_batch_size=10, max_json_depth=5)
    assert limits.max_json_values == 100_000
    just = b'{"a":[' + b"0," * 99_996 + b"0]}"
    assert bodies.survey(just) == (99_999, 2)
    assert len(bodies.parse(just, limits)["a"]) == 99_997
    assert bodies.parse(b'{"a":' + b"[" * 4 + b"]" * 4 + b"}", limits)
    monkeypatch.setattr(bodies, "orjson", None)
    with pytest.raises(PayloadTooLargeError, match="100,001 values"):
        bodies.parse(just.replace(b"[", b"[0,0,"), limits)
    with pytest.raises(RequestError, match="5 deep"):
        bodies.parse(b'{"a":' + b"[" * 5 + b"]" * 5 + b"}", limits)


def test_every_list_of_every_schema_stops_at_its_first_fault() -> None:
    lists = 0

    def look(part: Any) -> None:
        nonlocal lists
        if isinstance(part, dict):
            if part.get("type") == "list":
                lists += 1
                assert part["fail_fast"]
            part = list(part.values())
        if isinstance(part, list | tuple):
            for each in part:
                look(each)

    for schema in {operation.schema for route in ROUTES for operation in route.operations}:
        if schema is not None:
            look(schema.__pydantic_core_schema__)
    assert lists > 20


@pytest.fixture(scope="module")
def strong(folders: dict[str, Path]) -> Iterator[Running]:
    with running(folders) as made:
        made.call("/rerank", {"query": "a", "texts": ["b"]})
        made.call("/tokenize", KINDS["one text of one word, wide"](100_000))
        yield made


@pytest.mark.parametrize(
    ("name", "path", "statuses"),
    [
        ("numbers for texts", "/rerank", {413}),
        ("empty lists", "/rerank", {413}),
        ("ids, one wrong", "/decode", {413}),
        ("lists of texts", "/predict", {413}),
        ("opened lists in a field", "/v1/embeddings", {400}),
        ("one text of one word, wide", "/tokenize", {413}),
        ("one text with spaces", "/embed", {200}),
        ("one text of one word", "/embed", {200}),
        ("a long query for many", "/rerank", {200, 504}),
        ("long names", "/embed", {422, 404}),
        ("instances of batches", "/vertex", {413}),
        ("many fields to rank by", "/v1/rerank", {200, 504}),
        ("base64, often", "/v2/embed", {200}),
    ],
)
def test_sixteen_megabytes(strong: Running, name: str, path: str, statuses: set[int]) -> None:
    body = KINDS[name](16_000_000)
    with unharmed(strong):
        begin = time.monotonic()
        reply = strong.call(path, body, headers={"X-Request-Timeout-Ms": "1200"})
        assert time.monotonic() - begin < 2
    assert reply.status in statuses, reply.body[:200]
    assert len(reply.body) < 5_000_000
    assert strong.site.admission.num_bytes == strong.site.exchange.outbox.num_bytes == 0


# as many wrong members as one body may hold values, in bodies that are parsed
@pytest.mark.parametrize(
    ("path", "field", "member"),
    [
        ("/rerank", "texts", 0),
        ("/decode", "ids", "a"),
        ("/predict", "inputs", 0),
        ("/polyrank/classify", "inputs", 0.5),
        ("/v1/embeddings", "input", 0.5),
        ("/jina/rerank", "documents", 0),
        ("/v2/embed", "embedding_types", 0),
    ],
)
def test_a_million_faults_are_one(strong: Running, path: str, field: str, member: Any) -> None:
    count = 900_000 if member != "a" else 9_000
    body = json.dumps({"query": "q", "texts": ["a"], field: [member] * count}).encode()
    with unharmed(strong):
        begin = time.monotonic()
        reply = strong.call(path, body)
        assert time.monotonic() - begin < 1
    assert reply.status in (400, 422), reply.body[:200]
    assert b"and " not in reply.body or b" more" not in reply.body
    assert len(reply.body) < 2_000


def test_one_wrong_id_among_many(strong: Running) -> None:
    with unharmed(strong):
        reply = strong.call("/decode", {"ids": [5] * 900_000 + [10**9]})
    assert reply.status == 422
    assert b"outside its vocabulary" in reply.body


def test_a_refused_body_leaves_nothing_behind(strong: Running) -> None:
    with unharmed(strong, growth=150_000_000):
        for _ in range(20):
            body = (
                b'{"query":"q","texts":[' + b'"a text of some length, again",' * 400_000 + b'"a"]}'
            )
            assert strong.call("/rerank", body).status == 413


def test_the_batches_of_one_request_are_counted_together(folders: dict[str, Path]) -> None:
    limits = Limits(max_client_batch_size=10, max_reply_values=1_000)
    with running({"embedder": folders["embedder"]}, limits=limits) as server:
        one = {"inputs": ["a"] * 6}
        assert server.call("/vertex", {"instances": [one]}).status == 200
        for instances in ([one, one], [{"inputs": ["a"]}] * 11):
            assert server.call("/vertex", {"instances": instances}).status == 413
        assert server.call("/vertex", {"instances": [{"inputs": ["a"] * 8}] * 1}).status == 200


def test_tokens_in_a_reply_are_bounded(server: Running) -> None:
    long = {"inputs": ["a " * 50_000] * 3}
    refused = server.call("/tokenize", long)
    assert refused.status == 413
    assert b"200,000" in refused.body
    with unharmed(server):
        assert server.call("/tokenize", {"inputs": ["a " * 50_000] * 2}).status == 200
