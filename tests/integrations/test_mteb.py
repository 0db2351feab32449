import sys

import pytest

mteb = pytest.importorskip("mteb")
from mteb.models.models_protocols import CrossEncoderProtocol, EncoderProtocol

from polyrank.integrations.mteb import PolyrankCrossEncoder, PolyrankEncoder
from tests.integrations import cats

sys.path.insert(0, str(cats.EXAMPLES))
from local_task import LocalRetrieval

TEXTS = {str(i): text for i, text in enumerate(cats.TEXTS)}
GRADES = {str(i): 1 for i in range(12)}


@pytest.mark.parametrize("name", ["vectors", "reranker"])
def test_retrieval(name: str) -> None:
    """The measure of MTEB is the one that the rankings of the library have."""
    if name == "vectors":
        model = PolyrankEncoder()
        assert isinstance(model, EncoderProtocol)
        order = (-cats.DOCUMENT_VECTORS @ cats.QUERY_VECTOR).argsort(kind="stable").tolist()
    else:
        model = PolyrankCrossEncoder()
        assert isinstance(model, CrossEncoderProtocol)
        order = [hit.index for hit in cats.HITS]
    task = LocalRetrieval(TEXTS, {"q": cats.QUESTION}, {"q": GRADES})
    result = mteb.evaluate(model, task, cache=None, show_progress_bar=False)
    expected = _ndcg([GRADES.get(str(i), 0) for i in order])
    assert result.task_results[0].get_score() == pytest.approx(expected, abs=1e-5)
    assert result.model_name == "polyrank/polyrank-small"


def _ndcg(grades: list[int]) -> float:
    from math import log2

    def gain(values: list[int]) -> float:
        return sum(grade / log2(place + 2) for place, grade in enumerate(values[:10]))

    return gain(grades) / gain(sorted(grades, reverse=True))


def test_similarities() -> None:
    model, vectors = PolyrankEncoder(cats.EMBEDDER), cats.DOCUMENT_VECTORS
    square = model.similarity(vectors, vectors)
    assert model.similarity_pairwise(vectors, vectors) == pytest.approx(square.diagonal(), abs=1e-6)
