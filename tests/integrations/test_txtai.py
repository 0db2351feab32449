from pathlib import Path

import pytest

pytest.importorskip("txtai")
from txtai import Embeddings
from txtai.pipeline import Reranker

from polyrank.integrations.txtai import PolyrankSimilarity, transform
from tests.integrations import cats

METHOD = "polyrank.integrations.txtai.PolyrankVectors"


def test_index_search_and_rerank(tmp_path: Path) -> None:
    embeddings = Embeddings({"method": METHOD, "path": "polyrank-small", "content": True})
    embeddings.index(cats.TEXTS)
    found = embeddings.search(cats.QUESTION, 5)
    similarities = cats.DOCUMENT_VECTORS @ cats.QUERY_VECTOR
    order = (-similarities).argsort(kind="stable")[:5]
    assert [row["text"] for row in found] == [cats.TEXTS[i] for i in order]
    assert [row["score"] for row in found] == pytest.approx(similarities[order], abs=1e-6)
    reranked = Reranker(embeddings, PolyrankSimilarity(cats.RERANKER))(cats.QUESTION, limit=3)
    assert [row["text"] for row in reranked] == cats.BEST[:3]
    embeddings.save(str(tmp_path / "index"))
    again = Embeddings()
    again.load(str(tmp_path / "index"))
    assert again.search(cats.QUESTION, 5) == found


def test_external_transform() -> None:
    embeddings = Embeddings({"method": "external", "transform": transform(), "content": True})
    embeddings.index(cats.TEXTS)
    assert embeddings.search(cats.QUESTION, 1)[0]["text"] in cats.BEST[:3]


def test_similarity() -> None:
    similarity = PolyrankSimilarity()
    expected = [(hit.index, hit.score) for hit in cats.HITS]
    assert similarity(cats.QUESTION, cats.TEXTS) == expected
    assert similarity([cats.QUESTION, "dogs"], cats.TEXTS)[0] == expected
