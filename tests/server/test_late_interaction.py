"""A checkpoint that compares token rows, served: ranking, labels of pairs, usage."""

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from polyrank import Classifier, Embedder, Reranker
from polyrank.server.settings import Limits
from tests.checkpoints import late_interaction
from tests.server.running import Running, held, running, wait_until
from tests.server.test_limits import gauge
from tests.texts import AWKWARD, SENTENCES
from tests.unit.tasks.test_late_interaction import Checkpoint

QUERY = "how long do cats live?"
DOCUMENTS = [*SENTENCES.values()][:8]


@pytest.fixture(scope="module")
def folder(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    name = "multilingual-e5-small"
    parent = tmp_path_factory.mktemp("late")
    return late_interaction(Path(shutil.copytree(checkpoint(name), parent / name)))


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Running]:
    with running({"late": folder}, cache_bytes=1_000_000) as made:
        yield made


def test_rankings_have_the_same_bits_as_in_the_library(server: Running, folder: Path) -> None:
    texts = [*DOCUMENTS, *AWKWARD.values(), *DOCUMENTS]
    wanted = [(hit.index, hit.logit) for hit in Reranker(folder).rank(QUERY, texts)]
    body = {"query": QUERY, "texts": texts, "raw_scores": True}
    for _ in range(2):  # the second from the cache
        rows = server.post("/rerank", body)
        assert [row["index"] for row in rows] == [i for i, _ in wanted]
        assert [np.float32(row["score"]) for row in rows] == [logit for _, logit in wanted]
    rows = server.post("/rerank", body | {"raw_scores": False})
    scores = {row["index"]: row["score"] for row in rows}
    library = Reranker(folder).score([(QUERY, text) for text in texts])
    assert [np.float32(scores[i]) for i in range(len(texts))] == library.tolist()


def test_many_documents_in_one_request(server: Running, folder: Path) -> None:
    texts = [f"{DOCUMENTS[i % 8]} {i}" for i in range(900)]
    rows = server.post("/rerank", {"query": QUERY, "texts": texts})
    wanted = Reranker(folder).rank(QUERY, texts)
    assert [row["index"] for row in rows] == [hit.index for hit in wanted]


def test_documents_that_come_again_are_not_read_again(folder: Path) -> None:
    with running({"late": folder}, row_cache_bytes=10_000_000) as server:
        served = server.site.registry.loaded[0]
        texts = [*DOCUMENTS, DOCUMENTS[0]]
        for k, query in enumerate(["cats?", "dogs?", "cats?"]):
            before = served.engine.usage.num_sequences
            rows = server.post("/rerank", {"query": query, "texts": texts, "raw_scores": True})
            wanted = Reranker(folder).rank(query, texts)
            assert [(row["index"], np.float32(row["score"])) for row in rows] == [
                (hit.index, np.float32(hit.logit)) for hit in wanted
            ]
            num_run = served.engine.usage.num_sequences - before
            assert num_run == [len(DOCUMENTS) + 1, 1, 0][k]
        assert gauge(server, "polyrank_row_cache_hits_total") == 2 * len(DOCUMENTS) + 1
        assert gauge(server, "polyrank_row_cache_misses_total") == len(DOCUMENTS) + 2
        cache = served.engine.row_cache
        assert cache is not None
        assert gauge(server, "polyrank_row_cache_bytes") == cache.num_bytes > 0
        # a probe shows that the encoder works, so that it runs whatever is kept
        for _ in range(2):
            before = served.engine.usage.num_batches
            server.site.scheduler.forget_engine(served.engine)
            assert server.call("/ready").status == 200
            assert served.engine.usage.num_batches > before


def test_what_is_known_counts_against_no_queue(folder: Path) -> None:
    body = {"query": "cats?", "texts": DOCUMENTS}
    limits = Limits(max_queued_tokens=60)
    with (
        running({"late": folder}, row_cache_bytes=10_000_000, limits=limits) as server,
        ThreadPoolExecutor(2) as pool,
    ):
        wanted = server.post("/rerank", body)
        with held(server, "late") as encoder:
            waiting = []
            for k, query in enumerate(["dogs?", "mice?"]):  # one that runs, one that waits
                waiting.append(pool.submit(server.post, "/rerank", body | {"query": query}))
                wait_until(lambda: encoder.num_begun == 1)
                wait_until(lambda k=k: server.site.scheduler.num_waiting_sequences == k)
            texts = [f"{text} again" for text in DOCUMENTS]
            assert server.call("/rerank", body | {"texts": texts}).status == 429
            assert server.post("/rerank", body) == wanted
            encoder.go.set()
            assert all(len(future.result()) == len(DOCUMENTS) for future in waiting)


def test_rows_of_tokens_are_kept_too(folder: Path) -> None:
    body = {"inputs": DOCUMENTS[:2]}
    with running({"late": folder}, row_cache_bytes=10_000_000) as server:
        first = server.post("/embed_all", body)
        assert server.post("/embed_all", body) == first
        assert gauge(server, "polyrank_row_cache_hits_total") == 2


def test_no_rows_are_kept_unless_asked(server: Running) -> None:
    assert "polyrank_row_cache_bytes" not in server.call("/metrics").body.decode()
    assert server.site.registry.loaded[0].engine.row_cache is None


def test_labels_of_pairs(server: Running, folder: Path) -> None:
    pairs = [[QUERY, text] for text in DOCUMENTS]
    wanted = Classifier(folder).classify([(QUERY, text) for text in DOCUMENTS])
    reply = server.post("/predict", {"inputs": pairs})
    assert [max(row, key=lambda entry: entry["score"])["label"] for row in reply] == [
        result.label for result in wanted
    ]
    for row, result in zip(reply, wanted, strict=True):
        found = {entry["label"]: entry["score"] for entry in row}
        assert found == pytest.approx(dict(result.probabilities), abs=1e-6)


def test_a_text_alone_has_no_label(server: Running) -> None:
    reply = server.call("/predict", {"inputs": QUERY})
    assert reply.status == 422
    assert "labels pairs of texts" in reply.json["error"]


def test_usage_counts_each_text_once(server: Running) -> None:
    body = {"query": QUERY, "documents": DOCUMENTS}
    prompted = [f"query: {QUERY}", *(f"passage: {text}" for text in DOCUMENTS)]
    tokens = server.post("/tokenize", {"inputs": prompted})
    for _ in range(2):
        usage = server.post("/v1/rerank", body)["usage"]
        assert usage["total_tokens"] == sum(map(len, tokens))


def test_it_embeds_and_is_healthy(server: Running, folder: Path) -> None:
    vectors = server.post("/embed", {"inputs": DOCUMENTS, "prompt_name": "query"})
    wanted = Embedder(folder).encode(DOCUMENTS, input_type="query")
    np.testing.assert_allclose(vectors, wanted, atol=1e-6)
    assert server.call("/health").status == 200


def test_the_label_of_a_reranker_alone(folder: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(folder, tmp_path / "reranker"))
    config = json.loads((other / "config.json").read_text())
    del config["polyrank_heads"]["classify"]
    (other / "config.json").write_text(json.dumps(config))
    with running({"late": other}) as server:
        reply = server.post("/predict", {"inputs": [[QUERY, text] for text in DOCUMENTS]})
        wanted = Reranker(other).score([(QUERY, text) for text in DOCUMENTS])
        assert [row[0]["label"] for row in reply] == ["relevant"] * len(DOCUMENTS)
        assert [row[0]["score"] for row in reply] == pytest.approx(wanted.tolist(), abs=1e-6)
