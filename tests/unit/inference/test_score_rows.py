"""Documents ranked by rows that were kept: the scores of reading them."""

import json
from pathlib import Path

import numpy as np
import pytest

from polyrank import Reranker
from polyrank.errors import CapabilityError, InputError
from tests.checkpoints import MULTI_VECTOR

CATS = Path(__file__).resolve().parents[3] / "examples" / "cats.jsonl"
TEXTS = [json.loads(line)["text"] for line in CATS.read_text(encoding="utf8").splitlines()]
QUERIES = ("How long do cats live?", "猫の寿命はどのくらいですか", "")


@pytest.fixture(scope="module")
def reranker() -> Reranker:
    return Reranker()


def test_gives_the_bits_of_reading(reranker: Reranker) -> None:
    rows = reranker.token_vectors([*TEXTS, ""], input_type="document")
    for query in QUERIES:
        pairs = [(query, text) for text in [*TEXTS, ""]]
        np.testing.assert_array_equal(reranker.score_rows(query, rows), reranker.score(pairs))
        read = reranker.score(pairs, logits=True)
        np.testing.assert_array_equal(reranker.score_rows(query, rows, logits=True), read)
        # whatever else is in the call
        np.testing.assert_array_equal(reranker.score_rows(query, rows[3:4], logits=True), read[3:4])
    assert reranker.score_rows("a", []).shape == (0,)


def test_half_precision_costs_little(reranker: Reranker) -> None:
    rows = reranker.token_vectors(TEXTS, input_type="document")
    halves = [part.astype(np.float16) for part in rows]
    read = reranker.score([(QUERIES[0], text) for text in TEXTS])
    np.testing.assert_allclose(reranker.score_rows(QUERIES[0], halves), read, atol=2e-3)


@pytest.mark.parametrize("name", MULTI_VECTOR)
def test_compares_as_colbert_does(name: str, checkpoint) -> None:
    model = Reranker(checkpoint(name), passages=None)  # their windows hold some texts in part
    rows = model.token_vectors(TEXTS, input_type="document")
    read = model.score([(QUERIES[0], text) for text in TEXTS])
    np.testing.assert_array_equal(model.score_rows(QUERIES[0], rows), read)


@pytest.mark.parametrize("shape", [(0, 384), (3, 12), (384,)])
def test_refuses_other_rows(shape: tuple[int, ...], reranker: Reranker) -> None:
    fits = np.ones((1, 384), np.float32)
    with pytest.raises(InputError, match=r"rows\[1\] has shape"):
        reranker.score_rows("a", [fits, np.zeros(shape, np.float32)])


def test_needs_late_interaction(checkpoint) -> None:
    with pytest.raises(CapabilityError, match="token by token"):
        Reranker(checkpoint("bge-reranker-base")).score_rows("a", [])
