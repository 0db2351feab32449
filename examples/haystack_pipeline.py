"""Haystack: a pipeline from YAML that finds documents by vectors and reranks them."""

import json
from pathlib import Path

from haystack import Document, Pipeline
from haystack.document_stores.in_memory import InMemoryDocumentStore

from polyrank.integrations.haystack import PolyrankDocumentEmbedder

YAML = """
components:
  embedder: {type: polyrank.integrations.haystack.PolyrankTextEmbedder, init_parameters: {}}
  retriever:
    type: haystack.components.retrievers.in_memory.embedding_retriever.InMemoryEmbeddingRetriever
    init_parameters:
      top_k: 10
      document_store:
        type: haystack.document_stores.in_memory.document_store.InMemoryDocumentStore
        init_parameters: {index: cats}
  ranker:
    type: polyrank.integrations.haystack.PolyrankRanker
    init_parameters: {top_k: 3}
connections:
  - {sender: embedder.embedding, receiver: retriever.query_embedding}
  - {sender: retriever.documents, receiver: ranker.documents}
"""
lines = Path(__file__).with_name("cats.jsonl").read_text(encoding="utf8").splitlines()
documents = [Document(content=json.loads(line)["text"]) for line in lines]
store = InMemoryDocumentStore(index="cats")
store.write_documents(PolyrankDocumentEmbedder().run(documents)["documents"])

question = "How long do cats live?"
found = Pipeline.loads(YAML).run({"embedder": {"text": question}, "ranker": {"query": question}})
for document in found["ranker"]["documents"]:
    print(f"{document.score:.3f} {document.content}")
