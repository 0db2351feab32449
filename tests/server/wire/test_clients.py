"""Other vendors' own clients against a running server: what they send is read, what they get fits.

Numbers are compared with the server's plainest routes, which tests/server/test_dialects.py
compares with the library.
"""

import asyncio
import json
import urllib.request
from typing import Any

import pytest

QUERY = "How long do cats live?"
DOCUMENTS = [
    "Most cats live between twelve and eighteen years.",
    "Les chats vivent de douze à dix-huit ans.",
    "家猫は何年生きますか。",
    "A dog barks.",
    "كم تعيش القطة المنزلية؟",
]


def post(url: str, path: str, key: str, body: Any) -> Any:
    request = urllib.request.Request(
        url + path,
        json.dumps(body).encode(),
        {"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as reply:
        return json.load(reply)


@pytest.fixture(scope="module")
def ranks(url: str, key: str) -> list[tuple[int, Any]]:
    rows = post(url, "/tei/rerank", key, {"query": QUERY, "texts": DOCUMENTS})
    return [(row["index"], near(row["score"])) for row in rows]


@pytest.fixture(scope="module")
def vectors(url: str, key: str) -> list[Any]:
    return [near(row) for row in post(url, "/tei/embed", key, {"inputs": DOCUMENTS})]


@pytest.fixture(scope="module")
def query_vectors(url: str, key: str) -> list[Any]:
    body = {"inputs": DOCUMENTS, "prompt_name": "query"}
    return [near(row) for row in post(url, "/tei/embed", key, body)]


@pytest.fixture(scope="module")
def document_vectors(url: str, key: str) -> list[Any]:
    body = {"inputs": DOCUMENTS, "prompt_name": "document"}
    return [near(row) for row in post(url, "/tei/embed", key, body)]


def near(value: Any) -> Any:
    return pytest.approx(value, abs=1e-6)


# huggingface_hub


def test_huggingface_hub(url: str, key: str, vectors: list[Any]) -> None:
    from huggingface_hub import InferenceClient

    # the client posts to the very address: the server's root does what its first model is for
    client = InferenceClient(model=f"{url}/embed", token=key)
    assert client.feature_extraction(DOCUMENTS).tolist() == vectors
    one = client.feature_extraction(DOCUMENTS[0], normalize=True, truncate=True)
    assert one.tolist() == [vectors[0]]
    similar = InferenceClient(model=f"{url}/similarity", token=key)
    cosines = similar.sentence_similarity(QUERY, other_sentences=DOCUMENTS)
    assert len(cosines) == len(DOCUMENTS)
    root = InferenceClient(model=url, token=key)
    assert root.sentence_similarity(QUERY, other_sentences=DOCUMENTS) == near(cosines)
    labelling = InferenceClient(model=f"{url}/predict", token=key)
    labels = labelling.text_classification(DOCUMENTS[0])
    assert {row.label for row in labels} == {"irrelevant", "neutral", "relevant"}
    assert sum(row.score for row in labels) == near(1)


def test_huggingface_hub_async(url: str, key: str, vectors: list[Any]) -> None:
    from huggingface_hub import AsyncInferenceClient

    async def ask() -> Any:
        async with AsyncInferenceClient(model=f"{url}/embed", token=key) as client:
            return await asyncio.gather(*(client.feature_extraction(text) for text in DOCUMENTS))

    assert [row.tolist()[0] for row in asyncio.run(ask())] == vectors


# OpenAI


@pytest.mark.parametrize("prefix", ["/v1", "", "/openai/v1", "/tei/v1", "/infinity"])
def test_openai(url: str, key: str, vectors: list[Any], prefix: str) -> None:
    import openai

    with openai.OpenAI(api_key=key, base_url=url + prefix) as client:
        for kind in ({}, {"encoding_format": "float"}):
            made = client.embeddings.create(model="text-embedding-3-small", input=DOCUMENTS, **kind)
            assert [row.embedding for row in made.data] == vectors
            assert made.usage.total_tokens > 0
        if prefix in ("/v1", "/openai/v1"):
            assert {each.id for each in client.models.list()} == {
                "reranker",
                "embedder",
                "classifier",
            }


def test_openai_errors(url: str, key: str) -> None:
    import openai

    with (
        openai.OpenAI(api_key="a-wrong-key", base_url=f"{url}/v1", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError),
    ):
        client.embeddings.create(model="m", input="a")
    with openai.OpenAI(api_key=key, base_url=f"{url}/v1", max_retries=0) as client:
        with pytest.raises(openai.BadRequestError, match="dimensions"):
            client.embeddings.create(model="m", input="a", dimensions=4096)
        with pytest.raises(openai.BadRequestError):
            client.embeddings.create(model="m", input=[])
        with pytest.raises(openai.BadRequestError, match="cannot embed"):
            client.embeddings.create(model="reranker", input="a")


def test_openai_async(url: str, key: str, vectors: list[Any]) -> None:
    import openai

    async def ask() -> list[list[float]]:
        async with openai.AsyncOpenAI(api_key=key, base_url=f"{url}/v1") as client:
            made = await asyncio.gather(
                *(client.embeddings.create(model="m", input=text) for text in DOCUMENTS)
            )
            return [each.data[0].embedding for each in made]

    assert asyncio.run(ask()) == vectors


# Cohere


@pytest.mark.parametrize("prefix", ["", "/cohere"])
def test_cohere(
    url: str,
    key: str,
    ranks: list[tuple[int, Any]],
    document_vectors: list[Any],
    query_vectors: list[Any],
    prefix: str,
) -> None:
    import cohere

    first = cohere.Client(api_key=key, base_url=url + prefix)
    found = first.rerank(query=QUERY, documents=DOCUMENTS, model="rerank-v3.5", top_n=3)
    assert [(hit.index, hit.relevance_score) for hit in found.results] == ranks[:3]
    found = first.rerank(query=QUERY, documents=DOCUMENTS, return_documents=True)
    assert [hit.document.text for hit in found.results] == [DOCUMENTS[i] for i, _ in ranks]
    objects = [{"title": "t", "text": text} for text in DOCUMENTS]
    found = first.rerank(query=QUERY, documents=objects, rank_fields=["text"])
    assert [(hit.index, hit.relevance_score) for hit in found.results] == ranks
    made = first.embed(texts=DOCUMENTS, model="embed-v4.0", input_type="search_document")
    assert made.embeddings == document_vectors

    second = cohere.ClientV2(api_key=key, base_url=url + prefix)
    found = second.rerank(query=QUERY, documents=DOCUMENTS, model="rerank-v3.5", top_n=2)
    assert [(hit.index, hit.relevance_score) for hit in found.results] == ranks[:2]
    made = second.embed(
        texts=DOCUMENTS,
        model="embed-v4.0",
        input_type="search_query",
        embedding_types=["float", "int8", "ubinary"],
    )
    assert made.embeddings.float_ == query_vectors
    assert len(made.embeddings.int8) == len(DOCUMENTS)


@pytest.mark.parametrize("prefix", ["", "/cohere"])
def test_cohere_classify_and_tokenize(url: str, key: str, prefix: str) -> None:
    import cohere

    client = cohere.Client(api_key=key, base_url=url + prefix)
    found = client.classify(inputs=DOCUMENTS, model="classifier").classifications
    assert [row.input for row in found] == DOCUMENTS
    for row in found:
        assert set(row.labels) == {"irrelevant", "neutral", "relevant"}
        assert row.confidence == near(max(each.confidence for each in row.labels.values()))
        assert row.labels[row.prediction].confidence == row.confidence
    examples = [cohere.ClassifyExample(text=text, label="pets") for text in DOCUMENTS]
    with pytest.raises(cohere.BadRequestError) as caught:
        client.classify(inputs=DOCUMENTS, examples=examples)
    assert "learns nothing from requests" in caught.value.body["message"]
    # the client first looks for a tokenizer to download, and asks the server where there is none
    for how in ({}, {"offline": False}):
        made = client.tokenize(text=DOCUMENTS[0], model="reranker", **how)
        assert len(made.tokens) == len(made.token_strings) > 5
        back = client.detokenize(tokens=made.tokens, model="reranker", **how)
        assert back.text == DOCUMENTS[0]


def test_cohere_errors(url: str, key: str) -> None:
    import cohere

    with pytest.raises(cohere.UnauthorizedError):
        cohere.ClientV2(api_key="a-wrong-key", base_url=url).rerank(
            query="q", documents=["a"], model="m"
        )
    with pytest.raises(cohere.BadRequestError) as caught:
        cohere.ClientV2(api_key=key, base_url=url).rerank(query="q", documents=[], model="m")
    assert "no text" in caught.value.body["message"]


# Voyage


@pytest.mark.parametrize("prefix", ["/v1", "/voyage/v1", "/voyage"])
def test_voyage(
    url: str,
    key: str,
    ranks: list[tuple[int, Any]],
    query_vectors: list[Any],
    document_vectors: list[Any],
    prefix: str,
) -> None:
    import voyageai

    client = voyageai.Client(api_key=key, base_url=url + prefix)
    found = client.rerank(QUERY, DOCUMENTS, model="rerank-2.5", top_k=3)
    assert [(hit.index, hit.relevance_score) for hit in found.results] == ranks[:3]
    assert found.total_tokens > 0
    assert client.rerank(QUERY, DOCUMENTS, model="rerank-2.5").results[0].document in DOCUMENTS
    made = client.embed(DOCUMENTS, model="voyage-3.5", input_type="query")
    assert made.embeddings == query_vectors
    made = client.embed(DOCUMENTS, model="voyage-3.5", input_type="document")
    assert made.embeddings == document_vectors
    small = client.embed(
        DOCUMENTS, model="voyage-3.5", output_dtype="int8", output_dimension=16
    ).embeddings
    assert [len(row) for row in small] == [16] * 5
    assert all(isinstance(value, int) for row in small for value in row)


# Pinecone


@pytest.mark.parametrize("prefix", ["", "/pinecone"])
def test_pinecone(
    url: str, key: str, ranks: list[tuple[int, Any]], document_vectors: list[Any], prefix: str
) -> None:
    from pinecone import Pinecone

    client = Pinecone(api_key=key, host=url + prefix)
    found = client.inference.rerank(
        model="bge-reranker-v2-m3", query=QUERY, documents=DOCUMENTS, top_n=3
    )
    assert [(hit.index, hit.score) for hit in found.data] == ranks[:3]
    made = client.inference.embed(
        model="multilingual-e5-large",
        inputs=DOCUMENTS,
        parameters={"input_type": "passage", "truncate": "END"},
    )
    assert [list(row.values) for row in made.data] == document_vectors


# litellm


LITELLM = {
    "huggingface": "huggingface/reranker",
    "cohere": "cohere/rerank-v3.5",
    "jina": "jina_ai/jina-reranker-v2",
    "voyage": "voyage/rerank-2.5",
    "infinity": "infinity/reranker",
    "vllm": "hosted_vllm/reranker",
}


@pytest.mark.parametrize("provider", LITELLM)
@pytest.mark.parametrize("is_prefixed", [False, True])
def test_litellm_rerank(
    url: str, key: str, ranks: list[tuple[int, Any]], provider: str, is_prefixed: bool
) -> None:
    import litellm

    prefixes = {"huggingface": "/tei"}
    base = url + (prefixes.get(provider, f"/{provider}") if is_prefixed else "")
    if provider == "jina" and is_prefixed:
        pytest.skip("litellm's Jina client replaces the whole path by /v1/rerank")
    found = litellm.rerank(
        model=LITELLM[provider],
        query=QUERY,
        documents=DOCUMENTS,
        top_n=3,
        api_base=base,
        api_key=key,
        return_documents=is_prefixed,
    )
    assert [(hit["index"], hit["relevance_score"]) for hit in found.results][:3] == ranks[:3]


def test_litellm_embedding(url: str, key: str, vectors: list[Any]) -> None:
    import litellm

    made = litellm.embedding(
        model="openai/embedder", input=DOCUMENTS, api_base=f"{url}/v1", api_key=key
    )
    assert [row["embedding"] for row in made.data] == vectors


# LlamaIndex


def test_llama_index_rerank(url: str, key: str, ranks: list[tuple[int, Any]]) -> None:
    from llama_index.core.schema import NodeWithScore, TextNode
    from llama_index.postprocessor.tei_rerank import TextEmbeddingInference

    # this client sends the token without "Bearer"
    reranker = TextEmbeddingInference(base_url=url, top_n=5, auth_token=key)
    nodes = [NodeWithScore(node=TextNode(text=text), score=0.0) for text in DOCUMENTS]
    found = reranker.postprocess_nodes(nodes, query_str=QUERY)
    assert [(DOCUMENTS.index(node.text), node.score) for node in found] == ranks


def test_llama_index_embedding(url: str, key: str, vectors: list[Any]) -> None:
    from llama_index.embeddings.text_embeddings_inference import TextEmbeddingsInference

    client = TextEmbeddingsInference(
        model_name="embedder",
        base_url=url,
        auth_token=key,
        text_instruction="",
        query_instruction="",
    )
    assert client.get_text_embedding_batch(DOCUMENTS) == vectors


# LangChain


def test_langchain_openai(url: str, key: str, vectors: list[Any]) -> None:
    from langchain_openai import OpenAIEmbeddings

    client = OpenAIEmbeddings(
        model="embedder", base_url=f"{url}/v1", api_key=key, check_embedding_ctx_length=False
    )
    assert client.embed_documents(DOCUMENTS) == vectors
    assert client.embed_query(DOCUMENTS[0]) == vectors[0]


# Haystack


def test_haystack_ranker(url: str, key: str, ranks: list[tuple[int, Any]]) -> None:
    from haystack import Document
    from haystack.utils import Secret
    from haystack_integrations.components.rankers.huggingface_api import HuggingFaceTEIRanker

    ranker = HuggingFaceTEIRanker(url=url, top_k=3, token=Secret.from_token(key))
    documents = [Document(content=text) for text in DOCUMENTS]
    found = ranker.run(query=QUERY, documents=documents)["documents"]
    assert [(DOCUMENTS.index(each.content), each.score) for each in found] == ranks[:3]


def test_haystack_embedders(url: str, key: str, vectors: list[Any]) -> None:
    from haystack import Document
    from haystack.utils import Secret
    from haystack_integrations.components.embedders.huggingface_api import (
        HuggingFaceAPIDocumentEmbedder,
        HuggingFaceAPITextEmbedder,
    )

    settings = {
        "api_type": "text_embeddings_inference",
        "api_params": {"url": f"{url}/embed"},
        "token": Secret.from_token(key),
    }
    embedder = HuggingFaceAPIDocumentEmbedder(**settings, progress_bar=False)
    made = embedder.run(documents=[Document(content=text) for text in DOCUMENTS])["documents"]
    assert [each.embedding for each in made] == vectors
    alone = HuggingFaceAPITextEmbedder(**settings).run(text=DOCUMENTS[0])
    assert alone["embedding"] == vectors[0]


# infinity


@pytest.mark.parametrize("prefix", ["", "/infinity"])
def test_infinity_client(
    url: str, key: str, ranks: list[tuple[int, Any]], vectors: list[Any], prefix: str
) -> None:
    from infinity_client import AuthenticatedClient
    from infinity_client.api.default import classify, embeddings, models, rerank
    from infinity_client.models import (
        ClassifyInput,
        OpenAIEmbeddingInputText,
        RerankInput,
    )

    with AuthenticatedClient(base_url=url + prefix, token=key) as client:
        body = RerankInput(query=QUERY, documents=DOCUMENTS, return_documents=True, top_n=3)
        found = rerank.sync(client=client, body=body)
        assert [(hit.index, hit.relevance_score) for hit in found.results] == ranks[:3]
        assert found.results[0].document == DOCUMENTS[ranks[0][0]]
        made = embeddings.sync(client=client, body=OpenAIEmbeddingInputText(input_=DOCUMENTS))
        assert [row.embedding for row in made.data] == vectors
        labels = classify.sync(client=client, body=ClassifyInput(input_=DOCUMENTS))
        assert [len(row) for row in labels.data] == [3] * 5
        listed = models.sync(client=client)
        assert [model.id for model in listed.data] == ["reranker", "embedder", "classifier"]


# rerankers


RERANKERS = {
    "text-embeddings-inference": "/rerank",
    "cohere": "/v1/rerank",
    "jina": "/v1/rerank",
    "voyage": "/v1/rerank",
    "pinecone": "/rerank",
}


@pytest.mark.parametrize("provider", RERANKERS)
def test_rerankers(url: str, key: str, ranks: list[tuple[int, Any]], provider: str) -> None:
    from rerankers.models.api_rankers import APIRanker

    ranker = APIRanker("reranker", key, provider, verbose=0, url=url + RERANKERS[provider])
    found = ranker.rank(QUERY, DOCUMENTS)
    assert [(DOCUMENTS.index(hit.text), hit.score) for hit in found.results] == ranks
