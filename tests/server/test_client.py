"""polyrank's own client: the library's results over the wire, and patience with the server."""

import asyncio
import socket
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from polyrank import Classifier, Embedder, Reranker
from polyrank.client import AsyncClient, Client, RankedHit, _Call
from polyrank.errors import (
    CapabilityError,
    ConfigError,
    DeadlineExceededError,
    InputError,
    OverloadedError,
    ServingError,
    UnauthorizedError,
    UnavailableError,
    UnknownModelError,
)
from polyrank.server.settings import Limits
from tests.server.running import Running, held, running, wait_until
from tests.texts import SENTENCES

QUERY = "how long do cats live?"
DOCUMENTS = list(SENTENCES.values())
Folders = dict[str, Path]


@pytest.mark.parametrize("cls", [Client, AsyncClient])
def test_settings_are_checked_before_anything_is_sent(cls: type[Client]) -> None:
    for settings, message in (
        ({"base_url": "127.0.0.1:3000"}, "base_url must begin with http"),
        ({"base_url": None}, "base_url must begin with http"),
        ({"timeout_s": "5"}, "timeout_s must be a number"),
        ({"timeout_s": 0}, "timeout_s must be a number"),
        ({"timeout_s": float("nan")}, "timeout_s must be a number"),
        ({"max_tries": 1.5}, "max_tries must be a whole number"),
        ({"max_tries": 0}, "max_tries must be 1 or more"),
        ({"api_key": 5}, "api_key must be a text"),
        ({"api_key": "a\r\nHost: b"}, "api_key must be a text"),
        ({"api_key": "\ud83d"}, "api_key must be a text"),
    ):
        with pytest.raises(ConfigError, match=message):
            cls(**settings)  # type: ignore[arg-type]


def test_inputs_are_checked_before_anything_is_sent() -> None:
    with Client("http://127.0.0.1:9", max_tries=1, api_key="schlüssel") as client:
        for call, message in (
            (lambda: client.rank(QUERY, ["a"], top_n=1.5), "top_n must be a whole number"),  # type: ignore[arg-type]
            (lambda: client.rank(QUERY, "one"), "documents must be a list"),
            (lambda: client.rank("\ud83d", ["a"]), "query holds a lone surrogate"),
            (lambda: client.rank(QUERY, [{"body": "a"}]), 'no "text" field'),
            (lambda: client.embed(["a"], dimensions=1.5), "dimensions must be a whole number"),  # type: ignore[arg-type]
            (lambda: client.embed(["a"], output_dtype="int4"), "output_dtype must be one of"),  # type: ignore[arg-type]
            (lambda: client.embed(["a"], input_type="answer"), "input_type must be one of"),  # type: ignore[arg-type]
            (lambda: client.embed([5]), r"texts\[0\] must be a string"),  # type: ignore[list-item]
            (lambda: client.classify("one"), "inputs must be a list"),
            (lambda: client.classify([("a",)]), r"inputs\[0\] must be two texts"),  # type: ignore[list-item]
        ):
            with pytest.raises((ConfigError, InputError), match=message):
                call()


def test_one_text_and_other_libraries_documents(server: Running, folders: Folders) -> None:
    class Page:
        page_content = DOCUMENTS[0]

    with Client(server.url) as client:
        vector = client.embed(DOCUMENTS[0], input_type="passage")
        expected = Embedder(folders["embedder"]).encode(DOCUMENTS[0], input_type="document")
        np.testing.assert_array_equal(vector, expected)
        page = Page()
        hit = client.rank(QUERY, [page, DOCUMENTS[1]], top_n=2)[0]
        assert hit.document in (page, DOCUMENTS[1])


def test_results_are_the_librarys(server: Running, folders: Folders) -> None:
    documents = [{"text": text, "id": i} for i, text in enumerate(DOCUMENTS)]
    with Client(server.url) as client:
        hits = client.rank(QUERY, documents, top_n=5)
        expected = Reranker(folders["reranker"]).rank(QUERY, documents, top_n=5)
        assert [(hit.index, hit.document) for hit in hits] == [
            (hit.index, hit.document) for hit in expected
        ]
        assert [np.float32(hit.score) for hit in hits] == [
            np.float32(hit.score) for hit in expected
        ]
        assert [np.float32(hit.logit) for hit in hits] == [
            np.float32(hit.logit) for hit in expected
        ]
        assert len(client.rank(QUERY, ["x " * 900])[0].passages) > 1
        embedder = Embedder(folders["embedder"])
        for output_dtype in ("float32", "int8", "ubinary"):
            found = client.embed(DOCUMENTS, input_type="query", output_dtype=output_dtype)
            wanted = embedder.encode(DOCUMENTS, input_type="query", output_dtype=output_dtype)
            assert found.dtype == wanted.dtype
            np.testing.assert_array_equal(found, wanted)
        inputs = [DOCUMENTS[0], DOCUMENTS[1]]
        found = client.classify(inputs, model="classifier")
        for one, other in zip(
            found, Classifier(folders["classifier"]).classify(inputs), strict=True
        ):
            assert one.label == other.label
            assert one.probabilities == pytest.approx(other.probabilities, abs=1e-6)
        mixed = client.classify([DOCUMENTS[0], (QUERY, DOCUMENTS[1])], model="classifier")
        assert mixed[0] == found[0]


