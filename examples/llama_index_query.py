"""LlamaIndex: a query engine that finds nodes by vectors and reranks them."""

import json
from pathlib import Path

from llama_index.core import VectorStoreIndex
from llama_index.core.llms import MockLLM
from llama_index.core.schema import TextNode

from polyrank.integrations.llama_index import PolyrankEmbedding, PolyrankRerank

lines = Path(__file__).with_name("cats.jsonl").read_text(encoding="utf8").splitlines()
nodes = [TextNode(text=json.loads(line)["text"]) for line in lines]

index = VectorStoreIndex(nodes, embed_model=PolyrankEmbedding())
engine = index.as_query_engine(
    llm=MockLLM(),  # yours here
    similarity_top_k=10,
    node_postprocessors=[PolyrankRerank(top_n=3)],
)
for node in engine.query("How long do cats live?").source_nodes:
    print(f"{node.score:.3f} {node.text}")
