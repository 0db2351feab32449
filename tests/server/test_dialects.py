"""Shapes of every protocol, and numbers equal to the library's own."""

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polyrank import Classifier, Embedder, Reranker
from tests.server.running import Running, running
from tests.texts import AWKWARD, SENTENCES

QUERY = "how long do cats live?"
DOCUMENTS = list(SENTENCES.values())[:6]
Folders = dict[str, Path]


@pytest.fixture(scope="module")
def expected(folders: Folders) -> list[tuple[int, float, float]]:
    hits = Reranker(folders["reranker"]).rank(QUERY, DOCUMENTS)
    return [(hit.index, hit.score, hit.logit) for hit in hits]


@pytest.fixture(scope="module")
def embedder(folders: Folders) -> Embedder:
    return Embedder(folders["embedder"])


@pytest.fixture(scope="module")
def classifier(folders: Folders) -> Classifier:
    return Classifier(folders["classifier"])


def hits(rows: list[dict[str, Any]], value: str) -> list[tuple[int, float]]:
    return [(row["index"], row[value]) for row in rows]


def close(expected: Any) -> Any:
    return pytest.approx(expected, abs=1e-6)


# text-embeddings-inference


@pytest.mark.parametrize("path", ["/rerank", "/tei/rerank", "/", "/invocations"])
def test_tei_rerank(server: Running, expected: list[tuple[int, float, float]], path: str) -> None:
    rows = server.post(path, {"query": QUERY, "texts": DOCUMENTS, "top_n": 2})
    assert [set(row) for row in rows] == [{"index", "score"}] * 6
    assert hits(rows, "score") == [(i, close(score)) for i, score, _ in expected]
    body = {"query": QUERY, "texts": DOCUMENTS, "raw_scores": True, "return_text": True}
    rows = server.post(path, body)
    assert hits(rows, "score") == [(i, close(logit)) for i, _, logit in expected]
    assert [row["text"] for row in rows] == [DOCUMENTS[i] for i, _, _ in expected]


def test_scores_have_the_same_bits_as_in_the_library(
    server: Running, expected: list[tuple[int, float, float]]
) -> None:
    reply = server.post("/rerank", {"query": QUERY, "texts": DOCUMENTS})
    assert [np.float32(row["score"]) for row in reply] == [np.float32(s) for _, s, _ in expected]


def test_tei_predict(server: Running, classifier: Classifier) -> None:
    pair = (QUERY, DOCUMENTS[1])
    one, two = classifier.classify([DOCUMENTS[0]])[0], classifier.classify([pair])[0]
    by_score = sorted(one.probabilities.items(), key=lambda entry: -entry[1])
    flat = server.post("/predict", {"inputs": DOCUMENTS[0], "model": "classifier"})
    assert [(row["label"], row["score"]) for row in flat] == [(k, close(v)) for k, v in by_score]
    as_pair = server.post("/predict", {"inputs": list(pair), "model": "classifier"})
    assert as_pair[0]["label"] == two.label
    batch = {"inputs": [[DOCUMENTS[0]], list(pair)], "model": "classifier"}
    assert server.post("/predict", batch) == [flat, as_pair]
    three = server.call("/predict", {"inputs": ["a", "b", "c"], "model": "classifier"})
    assert three.status == 400
    raw = server.post("/predict", {"inputs": "a", "raw_scores": True, "model": "classifier"})
    assert {row["label"]: row["score"] for row in raw} == pytest.approx(
        dict(zip(classifier.labels, map(float, classifier.logits(["a"])[0]), strict=True)), abs=1e-5
    )


def test_empty_texts_are_texts(server: Running, embedder: Embedder) -> None:
    np.testing.assert_allclose(
        server.post("/embed", {"inputs": [""]}), embedder.encode([""]), atol=1e-6
    )


@pytest.mark.parametrize("path", ["/embed", "/tei/embed"])
def test_tei_embed(server: Running, embedder: Embedder, path: str) -> None:
    found = np.array(server.post(path, {"inputs": DOCUMENTS[0]}))
    assert found.shape == (1, 64)
    both = server.post(path, {"inputs": DOCUMENTS[:2], "prompt_name": "query", "dimensions": 16})
    wanted = embedder.encode(DOCUMENTS[:2], input_type="query", dimensions=16)
    np.testing.assert_allclose(both, wanted, atol=1e-6)


