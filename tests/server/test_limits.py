"""What is refused, dropped, shared and remembered while requests are under way."""

import http.client
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from polyrank.engine.fair_queue import Flow
from polyrank.server.settings import Limits
from tests.server.running import Running, held, running, wait_until
from tests.texts import SENTENCES

DOCUMENTS = list(SENTENCES.values())
BODY = {"query": "cats", "texts": DOCUMENTS}
Folders = dict[str, Path]


@pytest.fixture(scope="module")
def small(folders: Folders) -> Iterator[Running]:
    limits = Limits(
        max_concurrent_requests=3,
        max_queued_tokens=2000,
        max_client_batch_size=300,
        max_payload_bytes=100_000,
        max_json_depth=5,
        request_timeout_s=20,
        body_timeout_s=1,
    )
    with running({"reranker": folders["reranker"]}, limits=limits) as made:
        yield made


def gauge(server: Running, name: str) -> float:
    lines = server.call("/metrics").body.decode().splitlines()
    (found,) = [line for line in lines if line.startswith(f"{name} ")]
    return float(found.split()[-1])


def test_too_many_requests(small: Running) -> None:
    with held(small, "reranker") as encoder, ThreadPoolExecutor(8) as pool:
        under_way = [pool.submit(small.call, "/rerank", BODY | {"texts": ["a"]}) for _ in range(3)]
        wait_until(lambda: small.site.admission.num_requests == 3)
        refused = small.call("/rerank", BODY)
        assert refused.status == 429
        assert refused.json["error_type"] == "Overloaded"
        assert int(refused.headers["retry-after"]) >= 1
        assert small.call("/live").status == 200  # health is asked under overload, too
        encoder.go.set()
        assert [future.result().status for future in under_way] == [200] * 3
    assert small.call("/rerank", BODY).status == 200


def test_too_many_tokens(small: Running) -> None:
    with held(small, "reranker") as encoder, ThreadPoolExecutor(8) as pool:
        first = pool.submit(small.call, "/rerank", BODY)
        wait_until(lambda: encoder.num_begun == 1)
        second = pool.submit(small.call, "/rerank", BODY)
        wait_until(lambda: small.site.scheduler.num_waiting_tokens > 500)
        assert gauge(small, "te_queue_size") >= 15
        assert gauge(small, "polyrank_queue_age_seconds") > 0
        refused = small.call("/v1/rerank", {"query": "q", "documents": DOCUMENTS * 3})
        assert refused.status == 429
        assert "tokens wait" in refused.json["detail"]
        (served,) = small.site.registry.loaded
        small.site.admission.check_tokens(Flow(is_urgent=True), served.engine, 10**6)  # a probe
        encoder.go.set()
        assert first.result().status == second.result().status == 200
    # alone, a request may be larger than the queue
    assert small.call("/rerank", {"query": "q", "texts": DOCUMENTS * 10}).status == 200


def test_too_large(small: Running) -> None:
    many = small.call("/rerank", {"query": "q", "texts": ["a"] * 301})
    assert many.status == 413
    assert "300" in many.json["error"]
    assert small.call("/rerank", {"query": "q", "texts": ["a" * 100_001]}).status == 413
    connection = http.client.HTTPConnection("127.0.0.1", small.port)
    chunks = (b'{"query": "' + b"a" * 50_000 for _ in range(10))  # no length is announced
    try:
        connection.request("POST", "/rerank", chunks, encode_chunked=True)
        status = connection.getresponse().status
    except (BrokenPipeError, ConnectionResetError):
        status = 413  # the server had hung up before all was sent
    finally:
        connection.close()
    assert status == 413
    assert small.site.admission.num_bytes == 0


def test_replies_that_would_be_too_large(folders: Folders) -> None:
    limits = Limits(max_reply_values=10_000)
    with running({"embedder": folders["embedder"]}, limits=limits) as server:
        assert server.call("/embed", {"inputs": DOCUMENTS}).status == 200
        refused = server.call("/embed_all", {"inputs": DOCUMENTS})
        assert refused.status == 413
        assert "10,000" in refused.json["error"]
        assert server.call("/embed", {"inputs": DOCUMENTS * 9}).status == 413


