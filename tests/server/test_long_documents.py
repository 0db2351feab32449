"""Documents of any length over the wire: the same passages and bits as in the library."""

import pytest

from polyrank import Reranker
from polyrank.checkpoint.hub import default_model_folder
from polyrank.client import Client
from polyrank.config import PassageConfig
from polyrank.server.settings import Limits
from tests.server.running import running
from tests.server.test_dialects import Folders

QUERY = "How long do cats live?"
FILLER = "Bread needs flour and water. The moon is far away! Ships sail to Peru. "
LONG = FILLER * 30 + "Cats live twelve to eighteen years. " + FILLER * 30
DOCUMENTS = ["Cats live 15 years.", LONG, FILLER * 40, {"text": FILLER}]


@pytest.mark.parametrize("kind", ["reranker", "embedder", "default"])
def test_client_and_library_read_the_same_passages(folders: Folders, kind: str) -> None:
    folder = folders.get(kind) or default_model_folder()
    library = Reranker(folder).rank(QUERY, DOCUMENTS)
    with running({"model": folder}) as server, Client(server.url) as client:
        hits = client.rank(QUERY, DOCUMENTS)
        again = client.rank(QUERY, DOCUMENTS)
    assert again == hits
    for hit, own in zip(hits, library, strict=True):
        assert (hit.index, hit.score, hit.logit) == (own.index, own.score, own.logit)
        assert hit.passages == (own.passages if len(own.passages) > 1 else ())
    assert sum(bool(hit.passages) for hit in hits) == 2


def test_client_and_library_join_the_rows_of_passages() -> None:
    folder = default_model_folder()
    library = Reranker(folder, passages=PassageConfig("joint_maxsim")).rank(QUERY, DOCUMENTS)
    with (
        running({"model": folder}, aggregation="joint_maxsim") as server,
        Client(server.url) as client,
    ):
        hits = client.rank(QUERY, DOCUMENTS)
    assert [(hit.index, hit.logit) for hit in hits] == [(hit.index, hit.logit) for hit in library]


def test_a_kept_result_has_its_passages(folders: Folders) -> None:
    with (
        running({"model": folders["reranker"]}, cache_bytes=1 << 20) as server,
        Client(server.url) as client,
    ):
        assert client.rank(QUERY, DOCUMENTS) == client.rank(QUERY, DOCUMENTS)


def test_a_server_reads_a_document_to_its_limit(folders: Folders) -> None:
    capped = Reranker(
        folders["reranker"], passages=PassageConfig(max_tokens_per_document=100)
    ).rank(QUERY, [LONG])[0]
    with (
        running({"model": folders["reranker"]}, limits=Limits(max_document_tokens=100)) as server,
        Client(server.url) as client,
    ):
        (hit,) = client.rank(QUERY, [LONG])
    assert hit.is_truncated
    assert hit.logit == capped.logit


def test_who_asks_for_a_cut_gets_it(folders: Folders) -> None:
    cut = Reranker(folders["reranker"], passages=None).rank(QUERY, [LONG])[0]
    body = {"query": QUERY, "documents": [LONG]}
    with running({"model": folders["reranker"]}) as server:
        asked = server.post("/polyrank/rank", body | {"truncate": True})["results"][0]
        (whole,) = server.post("/cohere/v2/rerank", body)["results"]
        (one,) = server.post("/cohere/v1/rerank", body | {"max_chunks_per_doc": 1})["results"]
    assert (asked["logit"], asked["is_truncated"], asked["passages"]) == (cut.logit, True, [])
    assert one["relevance_score"] == cut.score
    assert whole["relevance_score"] != cut.score
    with running({"model": folders["reranker"]}, aggregation="truncate") as server:
        (told,) = server.post("/polyrank/rank", body)["results"]
    assert told["logit"] == cut.logit
