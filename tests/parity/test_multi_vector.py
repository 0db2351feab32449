"""Folders of late interaction score as sentence-transformers scores them."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import MultiVectorEncoder

from polyrank import Reranker
from polyrank.errors import UnsupportedArchitectureError
from tests.checkpoints import MULTI_VECTOR
from tests.texts import AWKWARD, SENTENCES

DATA = Path(__file__).resolve().parents[1] / "data"
Checkpoint = Callable[[str], Path]
QUERIES = [SENTENCES["en"], SENTENCES["ru"], "cats?", AWKWARD["long"]]
TEXTS = [*SENTENCES.values(), *AWKWARD.values(), "…!?", "a, b. (c) – d"]
ENCODERS = ("native", "onnx", "pytorch")
TOLERANCE = 1e-4
"""Of sums over 32 tokens and more, each product within a few 1e-6."""


def expected_scores(folder: Path) -> np.ndarray:
    model = MultiVectorEncoder(str(folder), device="cpu")
    # one at a time: padding of a batch moves the last digits of the reference
    asked = [model.encode_query(query) for query in QUERIES]
    found = [model.encode_document(text) for text in TEXTS]
    return model.similarity(asked, found).numpy()


@pytest.mark.parametrize("name", MULTI_VECTOR)
def test_scores(name: str, checkpoint: Checkpoint) -> None:
    folder = checkpoint(name)
    expected = expected_scores(folder)
    assert expected.std() > 0.1  # a constant would agree with anything
    pairs = [(query, text) for query in QUERIES for text in TEXTS]
    for encoder in ENCODERS:
        reranker = Reranker(folder, encoder=encoder, passages=None)
        scores = reranker.score(pairs).reshape(expected.shape)
        np.testing.assert_allclose(scores, expected, atol=TOLERANCE, rtol=1e-5)
    hits = Reranker(folder, passages=None).rank(QUERIES[0], TEXTS)
    order = np.argsort(-scores[0], kind="stable")
    assert [hit.index for hit in hits[:5]] == order[:5].tolist()


def test_a_score_depends_on_its_pair_alone(checkpoint: Checkpoint) -> None:
    reranker = Reranker(checkpoint("pylate"))
    pairs = [(query, text) for query in QUERIES for text in TEXTS]
    alone = np.concatenate([reranker.score([pair]) for pair in pairs])
    np.testing.assert_array_equal(reranker.score(pairs), alone)
    kept = Reranker(checkpoint("pylate"), row_cache_bytes=1 << 24)
    np.testing.assert_array_equal(kept.score(pairs), alone)
    np.testing.assert_array_equal(kept.score(pairs[::-1]), alone[::-1])


def test_mean_instead_of_sum(checkpoint: Checkpoint, tmp_path: Path) -> None:
    model = MultiVectorEncoder(str(checkpoint("multi-vector")), device="cpu")
    model.similarity_fn_name = "meanmaxsim"
    model.save_pretrained(str(tmp_path / "mean"))
    expected = expected_scores(tmp_path / "mean")
    found = Reranker(tmp_path / "mean", passages=None).score([(QUERIES[0], text) for text in TEXTS])
    np.testing.assert_allclose(found, expected[0], atol=1e-5)


def test_what_is_not_done_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    from sentence_transformers.multi_vector_encoder.modules import HierarchicalTokenPooling

    model = MultiVectorEncoder(str(checkpoint("multi-vector")), device="cpu")
    model.append(HierarchicalTokenPooling(2))
    model.save_pretrained(str(tmp_path / "pooled"))
    with pytest.raises(UnsupportedArchitectureError, match="HierarchicalTokenPooling"):
        Reranker(tmp_path / "pooled")


@pytest.mark.parametrize("name", ["pylate", "stanford"])
def test_scores_of_pylate_itself(name: str, checkpoint: Checkpoint) -> None:
    """What PyLate 1.6.0 gave, by tests/parity/pylate_scores.py.

    Where a vocabulary lacks a sign, PyLate leaves out every token without a piece of its own, as
    sentence-transformers no longer does; texts with such tokens are not among these.
    """
    given = json.loads((DATA / "pylate_scores.json").read_text(encoding="utf8"))
    pairs = [(query, text) for query in given["queries"] for text in given["documents"]]
    found = Reranker(checkpoint(name), passages=None).score(pairs)
    np.testing.assert_allclose(found, np.ravel(given["scores"][name]), atol=TOLERANCE)
