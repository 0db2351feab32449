import numpy as np
import pytest

pytest.importorskip("haystack")
import haystack
from haystack import Document, Pipeline

from polyrank.errors import ConfigError
from polyrank.integrations.haystack import (
    PolyrankDocumentEmbedder,
    PolyrankRanker,
    PolyrankTextEmbedder,
)
from tests.integrations import cats

DOCUMENTS = [Document(content=text, meta={"place": i}) for i, text in enumerate(cats.TEXTS)]


def test_embedders() -> None:
    found = PolyrankDocumentEmbedder().run(DOCUMENTS)["documents"]
    vectors = np.float32([document.embedding for document in found])
    np.testing.assert_array_equal(vectors, cats.DOCUMENT_VECTORS)
    assert DOCUMENTS[0].embedding is None
    vector = PolyrankTextEmbedder().run(cats.QUESTION)["embedding"]
    np.testing.assert_array_equal(np.float32(vector), cats.QUERY_VECTOR)
    many = DOCUMENTS * 20
    awaited = cats.run_beside_clock(lambda: PolyrankDocumentEmbedder().run_async(many))
    assert [document.embedding for document in awaited["documents"][: len(found)]] == [
        document.embedding for document in found
    ]


@pytest.mark.parametrize("top_k", [None, 2])
def test_pipeline_from_yaml(top_k: int | None) -> None:
    made = Pipeline()
    made.add_component("embedder", PolyrankTextEmbedder())
    made.add_component("documents", PolyrankDocumentEmbedder())
    made.add_component("ranker", PolyrankRanker(top_k=4))
    made.connect("documents.documents", "ranker.documents")
    pipeline = Pipeline.loads(made.dumps())
    ranker = pipeline.get_component("ranker")
    assert (ranker.model, ranker.top_k) == (None, 4)
    asked = {"query": cats.QUESTION} | ({} if top_k is None else {"top_k": top_k})
    data = {
        "embedder": {"text": cats.QUESTION},
        "documents": {"documents": DOCUMENTS},
        "ranker": asked,
    }
    found = pipeline.run(data)
    best = found["ranker"]["documents"]
    assert [document.content for document in best] == cats.BEST[: top_k or 4]
    assert [document.score for document in best] == [h.score for h in cats.HITS[: top_k or 4]]
    if int(haystack.version.__version__.split(".")[0]) >= 3:
        awaitable = pipeline.run_async
    else:
        awaitable = haystack.AsyncPipeline.loads(made.dumps()).run_async
    assert cats.run_beside_clock(lambda: awaitable(data)) == found


def test_top_k_is_checked() -> None:
    with pytest.raises(ConfigError, match="1 or more"):
        PolyrankRanker(top_k=0)
