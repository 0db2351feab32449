import asyncio

import numpy as np
import pytest

pytest.importorskip("llama_index.core")
from llama_index.core import VectorStoreIndex
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.llms import MockLLM
from llama_index.core.schema import NodeWithScore, TextNode

from polyrank.integrations.llama_index import PolyrankEmbedding, PolyrankRerank
from tests.integrations import cats

SEEN: list[str] = []


class Listener(BaseEventHandler):
    def handle(self, event: object, **_: object) -> None:
        SEEN.append(type(event).__name__)


def test_embedding() -> None:
    model = PolyrankEmbedding(cats.EMBEDDER)
    assert model.model_name == "polyrank-small"
    vectors = model.get_text_embedding_batch(cats.TEXTS)
    np.testing.assert_array_equal(np.float32(vectors), cats.DOCUMENT_VECTORS)
    assert model.get_text_embedding(cats.TEXTS[0]) == vectors[0]
    np.testing.assert_array_equal(
        np.float32(model.get_query_embedding(cats.QUESTION)), cats.QUERY_VECTOR
    )
    many = cats.TEXTS * 20
    awaited = cats.run_beside_clock(lambda: model.aget_text_embedding_batch(many))
    assert awaited[: len(vectors)] == vectors
    assert asyncio.run(model.aget_text_embedding(cats.TEXTS[0])) == vectors[0]


def test_query_engine() -> None:
    index = VectorStoreIndex(
        [TextNode(text=text) for text in cats.TEXTS], embed_model=PolyrankEmbedding()
    )
    engine = index.as_query_engine(
        llm=MockLLM(),
        similarity_top_k=len(cats.TEXTS),
        node_postprocessors=[PolyrankRerank(cats.RERANKER, top_n=4)],
    )
    SEEN.clear()
    get_dispatcher().add_event_handler(Listener())
    found = engine.query(cats.QUESTION).source_nodes
    assert SEEN.index("ReRankStartEvent") < SEEN.index("ReRankEndEvent")
    assert [node.text for node in found] == cats.BEST[:4]
    assert [node.score for node in found] == [hit.score for hit in cats.HITS[:4]]
    awaited = cats.run_beside_clock(lambda: engine.aquery(cats.QUESTION))
    assert [node.text for node in awaited.source_nodes] == cats.BEST[:4]


def test_postprocessor_alone() -> None:
    rerank = PolyrankRerank(top_n=2)
    nodes = [NodeWithScore(node=TextNode(text=text), score=0.5) for text in cats.TEXTS]
    assert rerank.class_name() == "PolyrankRerank"
    assert rerank.postprocess_nodes([], query_str="a") == []
    assert rerank.postprocess_nodes(nodes) == nodes[:2]
    assert rerank.postprocess_nodes(nodes, query_str=cats.QUESTION)[0].text == cats.BEST[0]
    assert nodes[0].score == 0.5
    assert rerank.to_dict()["top_n"] == 2
