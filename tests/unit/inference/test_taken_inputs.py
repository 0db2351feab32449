"""What people hand in who come from other libraries is taken as they mean it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from polyrank import Embedder, Reranker
from polyrank.errors import InputError

Checkpoint = Callable[[str], Path]


@dataclass
class LangChainDocument:
    page_content: str
    metadata: dict[str, Any]


class LlamaIndexNode:
    def __init__(self, text: str) -> None:
        self._text = text

    @property
    def text(self) -> str:
        return self._text


@pytest.fixture(scope="module")
def reranker(checkpoint: Checkpoint) -> Reranker:
    return Reranker(checkpoint("bge-reranker-base"))


@pytest.fixture(scope="module")
def embedder(checkpoint: Checkpoint) -> Embedder:
    return Embedder(checkpoint("multilingual-e5-small"))


def test_documents_of_other_libraries(reranker: Reranker) -> None:
    documents: list[Any] = [
        "cats",
        {"text": "cats", "content": "not this"},
        {"content": "cats"},
        {"page_content": "cats", "metadata": {}},
        LangChainDocument("cats", {"source": "x"}),
        LlamaIndexNode("cats"),
        SimpleNamespace(content="cats", meta={}),
    ]
    ranked = reranker.rank("pets", documents)
    assert [hit.index for hit in ranked] == list(range(len(documents)))
    assert len({hit.logit for hit in ranked}) == 1
    assert all(hit.document is documents[hit.index] for hit in ranked)
    assert all(hit.passage.text == "cats" for hit in ranked)


@pytest.mark.parametrize("document", [SimpleNamespace(content=None), object(), 5, {"text": None}])
def test_documents_without_a_text(reranker: Reranker, document: Any) -> None:
    with pytest.raises(InputError, match=r"documents\[1\]"):
        reranker.rank("pets", ["cats", document])


def test_one_text_gives_one_vector(embedder: Embedder) -> None:
    whole = embedder.encode(["cats"], input_type="query")
    vector = embedder.encode("cats", input_type="query")
    assert vector.shape == whole[0].shape
    np.testing.assert_array_equal(vector, whole[0])
    assert embedder.encode("cats", output_dtype="binary", dimensions=16).shape == (2,)


def test_one_pair_gives_one_score(reranker: Reranker) -> None:
    pair = ("how long do cats live?", "fifteen years")
    for logits in (False, True):
        score = reranker.score(pair, logits=logits)
        assert type(score) is float
        assert score == reranker.score([pair], logits=logits)[0]
    assert reranker.score(list(pair)) == reranker.score(pair)  # type: ignore[arg-type]
    assert reranker.score([pair, pair]).shape == (2,)


def test_a_passage_is_a_document(embedder: Embedder) -> None:
    expected = embedder.encode(["cats"], input_type="document")
    np.testing.assert_array_equal(embedder.encode(["cats"], input_type="passage"), expected)
    assert (embedder.encode(["cats"]) != expected).any()


def test_an_empty_query_still_gets_scores(reranker: Reranker) -> None:
    assert len(reranker.rank("", ["cats", "dogs"])) == 2