def test_async_results_are_the_same(server: Running) -> None:
    async def ask() -> tuple[object, ...]:
        async with AsyncClient(server.url) as client:
            return await asyncio.gather(
                client.rank(QUERY, DOCUMENTS),
                client.embed(DOCUMENTS),
                client.classify(DOCUMENTS, model="classifier"),
            )

    hits, vectors, labels = asyncio.run(ask())
    with Client(server.url) as client:
        assert hits == client.rank(QUERY, DOCUMENTS)
        np.testing.assert_array_equal(vectors, client.embed(DOCUMENTS))  # type: ignore[call-overload]
        assert labels == client.classify(DOCUMENTS, model="classifier")


def test_first_stage_scores_count(server: Running, folders: Folders) -> None:
    found = [float(i % 5) for i in range(len(DOCUMENTS))]
    expected = Reranker(folders["reranker"]).rank(
        QUERY, DOCUMENTS, first_stage_scores=found, first_stage=1.5
    )
    wanted = [(hit.index, np.float32(hit.logit), np.float32(hit.score)) for hit in expected]

    async def ask() -> list[RankedHit]:
        async with AsyncClient(server.url) as client:
            return await client.rank(QUERY, DOCUMENTS, first_stage_scores=found, first_stage=1.5)

    with Client(server.url) as client:
        hits = client.rank(QUERY, DOCUMENTS, first_stage_scores=found, first_stage=1.5)
        assert hits == asyncio.run(ask())
        assert [(h.index, np.float32(h.logit), np.float32(h.score)) for h in hits] == wanted
        with pytest.raises(InputError, match="one number a document"):
            client.rank(QUERY, DOCUMENTS, first_stage_scores=[1.0])
        with pytest.raises(InputError, match="is nan"):
            client.rank(QUERY, ["cats"], first_stage_scores=[float("nan")])
        unchecked = {"query": QUERY, "documents": ["a", "b"], "first_stage_scores": [1]}
        with pytest.raises(InputError, match="one number a document"):
            client._send(_Call("/polyrank/rank", unchecked))
        with pytest.raises(CapabilityError, match="train first-stage-weight"):
            client.rank(QUERY, DOCUMENTS, first_stage_scores=found)
        with pytest.raises(ConfigError, match="-1"):
            client.rank(QUERY, DOCUMENTS, first_stage_scores=found, first_stage=-1)


def test_errors_are_the_librarys(server: Running, folders: Folders) -> None:
    with Client(server.url) as client:
        for error, call in (
            (ConfigError, lambda: client.rank("q", ["a"], top_n=0)),
            (ConfigError, lambda: client.embed(["a"], dimensions=10_000)),
            (CapabilityError, lambda: client.embed(["a"], model="reranker")),
        ):
            with pytest.raises(error):
                call()
    settings = {"keys": ("a-long-key",), "is_strict_about_names": True}
    with running({"reranker": folders["reranker"]}, **settings) as locked:
        with Client(locked.url) as client, pytest.raises(UnauthorizedError):
            client.rank("q", ["a"])
        with Client(locked.url, api_key="a-long-key") as client:
            assert client.rank("q", ["a"])
            with pytest.raises(UnknownModelError):
                client.rank("q", ["a"], model="rerank-v3.5")


def test_an_overloaded_server_is_asked_again(folders: Folders) -> None:
    limits = Limits(max_concurrent_requests=1)
    with (
        running({"reranker": folders["reranker"]}, limits=limits) as server,
        held(server, "reranker") as encoder,
    ):
        first = threading.Thread(
            target=server.post, args=("/rerank", {"query": "q", "texts": ["a"]})
        )
        first.start()
        wait_until(lambda: encoder.num_begun == 1)
        with Client(server.url, max_tries=1) as hasty, pytest.raises(OverloadedError) as caught:
            hasty.rank("q", ["a"])
        assert caught.value.retry_after_s >= 1
        threading.Timer(0.2, encoder.go.set).start()
        with Client(server.url) as patient:
            assert patient.rank("q", ["a"])
        first.join()


def test_time_limits(server: Running) -> None:
    with (
        held(server, "reranker"),
        Client(server.url, timeout_s=0.2) as client,
        pytest.raises(DeadlineExceededError),
    ):
        client.rank("q", ["a"])


def test_servers_that_are_not_there_or_not_ours(server: Running) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    begin = time.monotonic()
    with Client(f"http://127.0.0.1:{port}", max_tries=2) as client, pytest.raises(UnavailableError):
        client.rank("q", ["a"])
    assert time.monotonic() - begin < 10
    with Client(f"{server.url}/elsewhere") as client, pytest.raises(ServingError):
        client.rank("q", ["a"])