def test_tei_embed_all_and_similarity(server: Running, embedder: Embedder) -> None:
    rows = server.post("/embed_all", {"inputs": ["a", DOCUMENTS[0]]})
    tokens = server.post("/tokenize", {"inputs": ["a", DOCUMENTS[0]], "model": "embedder"})
    assert [len(each) for each in rows] == [len(each) for each in tokens]
    assert {len(row) for each in rows for row in each} == {64}
    body = {"inputs": {"source_sentence": QUERY, "sentences": DOCUMENTS}}
    vectors = embedder.encode([QUERY, *DOCUMENTS])
    np.testing.assert_allclose(
        server.post("/similarity", body), vectors[1:] @ vectors[0], atol=1e-6
    )
    assert server.post("/", body) == server.post("/similarity", body)


def test_tei_tokenize_and_decode(server: Running) -> None:
    (tokens,) = server.post("/tokenize", {"inputs": "cats live", "model": "embedder"})
    assert [set(token) for token in tokens] == [{"id", "text", "special", "start", "stop"}] * len(
        tokens
    )
    assert tokens[0]["special"]
    assert tokens[0]["start"] is None
    assert "".join(token["text"] for token in tokens[1:-1]).replace(" ", "") == "catslive"
    plain = server.post(
        "/tokenize", {"inputs": ["cats live"], "add_special_tokens": False, "model": "embedder"}
    )
    ids = [token["id"] for token in tokens]
    assert [token["id"] for token in plain[0]] == ids[1:-1]
    assert server.post("/decode", {"ids": ids, "model": "embedder"}) == ["cats live"]
    assert server.post("/decode", {"ids": [ids, ids[:-1]]}) == ["cats live"] * 2
    assert server.call("/decode", {"ids": [10**9]}).status == 422


