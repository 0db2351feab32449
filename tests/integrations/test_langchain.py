import numpy as np
import pytest

pytest.importorskip("langchain_core")
from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_classic.retrievers.document_compressors import CrossEncoderReranker
from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore

from polyrank.integrations.langchain import (
    PolyrankCrossEncoder,
    PolyrankEmbeddings,
    PolyrankRerank,
)
from tests.integrations import cats

MANY = cats.TEXTS * 20


def test_embeddings() -> None:
    embeddings = PolyrankEmbeddings(cats.EMBEDDER)
    documents = embeddings.embed_documents(cats.TEXTS)
    assert type(documents[0][0]) is float
    np.testing.assert_array_equal(np.float32(documents), cats.DOCUMENT_VECTORS)
    np.testing.assert_array_equal(
        np.float32(embeddings.embed_query(cats.QUESTION)), cats.QUERY_VECTOR
    )
    awaited = cats.run_beside_clock(lambda: embeddings.aembed_documents(MANY))
    assert awaited[: len(documents)] == documents


@pytest.mark.parametrize("is_own", [True, False])
def test_compression_retriever(is_own: bool) -> None:
    store = InMemoryVectorStore.from_texts(
        cats.TEXTS, PolyrankEmbeddings(), metadatas=[{"place": i} for i in range(len(cats.TEXTS))]
    )
    compressor = (
        PolyrankRerank(model=cats.RERANKER, top_n=4)
        if is_own
        else CrossEncoderReranker(model=PolyrankCrossEncoder(), top_n=4)
    )
    retriever = ContextualCompressionRetriever(
        base_compressor=compressor,
        base_retriever=store.as_retriever(search_kwargs={"k": len(cats.TEXTS)}),
    )
    found = retriever.invoke(cats.QUESTION)
    assert [document.page_content for document in found] == cats.BEST[:4]
    assert [document.metadata["place"] for document in found] == [h.index for h in cats.HITS[:4]]
    if is_own:
        scores = [document.metadata["relevance_score"] for document in found]
        assert scores == [hit.score for hit in cats.HITS[:4]]
    awaited = cats.run_beside_clock(lambda: retriever.ainvoke(cats.QUESTION))
    assert awaited == found


def test_documents_are_copied_and_all_kept_if_asked() -> None:
    documents = [Document(text, metadata={"a": 1}) for text in MANY]
    rerank = PolyrankRerank(top_n=None)
    found = cats.run_beside_clock(lambda: rerank.acompress_documents(documents, cats.QUESTION))
    assert len(found) == len(MANY)
    assert all(document.metadata == {"a": 1} for document in documents)
    assert rerank.compress_documents([], cats.QUESTION) == []
