import pytest

dspy = pytest.importorskip("dspy")
from polyrank.integrations.dspy import PolyrankReranker, PolyrankRetriever
from tests.integrations import cats


def test_reranker() -> None:
    rerank = PolyrankReranker(cats.RERANKER, k=4)
    found = rerank(query=cats.QUESTION, passages=cats.TEXTS)
    assert found.passages == cats.BEST[:4]
    assert found.indices == [hit.index for hit in cats.HITS[:4]]
    assert found.scores == [hit.score for hit in cats.HITS[:4]]
    many = cats.TEXTS * 20
    awaited = cats.run_beside_clock(lambda: rerank.acall(query=cats.QUESTION, passages=many, k=2))
    assert awaited.passages == [cats.BEST[0]] * 2


def test_retriever() -> None:
    order = (-cats.DOCUMENT_VECTORS @ cats.QUERY_VECTOR).argsort(kind="stable").tolist()
    found = PolyrankRetriever(cats.TEXTS, cats.EMBEDDER, k=5)(query=cats.QUESTION)
    assert found.indices == order[:5]
    both = PolyrankRetriever(cats.TEXTS, k=3, reranker=PolyrankReranker())
    found = both(query=cats.QUESTION)
    assert found.passages == cats.BEST[:3]
    assert [cats.TEXTS[i] for i in found.indices] == found.passages
    assert cats.run_beside_clock(lambda: both.acall(query=cats.QUESTION)).indices == found.indices


def test_in_a_program() -> None:
    class Program(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.search = PolyrankRetriever(cats.TEXTS, k=2, reranker=PolyrankReranker())

        def forward(self, question: str) -> dspy.Prediction:
            return dspy.Prediction(context=self.search(query=question).passages)

    assert Program()(question=cats.QUESTION).context == cats.BEST[:2]
