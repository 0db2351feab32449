"""A score depends on its query, its document and the model: on nothing else."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polyrank import Classifier, Embedder, Reranker
from tests import tolerances
from tests.texts import ALL, SENTENCES

Checkpoint = Callable[[str], Path]
TEXTS = [text for text in ALL if len(text) < 2000]
any_texts = st.lists(st.sampled_from(TEXTS) | st.text(max_size=60), min_size=1, max_size=12)
model_settings = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module", params=["native", "onnx", "pytorch"])
def encoder(request: pytest.FixtureRequest) -> str:
    return request.param


@model_settings
@given(documents=any_texts, seed=st.integers(0, 9), budget=st.sampled_from([1, 64, 700, 9000]))
def test_order_mates_and_budget_change_no_score(
    documents: list[str], seed: int, budget: int, encoder: str, checkpoint: Checkpoint
) -> None:
    query = SENTENCES["en"]
    folder = checkpoint("bge-reranker-base")
    reference = Reranker(folder, encoder=encoder)
    alone = np.array([reference.score([(query, document)])[0] for document in documents])
    order = np.random.default_rng(seed).permutation(len(documents))
    other = Reranker(folder, encoder=encoder, max_batch_tokens=budget)
    together = other.score([(query, documents[i]) for i in order])
    np.testing.assert_allclose(together, alone[order], atol=tolerances.BATCH_MATES, rtol=0)


@model_settings
@given(texts=any_texts, seed=st.integers(0, 9))
def test_vectors_do_not_depend_on_the_others(
    texts: list[str], seed: int, encoder: str, checkpoint: Checkpoint
) -> None:
    embedder = Embedder(checkpoint("multilingual-e5-small"), encoder=encoder)
    alone = np.stack([embedder.encode([text])[0] for text in texts])
    order = np.random.default_rng(seed).permutation(len(texts))
    together = embedder.encode([texts[i] for i in order])
    np.testing.assert_allclose(together, alone[order], atol=tolerances.BATCH_MATES, rtol=0)


@pytest.mark.parametrize("output_dtype", ["int8", "uint8", "binary", "ubinary"])
def test_small_precisions_do_not_depend_on_the_others(
    output_dtype: str, checkpoint: Checkpoint
) -> None:
    embedder = Embedder(checkpoint("multilingual-e5-small"), encoder="onnx", max_batch_tokens=1)
    texts = list(SENTENCES.values())
    together = embedder.encode(texts, output_dtype=output_dtype)
    alone = np.concatenate([embedder.encode([text], output_dtype=output_dtype) for text in texts])
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize("name", ["native", "onnx", "pytorch"])
def test_thread_count_changes_nothing(name: str, checkpoint: Checkpoint) -> None:
    folder = checkpoint("bge-reranker-base")
    pairs = [(SENTENCES["de"], text) for text in TEXTS]
    one = Reranker(folder, encoder=name, num_threads=1).score(pairs)
    two = Reranker(folder, encoder=name, num_threads=2).score(pairs)
    np.testing.assert_allclose(one, two, atol=tolerances.BATCH_MATES, rtol=0)


def test_calls_from_many_threads(checkpoint: Checkpoint) -> None:
    reranker = Reranker(checkpoint("bge-reranker-base"))
    texts = [text for text in TEXTS if text]
    expected = [[hit.index for hit in reranker.rank(query, texts)] for query in texts[:8]]
    with ThreadPoolExecutor(8) as pool:
        found = list(
            pool.map(lambda query: [hit.index for hit in reranker.rank(query, texts)], texts[:8])
        )
    assert found == expected


def test_rank_and_score_agree(checkpoint: Checkpoint) -> None:
    reranker = Reranker(checkpoint("bge-reranker-v2-m3"), max_length=512)
    documents = list(SENTENCES.values())
    ranked = reranker.rank(SENTENCES["fr"], documents)
    scores = reranker.score([(SENTENCES["fr"], document) for document in documents])
    assert sorted(hit.index for hit in ranked) == list(range(len(documents)))
    for hit in ranked:
        assert hit.document == documents[hit.index]
        assert abs(hit.score - scores[hit.index]) <= tolerances.BATCH_MATES
    assert [hit.logit for hit in ranked] == sorted((hit.logit for hit in ranked), reverse=True)


def test_classes_do_not_depend_on_the_others(checkpoint: Checkpoint) -> None:
    classifier = Classifier(checkpoint("three-way-classifier"))
    pairs = [(SENTENCES["en"], text) for text in TEXTS]
    together = classifier.classify(pairs)
    for pair, result in zip(pairs, together, strict=True):
        alone = classifier.classify([pair])[0]
        assert alone.label == result.label
        for label, value in alone.probabilities.items():
            assert abs(value - result.probabilities[label]) <= tolerances.BATCH_MATES