def test_deadlines(small: Running) -> None:
    with held(small, "reranker"):
        begin = time.monotonic()
        reply = small.call("/rerank", BODY, headers={"X-Request-Timeout-Ms": "200"})
        assert reply.status == 504
        assert 0.15 < time.monotonic() - begin < 5
        late = small.call(
            "/v2/rerank",
            {"query": "q", "documents": ["a"]},
            headers={"X-Request-Timeout-Ms": "100"},
        )
        assert late.status == 504
        assert small.site.scheduler.num_waiting_sequences == 0
    assert small.call("/rerank", BODY, headers={"X-Request-Timeout-Ms": "soon"}).status == 400
    assert small.call("/rerank", BODY).status == 200


def test_a_client_that_hangs_up_leaves_the_queue(small: Running) -> None:
    with held(small, "reranker") as encoder, ThreadPoolExecutor(1) as pool:
        first = pool.submit(small.call, "/rerank", BODY | {"texts": ["a"]})
        wait_until(lambda: encoder.num_begun == 1)
        connection = http.client.HTTPConnection("127.0.0.1", small.port)
        connection.request("POST", "/rerank", json.dumps(BODY).encode())
        wait_until(lambda: small.site.scheduler.num_waiting_sequences == len(DOCUMENTS))
        connection.close()
        wait_until(lambda: small.site.scheduler.num_waiting_sequences == 0)
        wait_until(lambda: small.site.admission.num_requests == 1)
        encoder.go.set()
        assert first.result().status == 200


def test_short_requests_do_not_wait_for_long_ones(folders: Folders) -> None:
    long = {"query": "q", "texts": [f"{text} {i}" for i in range(150) for text in DOCUMENTS]}
    with (
        running({"reranker": folders["reranker"]}) as server,
        ThreadPoolExecutor(2) as pool,
        held(server, "reranker") as encoder,
    ):
        whole = pool.submit(server.call, "/rerank", long)
        wait_until(lambda: server.site.scheduler.num_waiting_sequences > 2000)
        short = pool.submit(server.call, "/rerank", {"query": "q", "texts": ["a"]})
        wait_until(lambda: server.site.admission.num_requests == 2)
        time.sleep(0.05)  # a short request is tokenised within the event loop
        encoder.steps = 2  # the batch that is held up, and one more
        assert short.result(10).status == 200
        assert not whole.done()
        encoder.go.set()
        assert whole.result(30).status == 200


def test_concurrent_requests_get_their_own_results(server: Running) -> None:
    queries = [f"{i} cats" for i in range(40)]
    alone = [server.post("/rerank", {"query": query, "texts": DOCUMENTS}) for query in queries]
    with ThreadPoolExecutor(16) as pool:
        together = list(
            pool.map(
                lambda query: server.post("/rerank", {"query": query, "texts": DOCUMENTS}), queries
            )
        )
    assert together == alone


def test_timing_headers_and_ids(server: Running) -> None:
    reply = server.call("/rerank", BODY, headers={"X-Request-Id": "abc-1"})
    assert reply.headers["x-request-id"] == "abc-1"
    assert int(reply.headers["x-compute-tokens"]) > 100
    assert int(reply.headers["x-compute-characters"]) == sum(len(t) + 4 for t in DOCUMENTS)
    for name in ("x-total-time", "x-tokenization-time", "x-queue-time", "x-inference-time"):
        assert int(reply.headers[name]) >= 0
    odd = server.call("/rerank", BODY, headers={"X-Request-Id": "a b\tc" * 100})
    assert odd.headers["x-request-id"] != "a b\tc" * 100


