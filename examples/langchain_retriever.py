"""LangChain: find documents by their vectors, keep the best by the reranker."""

import json
from pathlib import Path

from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_core.vectorstores import InMemoryVectorStore

from polyrank.integrations.langchain import PolyrankEmbeddings, PolyrankRerank

lines = Path(__file__).with_name("cats.jsonl").read_text(encoding="utf8").splitlines()
texts = [json.loads(line)["text"] for line in lines]

store = InMemoryVectorStore.from_texts(texts, PolyrankEmbeddings())
retriever = ContextualCompressionRetriever(
    base_compressor=PolyrankRerank(top_n=3),
    base_retriever=store.as_retriever(search_kwargs={"k": 10}),
)
for document in retriever.invoke("How long do cats live?"):
    print(f"{document.metadata['relevance_score']:.3f} {document.page_content}")
