from pathlib import Path

import pytest

chromadb = pytest.importorskip("chromadb")
from polyrank.integrations.chroma import PolyrankEmbeddingFunction
from tests.integrations import cats


def test_collection_keeps_its_function(tmp_path: Path) -> None:
    names = [str(i) for i in range(len(cats.TEXTS))]
    client = chromadb.PersistentClient(str(tmp_path))
    made = client.create_collection("cats", embedding_function=PolyrankEmbeddingFunction())
    made.add(ids=names, documents=cats.TEXTS)
    # opened without naming the function: Chroma makes it from what it has kept
    collection = client.get_collection("cats")
    found = collection.query(query_texts=[cats.QUESTION], n_results=5)
    similarities = cats.DOCUMENT_VECTORS @ cats.QUERY_VECTOR
    order = (-similarities).argsort(kind="stable")[:5]
    assert found["ids"][0] == [str(i) for i in order]
    assert found["distances"][0] == pytest.approx(1 - similarities[order], abs=1e-5)


def test_config() -> None:
    function = PolyrankEmbeddingFunction()
    again = PolyrankEmbeddingFunction.build_from_config(function.get_config())
    assert again.get_config() == {"model": None}
    assert function.name() == "polyrank"
    assert function.default_space() in function.supported_spaces()
    assert not function.is_legacy()