def test_metrics(folders: Folders) -> None:
    with running({"reranker": folders["reranker"]}) as server:
        server.post("/rerank", BODY)
        server.call("/rerank", {"query": 1})
        page = server.call("/metrics")
        text = page.body.decode()
        assert page.headers["content-type"].startswith("text/plain")
        for line in (
            'te_request_count{method="batch"} 1.0',
            'te_request_success{method="batch"} 1.0',
            'te_request_failure{err="validation"} 1.0',
            f"te_rerank_count {float(len(DOCUMENTS))}",
            "te_request_duration_count 1.0",
            "te_queue_size 0.0",
            "polyrank_padding_tokens_total 0.0",
            'polyrank_responses_total{dialect="tei",status="200"} 1.0',
        ):
            assert line in text, line
        for name in ("te_batch_next_tokens_bucket", "te_request_input_length_bucket"):
            assert name in text


def test_cache(folders: Folders) -> None:
    with running(folders, cache_bytes=1_000_000) as server:
        plain = server.post("/rerank", BODY)
        before = server.site.scheduler
        tokens = gauge(server, "polyrank_tokens_total")
        assert server.post("/rerank", BODY) == plain
        assert gauge(server, "polyrank_tokens_total") == tokens
        assert gauge(server, "polyrank_cache_hits_total") == len(DOCUMENTS)
        assert gauge(server, "polyrank_cache_bytes") > 0
        more = server.post("/rerank", {"query": "cats", "texts": [*DOCUMENTS, "a new one"]})
        assert gauge(server, "polyrank_cache_misses_total") == len(DOCUMENTS) + 1
        assert len(more) == len(DOCUMENTS) + 1
        usage = [
            server.post("/v1/embeddings", {"input": DOCUMENTS, "dimensions": k})["usage"]
            for k in (64, 16)
        ]
        assert usage[0] == usage[1]
        assert before.num_waiting_tokens == 0
        # what must not be cut is refused, cached or not
        long = {"query": "q", "texts": ["cats " * 900]}
        assert server.call("/rerank", long).status == 200
        assert server.call("/rerank", long | {"truncate": False}).status == 422


def test_cache_is_bounded() -> None:
    import numpy as np

    from polyrank.server.cache import CachedRow, Counts, ResultCache, cache_key

    cache = ResultCache(10_000)
    keys = [cache_key(b"m", [str(i)]) for i in range(100)]
    for key in keys:
        cache.put(key, CachedRow(np.zeros(64, np.float32), Counts(1, 0, False)))
    assert cache.num_bytes <= 10_000
    assert cache.get(keys[0]) is None
    assert cache.get(keys[-1]) is not None
    assert cache_key(b"m", ["ab", "c"]) != cache_key(b"m", ["a", "bc"]) != cache_key(b"ma", ["bc"])


def test_readiness_runs_the_model(folders: Folders) -> None:
    with running({"reranker": folders["reranker"]}) as server:
        tokens = gauge(server, "polyrank_tokens_total")
        server.site.scheduler._successes.clear()
        for path in ("/health", "/ready", "/ping"):
            assert server.call(path).status == 200
        assert gauge(server, "polyrank_tokens_total") > tokens
        server.site.scheduler._successes.clear()
        with held(server, "reranker") as encoder:
            encoder.inner, inner = Broken(encoder.inner.capabilities), encoder.inner
            encoder.go.set()
            reply = server.call("/ready")
            assert reply.status == 503
            assert "broken" in reply.json["error"]["message"]
            assert server.call("/live").status == 200
            failed = server.call("/v1/rerank", {"query": "q", "documents": ["a"]})
            assert failed.status == 500
            encoder.inner = inner
        assert server.call("/ready").status == 200


class Broken:
    def __init__(self, capabilities: object) -> None:
        self.capabilities = capabilities

    def run(self, batch: object, pooling: object) -> None:
        raise MemoryError("broken")

    def close(self) -> None:
        pass


def test_many_threads_do_not_leak(server: Running) -> None:
    num_threads = threading.active_count()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: server.post("/rerank", BODY), range(50)))
    wait_until(lambda: threading.active_count() <= num_threads + 1)
    assert server.site.admission.num_requests == server.site.admission.num_bytes == 0


SPEED = 2_000  # tokens a second, of an encoder that is slowed down