def test_tei_info(server: Running) -> None:
    facts = server.call("/info").json
    assert facts["model_type"] == {
        "reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    }
    assert facts["max_input_length"] == 512
    assert facts["served_model_name"] == "reranker"
    assert [model["name"] for model in facts["models"]] == ["reranker", "embedder", "classifier"]


def test_tei_vertex(server: Running) -> None:
    rerank, similar = (
        {"query": QUERY, "texts": DOCUMENTS},
        {"inputs": {"source_sentence": QUERY, "sentences": DOCUMENTS}},
    )
    reply = server.post("/vertex", {"instances": [rerank, similar]})
    assert reply == {
        "predictions": [server.post("/rerank", rerank), server.post("/similarity", similar)]
    }


def test_tei_errors(server: Running) -> None:
    for body, status, error_type in (
        ({"query": QUERY}, 422, "Validation"),
        ({"query": QUERY, "texts": "one"}, 422, "Validation"),
        ({"query": QUERY, "texts": []}, 400, "Empty"),
        ({"query": QUERY, "texts": ["x " * 900], "truncate": False}, 422, "Validation"),
    ):
        reply = server.call("/rerank", body)
        assert (reply.status, reply.json["error_type"]) == (status, error_type), reply.body
        assert set(reply.json) == {"error", "error_type"}
    reply = server.call("/embed", {"inputs": "a", "model": "reranker"})
    assert (reply.status, reply.json["error_type"]) == (424, "Backend")


def test_texts_are_cut_at_the_side_asked_for(server: Running, folders: Folders) -> None:
    long = " ".join(DOCUMENTS * 20)
    left = {"query": "a", "texts": [long + " tail"], "truncation_direction": "Left"}
    other = {**left, "texts": ["head " + long + " tail"]}
    assert server.post("/rerank", left) == server.post("/rerank", other)
    right = {"query": "a", "texts": [long + " tail"]}
    assert server.post("/rerank", right) == server.post("/rerank", {"query": "a", "texts": [long]})
    alone = Reranker(folders["reranker"]).score([("a", long)])[0]
    assert server.post("/rerank", right)[0]["score"] == close(float(alone))


# OpenAI, and those of its shape


def test_openai_embeddings(server: Running, embedder: Embedder) -> None:
    body = {"input": DOCUMENTS[:2], "model": "text-embedding-3-small", "user": "me"}
    reply = server.post("/v1/embeddings", body)
    assert reply["object"] == "list"
    assert reply["model"] == "embedder"
    assert [(row["object"], row["index"]) for row in reply["data"]] == [
        ("embedding", 0),
        ("embedding", 1),
    ]
    wanted = embedder.encode(DOCUMENTS[:2])
    np.testing.assert_allclose([row["embedding"] for row in reply["data"]], wanted, atol=1e-6)
    assert reply["usage"]["prompt_tokens"] == reply["usage"]["total_tokens"] > 20
    coded = server.post("/v1/embeddings", {**body, "encoding_format": "base64"})
    decoded = [np.frombuffer(base64.b64decode(r["embedding"]), "<f4") for r in coded["data"]]
    np.testing.assert_allclose(decoded, wanted, atol=1e-6)
    (single,) = server.post("/embeddings", {"input": DOCUMENTS[0]})["data"]
    assert single["embedding"] == reply["data"][0]["embedding"]


def test_openai_token_ids(server: Running, embedder: Embedder) -> None:
    (tokens,) = server.post("/tokenize", {"inputs": "cats live long", "model": "embedder"})
    ids = [token["id"] for token in tokens]
    for given in (ids, [ids], [ids[1:-1]]):
        (row,) = server.post("/v1/embeddings", {"input": given})["data"]
        np.testing.assert_allclose(
            row["embedding"], embedder.encode(["cats live long"])[0], atol=1e-6
        )
    # tiktoken's ids of the same words, as langchain-openai sends them
    reply = server.call("/v1/embeddings", {"input": [[38552, 3974, 1317]]})
    assert reply.status == 400
    assert "check_embedding_ctx_length=False" in reply.json["error"]["message"]
    ids = [each for each in reversed(ids)]
    assert server.call("/v1/embeddings", {"input": [[900, 3, 3, 77]]}).status == 400


def test_openai_errors_and_models(server: Running) -> None:
    reply = server.call("/v1/embeddings", {"input": ["a"], "dimensions": 1000})
    assert reply.status == 400
    assert reply.json["error"]["type"] == "invalid_request_error"
    for path in ("/v1/models", "/models", "/openai/models"):
        listed = server.call(path).json
        assert [model["id"] for model in listed["data"]] == ["reranker", "embedder", "classifier"]
        assert {model["object"] for model in listed["data"]} == {"model"}


@pytest.mark.parametrize(("kind", "dtype"), [("int8", np.int8), ("ubinary", np.uint8)])
def test_voyage_embeddings(server: Running, embedder: Embedder, kind: Any, dtype: Any) -> None:
    body = {
        "input": DOCUMENTS[:2],
        "model": "voyage-3",
        "input_type": "query",
        "truncation": True,
        "output_dtype": kind,
        "output_dimension": 32,
        "encoding_format": "base64",
    }
    rows = server.post("/voyage/v1/embeddings", body)["data"]
    wanted = embedder.encode(DOCUMENTS[:2], input_type="query", dimensions=32, output_dtype=kind)
    found = [np.frombuffer(base64.b64decode(row["embedding"]), dtype) for row in rows]
    np.testing.assert_array_equal(found, wanted)


# rerankers


def test_cohere_rerank(server: Running, expected: list[tuple[int, float, float]]) -> None:
    body = {"model": "rerank-v3.5", "query": QUERY, "documents": DOCUMENTS, "top_n": 3}
    for path in ("/v2/rerank", "/cohere/v2/rerank"):
        reply = server.post(path, body)
        assert hits(reply["results"], "relevance_score") == [
            (i, close(score)) for i, score, _ in expected[:3]
        ]
        assert [set(row) for row in reply["results"]] == [{"index", "relevance_score"}] * 3
        assert reply["meta"]["api_version"] == {"version": "2"}
    objects = [{"title": "x", "body": text} for text in DOCUMENTS]
    reply = server.post(
        "/cohere/v1/rerank",
        {**body, "documents": objects, "rank_fields": ["body"], "return_documents": True},
    )
    assert hits(reply["results"], "relevance_score") == [
        (i, close(score)) for i, score, _ in expected[:3]
    ]
    assert reply["results"][0]["document"] == objects[expected[0][0]]
    wrong = server.call("/cohere/v1/rerank", {**body, "documents": objects, "rank_fields": ["z"]})
    assert wrong.status == 400
    assert "documents[0] has no text in its field 'z'" in wrong.json["message"]


def test_cohere_embed(server: Running, embedder: Embedder) -> None:
    body = {"texts": DOCUMENTS[:2], "input_type": "search_document", "model": "embed-v4.0"}
    wanted = embedder.encode(DOCUMENTS[:2], input_type="document")
    first = server.post("/v1/embed", body)
    assert first["response_type"] == "embeddings_floats"
    np.testing.assert_allclose(first["embeddings"], wanted, atol=1e-6)
    types = ["float", "int8", "ubinary", "base64"]
    made = server.post("/v2/embed", {**body, "embedding_types": types})["embeddings"]
    assert set(made) == set(types)
    np.testing.assert_allclose(made["float"], wanted, atol=1e-6)
    np.testing.assert_array_equal(
        made["int8"], embedder.encode(DOCUMENTS[:2], input_type="document", output_dtype="int8")
    )
    pieces = [{"content": [{"type": "text", "text": DOCUMENTS[0]}]}]
    again = server.post("/v2/embed", {"inputs": pieces, "input_type": "search_document"})
    np.testing.assert_allclose(again["embeddings"]["float"], wanted[:1], atol=1e-6)
    image = [{"content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]
    assert server.call("/v2/embed", {"inputs": image}).status == 400
    none = {**body, "texts": ["x " * 900], "truncate": "NONE"}
    assert server.call("/v1/embed", none).status == 400


def test_cohere_classify(
    server: Running, classifier: Classifier, checkpoint: Callable[[str], Path]
) -> None:
    wanted = classifier.classify(DOCUMENTS)
    for path in ("/v1/classify", "/cohere/v1/classify"):
        reply = server.post(path, {"inputs": DOCUMENTS, "model": "embed-multilingual-v3.0"})
        assert len(reply["classifications"]) == len(DOCUMENTS)
        for row, text, label in zip(reply["classifications"], DOCUMENTS, wanted, strict=True):
            assert row["input"] == text
            assert row["classification_type"] == "single-label"
            assert (row["prediction"], row["predictions"]) == (label.label, [label.label])
            assert row["confidence"] == row["confidences"][0] == close(label.score)
            assert {name: value["confidence"] for name, value in row["labels"].items()} == close(
                label.probabilities
            )
        assert reply["meta"]["billed_units"] == {"classifications": len(DOCUMENTS)}
    folder = checkpoint("multi-label-classifier")
    (many,) = Classifier(folder).classify(DOCUMENTS[:1])
    with running({"many": folder}) as other:
        (row,) = other.post("/v1/classify", {"inputs": DOCUMENTS[:1]})["classifications"]
    likely = {name: value for name, value in many.probabilities.items() if value >= 0.5}
    assert 0 < len(likely) < 5
    assert row["classification_type"] == "multi-label"
    assert "prediction" not in row
    assert dict(zip(row["predictions"], row["confidences"], strict=True)) == close(likely)
    assert row["confidences"] == sorted(row["confidences"], reverse=True)


def test_cohere_classify_says_what_it_cannot_do(server: Running) -> None:
    body = {"inputs": ["a"], "examples": [{"text": "a", "label": "x"}] * 2}
    for wrong, told in (
        (body, "`examples` cannot be used"),
        ({"inputs": ["a"], "preset": "mine"}, "`preset` cannot be used"),
        ({"inputs": ["a"], "model": "reranker"}, "cannot classify"),
        ({"inputs": ["x " * 900], "truncate": "NONE"}, "forbids to cut it"),
        ({"inputs": []}, "no text"),
    ):
        reply = server.call("/v1/classify", wrong)
        assert reply.status == 400
        assert told in reply.json["message"]
        assert set(reply.json) == {"id", "message"}
    assert "irrelevant, neutral, relevant" in server.call("/v1/classify", body).json["message"]


def test_cohere_tokenize(server: Running) -> None:
    text = "How long do cats live? 猫"
    found = server.post("/v1/tokenize", {"text": text, "model": "command-r"})
    plain = {"inputs": text, "add_special_tokens": False}
    (tokens,) = server.post("/tokenize", plain)
    assert found["tokens"] == [token["id"] for token in tokens]
    assert found["token_strings"] == [token["text"] for token in tokens]
    assert found["meta"] == {"api_version": {"version": "1"}}
    back = server.post("/cohere/v1/detokenize", {"tokens": found["tokens"], "model": "m"})
    assert back["text"] == server.post("/decode", {"ids": found["tokens"]})[0]
    assert "long do cats" in back["text"]
    for path, body in (
        ("/v1/tokenize", {"text": ""}),
        ("/v1/detokenize", {"tokens": [10**9]}),
        ("/v1/detokenize", {"tokens": [-1]}),
    ):
        reply = server.call(path, body)
        assert (reply.status, set(reply.json)) == (400, {"id", "message"})


def test_jina(server: Running, expected: list[tuple[int, float, float]]) -> None:
    body = {"query": QUERY, "documents": DOCUMENTS, "model": "jina-reranker-v2", "top_n": None}
    for path in ("/v1/rerank", "/jina/rerank", "/jina/v1/rerank"):
        reply = server.post(path, {**body, "return_documents": True})
        assert {"model", "usage", "results"} <= set(reply)
        assert hits(reply["results"], "relevance_score") == [
            (i, close(score)) for i, score, _ in expected
        ]
        assert reply["results"][0]["document"] == {"text": DOCUMENTS[expected[0][0]]}
    wrong = server.call("/v1/rerank", {"query": QUERY, "documents": [1]})
    assert wrong.status == 422
    assert wrong.json["detail"] == wrong.json["message"]


def test_voyage_rerank(server: Running, expected: list[tuple[int, float, float]]) -> None:
    body = {"query": QUERY, "documents": DOCUMENTS, "model": "rerank-2", "truncation": True}
    for path in ("/rerank", "/v1/rerank", "/voyage/v1/rerank"):
        reply = server.post(path, {**body, "top_k": 2, "return_documents": True})
        assert hits(reply["data"], "relevance_score") == [
            (i, close(score)) for i, score, _ in expected[:2]
        ]
        assert reply["data"][0]["document"] == DOCUMENTS[expected[0][0]]
    assert "data" in server.post("/v1/rerank", {**body, "top_k": None})


def test_infinity(server: Running, expected: list[tuple[int, float, float]]) -> None:
    body = {"query": QUERY, "documents": DOCUMENTS, "model": "default/not-specified"}
    for path in ("/rerank", "/infinity/rerank"):
        reply = server.post(path, {**body, "return_documents": True, "top_n": 2})
        assert reply["object"] == "rerank"
        assert hits(reply["results"], "relevance_score") == [
            (i, close(score)) for i, score, _ in expected[:2]
        ]
        assert reply["results"][0]["document"] == DOCUMENTS[expected[0][0]]
    assert server.post("/rerank", {**body, "raw_scores": True})["results"][0][
        "relevance_score"
    ] == close(expected[0][2])
    labelled = server.post("/classify", {"input": DOCUMENTS, "model": "classifier"})
    assert [len(row) for row in labelled["data"]] == [3] * 6
    assert labelled["data"][0][0]["score"] >= labelled["data"][0][1]["score"]


def test_vllm(server: Running, expected: list[tuple[int, float, float]]) -> None:
    body = {"query": QUERY, "documents": DOCUMENTS, "top_n": 0, "truncate_prompt_tokens": -1}
    for path in ("/rerank", "/v1/rerank", "/v2/rerank", "/vllm/rerank"):
        reply = server.post(path, body)
        assert hits(reply["results"], "relevance_score") == [
            (i, close(score)) for i, score, _ in expected
        ]
        assert reply["results"][0]["document"]["text"] == DOCUMENTS[expected[0][0]]
    scores = {i: score for i, score, _ in expected}
    for one, many in (("queries", "documents"), ("text_1", "text_2"), ("data_1", "data_2")):
        reply = server.post("/score", {one: QUERY, many: DOCUMENTS})
        assert [row["score"] for row in reply["data"]] == [close(scores[i]) for i in range(6)]
    assert server.call("/score", {"text_1": ["a", "b"], "text_2": ["c", "d", "e"]}).status == 400


def test_pinecone(
    server: Running, expected: list[tuple[int, float, float]], embedder: Embedder
) -> None:
    headers = {"X-Pinecone-Api-Version": "2025-10"}
    body = {"query": QUERY, "documents": [{"text": text, "id": "7"} for text in DOCUMENTS]}
    reply = server.post("/rerank", {**body, "top_n": 2}, **headers)
    assert hits(reply["data"], "score") == [(i, close(score)) for i, score, _ in expected[:2]]
    assert reply["data"][0]["document"] == body["documents"][expected[0][0]]
    assert reply["usage"] == {"rerank_units": 1}
    inputs = [{"text": text} for text in DOCUMENTS]
    given = {"inputs": inputs, "model": "m", "parameters": {"input_type": "passage"}}
    made = server.post("/embed", given)
    assert made["vector_type"] == "dense"
    np.testing.assert_allclose(
        [row["values"] for row in made["data"]],
        embedder.encode(DOCUMENTS, input_type="document"),
        atol=1e-6,
    )


def test_weaviate(
    server: Running, expected: list[tuple[int, float, float]], embedder: Embedder
) -> None:
    given = {"query": QUERY, "documents": DOCUMENTS, "property": ""}
    reply = server.post("/rerank", given)
    scores = {i: score for i, score, _ in expected}
    assert [(row["document"], row["score"]) for row in reply["scores"]] == [
        (text, close(scores[i])) for i, text in enumerate(DOCUMENTS)
    ]
    single = server.post("/rerank", {"query": QUERY, "property": DOCUMENTS[2]})
    assert single["score"] == close(scores[2])
    one = server.post("/vectors", {"text": QUERY, "config": {"task_type": "query"}})
    assert one["dim"] == one["dims"] == 64
    np.testing.assert_allclose(
        one["vector"], embedder.encode([QUERY], input_type="query")[0], atol=1e-6
    )
    many = server.post("/vectors", {"texts": DOCUMENTS, "config": {"task_type": "passage"}})
    assert len(many["vectors"]) == 6
    assert server.call("/.well-known/ready").status == 204
    assert server.call("/.well-known/live").status == 204
    assert "model" in server.call("/meta").json


def test_embedders_rank_by_cosine(server: Running, folders: Folders) -> None:
    wanted = Reranker(folders["embedder"]).rank(QUERY, DOCUMENTS)
    reply = server.post("/rerank", {"query": QUERY, "texts": DOCUMENTS, "model": "embedder"})
    assert hits(reply, "score") == [(hit.index, close(hit.score)) for hit in wanted]


def tokens_of(server: Running, texts: list[str]) -> list[int]:
    found = server.post("/tokenize", {"inputs": texts, "model": "embedder"})
    return [len(tokens) for tokens in found]


def test_usage_of_cosines_counts_a_query_once(server: Running, folders: Folders) -> None:
    prompted = [f"query: {QUERY}", *(f"passage: {text}" for text in DOCUMENTS)]
    query, *documents = tokens_of(server, prompted)
    body = {"query": QUERY, "documents": DOCUMENTS, "model": "embedder"}
    usage = server.post("/v1/rerank", body)["usage"]
    assert usage["total_tokens"] == query + sum(documents)
    # however many parts a request is cut into
    many = server.post("/v1/rerank", body | {"documents": DOCUMENTS * 100})["usage"]
    assert many["total_tokens"] == query + 100 * sum(documents)
    # pairs with queries of their own count those
    pairs = {"queries": DOCUMENTS[:2], "documents": DOCUMENTS[2:4], "model": "embedder"}
    asked = tokens_of(server, [f"query: {text}" for text in DOCUMENTS[:2]])
    scored = server.post("/score", pairs)["usage"]["total_tokens"]
    assert scored == sum(asked) + sum(documents[2:4])
    # and what the cache has counts as what is computed
    with running({"embedder": folders["embedder"]}, cache_bytes=1_000_000) as other:
        assert other.post("/v1/rerank", body | {"documents": DOCUMENTS[3:]})["usage"]
        for _ in range(2):
            assert other.post("/v1/rerank", body)["usage"] == usage


def test_awkward_texts(server: Running, folders: Folders) -> None:
    texts = list(AWKWARD.values())
    wanted = Reranker(folders["reranker"]).score([(QUERY, text) for text in texts])
    rows = server.post("/rerank", {"query": QUERY, "texts": texts})
    assert len(rows) == len(texts)
    for row in rows:
        assert row["score"] == close(float(wanted[row["index"]]))


def test_thousands_of_documents_in_one_request(server: Running, folders: Folders) -> None:
    texts = [f"{DOCUMENTS[i % 6]} {i}" for i in range(2000)]
    rows = server.post("/rerank", {"query": QUERY, "texts": texts})
    wanted = Reranker(folders["reranker"]).rank(QUERY, texts)
    assert [row["index"] for row in rows] == [hit.index for hit in wanted]


def test_unknown_names(server: Running, folders: Folders) -> None:
    # two models here can rank: a name of neither says nothing
    reply = server.call("/v2/rerank", {"query": QUERY, "documents": ["a"], "model": "classifier"})
    assert reply.status == 400
    assert "cannot rerank" in reply.json["message"]


def test_openapi_names_every_route(server: Running) -> None:
    document = server.call("/openapi.json").json
    assert document == server.call("/api-doc/openapi.json").json
    for path in ("/rerank", "/v1/embeddings", "/v2/rerank", "/score", "/vectors", "/jina/rerank"):
        assert "post" in document["paths"][path]
    assert {"TeiRerankBody", "RerankV2Body"} & set(document["components"]["schemas"])


def test_limits_of_tokens_that_requests_set(server: Running) -> None:
    long = " ".join(DOCUMENTS)
    few = {"query": QUERY, "documents": [long], "max_tokens_per_doc": 5}
    (tokens,) = server.post("/tokenize", {"inputs": long, "add_special_tokens": False})
    head = {"query": QUERY, "documents": [long[: tokens[4]["stop"]]]}
    for path, more in (("/v2/rerank", {}), ("/rerank", {"max_tokens_per_query": 0})):
        cut, whole = server.post(path, few | more), server.post(path, head)
        assert hits(cut["results"], "relevance_score") == hits(whole["results"], "relevance_score")
    assert server.call("/v2/rerank", few | {"max_tokens_per_doc": -5}).status == 400
    everything = few | {"max_tokens_per_doc": -1, "max_tokens_per_query": -1, "top_n": -1}
    assert len(server.post("/vllm/rerank", everything)["results"]) == 1


LONG = " ".join(DOCUMENTS * 20)  # more than a model here reads


def test_every_dialect_can_forbid_to_cut(server: Running) -> None:
    rerank, embed = {"query": QUERY, "documents": [LONG, "a"]}, {"inputs": [LONG]}
    bodies: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        ("/rerank", {"query": QUERY, "texts": [LONG, "a"]}, {"truncate": False}),
        ("/predict", {"inputs": LONG}, {"truncate": False}),
        ("/embed", embed, {"truncate": False}),
        ("/embed_all", embed, {"truncate": False}),
        ("/voyage/rerank", rerank, {"truncation": False}),
        ("/voyage/embeddings", {"input": LONG}, {"truncation": False}),
        ("/jina/rerank", rerank, {"truncation": False}),
        ("/v1/embed", {"texts": [LONG]}, {"truncate": "NONE"}),
        ("/v2/embed", {"texts": [LONG]}, {"truncate": "NONE"}),
        ("/v2/embed", {"texts": ["one two three four"]}, {"truncate": "NONE", "max_tokens": 5}),
        ("/pinecone/rerank", rerank, {"parameters": {"truncate": "NONE"}}),
        ("/polyrank/rank", rerank, {"truncate": False}),
    ]
    for path, body, forbid in bodies:
        assert server.call(path, body).status == 200, path
        reply = server.call(path, body | forbid)
        assert reply.status in (400, 422), path
        assert b"text 0 is longer than the" in reply.body, path
    assert server.call("/jina/v1/embeddings", {"input": "a", "late_chunking": 1}).status == 400


def test_a_server_can_forbid_to_cut(folders: Folders) -> None:
    body = {"query": QUERY, "texts": [LONG]}
    with running({"reranker": folders["reranker"]}, auto_truncate=False) as reads_whole:
        assert len(reads_whole.post("/rerank", body)) == 1
    settings = {"auto_truncate": False, "aggregation": "truncate"}
    with running({"reranker": folders["reranker"]}, **settings) as strict:
        assert "--no-auto-truncate" in strict.call("/rerank", body).json["error"]
        assert len(strict.post("/rerank", body | {"truncate": True})) == 1


def test_cohere_is_told_what_was_cut(server: Running, embedder: Embedder) -> None:
    body = {"query": QUERY, "documents": [LONG, "a", LONG]}
    cut = "texts that were longer than what is read, and were cut: 2"
    for path, more in (
        ("/cohere/v1/rerank", {"max_chunks_per_doc": 1}),
        ("/cohere/v1/rerank", {"max_chunks_per_doc": 2}),
    ):
        assert server.post(path, body | more)["meta"]["warnings"] == [cut]
    for path, more in (
        ("/v1/rerank", {}),
        ("/v2/rerank", {}),
        ("/v2/rerank", {"max_tokens_per_doc": 4096}),
        ("/v2/rerank", {"max_tokens_per_doc": 50}),
        ("/cohere/v1/rerank", {"max_chunks_per_doc": 1000}),
    ):
        assert "warnings" not in server.post(path, body | more)["meta"]
    assert server.call("/cohere/v1/rerank", body | {"max_chunks_per_doc": 0}).status == 400
    short = body | {"documents": ["a", "b"], "max_chunks_per_doc": 10}
    assert len(server.post("/cohere/v1/rerank", short)["results"]) == 2
    made = server.post("/v2/embed", {"texts": [LONG], "max_tokens": 20, "truncate": "START"})
    assert made["meta"]["tokens"] == {"input_tokens": 20}
    assert made["meta"]["warnings"] == ["texts that were longer than what is read, and were cut: 1"]


def test_vllm_cuts_to_the_tokens_asked_for(server: Running, folders: Folders) -> None:
    body = {"query": QUERY, "documents": [LONG]}
    for length, side in ((40, "right"), (40, "left"), (100, "right")):
        reply = server.post(
            "/vllm/rerank", body | {"truncate_prompt_tokens": length, "truncation_side": side}
        )
        assert reply["usage"]["total_tokens"] == length
        if side == "right":
            cut = Reranker(folders["reranker"], max_length=length, passages=None)
            wanted = cut.score([(QUERY, LONG)])
            assert reply["results"][0]["relevance_score"] == close(float(wanted[0]))
    scored = server.post("/score", {"text_1": QUERY, "text_2": LONG, "truncate_prompt_tokens": 30})
    assert scored["usage"]["total_tokens"] == 30
    whole = server.post("/vllm/rerank", body | {"truncate_prompt_tokens": -1})
    assert whole["usage"]["total_tokens"] == 512
    for wrong in (0, 3, -2):
        assert server.call("/vllm/rerank", body | {"truncate_prompt_tokens": wrong}).status == 400


def test_types_are_not_guessed(server: Running) -> None:
    body = {"query": QUERY, "documents": DOCUMENTS}
    for wrong in ({"top_n": "2"}, {"top_n": 1.5}, {"top_n": True}, {"return_documents": 1}):
        reply = server.call("/v2/rerank", body | wrong)
        assert reply.status == 400, wrong
        assert next(iter(wrong)) in reply.json["message"]