class Slow(Broken):
    """An encoder of a speed that is known."""

    def __init__(self, inner: Any) -> None:
        super().__init__(inner.capabilities)
        self.inner = inner
        self.num_tokens = 0

    def run(self, batch: Any, pooling: Any) -> Any:
        time.sleep(batch.total_tokens / SPEED)
        self.num_tokens += batch.total_tokens
        return self.inner.run(batch, pooling)


def test_overload_is_refused_and_the_rest_answered_in_time(folders: Folders) -> None:
    body = {"query": "cats", "texts": DOCUMENTS[:4]}
    headers = {"X-Request-Timeout-Ms": "2000"}
    with running({"reranker": folders["reranker"]}) as server, ThreadPoolExecutor(80) as pool:
        (served,) = server.site.registry.loaded
        slow = served.engine.encoder = Slow(served.engine.encoder)
        for _ in range(8):  # the speed is learnt
            assert server.call("/rerank", body).status == 200
        each = slow.num_tokens / 8
        gap_s, seconds = each / SPEED / 3, 6  # three times what it can do
        busy_s = gauge(server, "polyrank_batch_seconds_total")
        slow.num_tokens, begin, asked = 0, time.monotonic(), []
        while (elapsed := time.monotonic() - begin) < seconds:
            asked.append(pool.submit(server.call, "/rerank", body, headers=headers))
            if len(asked) % 20 == 0:
                assert server.call("/ready").status == 200  # a probe is never refused
            time.sleep(max(0.0, len(asked) * gap_s - elapsed))
        waiting_s = gauge(server, "polyrank_queue_seconds")
        replies = [future.result() for future in asked]
        lasted = time.monotonic() - begin
        busy_s = gauge(server, "polyrank_batch_seconds_total") - busy_s
        refused = [reply for reply in replies if reply.status == 429]
        num_good = sum(reply.status == 200 for reply in replies)
        assert 0.5 < waiting_s < 2
        # by the speed that it had: a busy machine is slower than the sleep alone
        capacity = slow.num_tokens / busy_s * lasted
        assert num_good * each >= 0.85 * capacity
        assert len(refused) > 0.3 * len(replies)
        assert num_good + len(refused) >= 0.9 * len(replies)
        assert all(1 <= int(reply.headers["retry-after"]) <= 3 for reply in refused)
        name = 'polyrank_refusals_total{reason="deadline"}'
        assert gauge(server, name) == len(refused)
        assert gauge(server, 'polyrank_refusals_total{reason="queue"}') == 0
        begin = time.monotonic()
        assert server.call("/rerank", body).status == 200
        assert time.monotonic() - begin < 2  # and it is over as soon as it has ended


def test_work_that_cannot_be_done_in_time_is_not_computed(folders: Folders) -> None:
    with (
        running({"reranker": folders["reranker"]}) as server,
        ThreadPoolExecutor(8) as pool,
    ):
        (served,) = server.site.registry.loaded
        slow = served.engine.encoder = Slow(served.engine.encoder)
        for _ in range(8):
            assert server.call("/rerank", BODY).status == 200
        each, slow.num_tokens = slow.num_tokens / 8, 0
        time_ms = str(round(each / SPEED * 4 * 1000))
        with held(server, "reranker") as encoder:
            first = pool.submit(server.call, "/rerank", BODY)
            wait_until(lambda: encoder.num_begun == 1)
            rest = [
                pool.submit(server.call, "/rerank", BODY, headers={"X-Request-Timeout-Ms": time_ms})
                for _ in range(2)
            ]
            wait_until(lambda: server.site.scheduler.num_waiting_sequences >= 2 * len(DOCUMENTS))
            time.sleep(each / SPEED * 3.5)  # the machine stood still
            encoder.go.set()
            assert first.result().status == 200
            dropped = [future.result() for future in rest]
        assert [reply.status for reply in dropped] == [504] * 2
        assert "not computed" in dropped[0].json["error"]
        assert gauge(server, "polyrank_queue_drops_total") >= 1
        assert slow.num_tokens < 2 * each
