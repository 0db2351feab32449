"""Every named checkpoint gives what transformers or sentence-transformers gives."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from polyrank import Classifier, Embedder, Reranker
from tests import tolerances
from tests.checkpoints import CLASSIFIERS, EMBEDDERS, RERANKERS
from tests.texts import ALL, AWKWARD, SENTENCES

ENCODERS = ("native", "onnx", "pytorch")
QUERIES = (SENTENCES["en"], SENTENCES["ar"], SENTENCES["th"], AWKWARD["empty"], AWKWARD["long"])
PAIRS = [(query, text) for query in QUERIES for text in ALL]

Checkpoint = Callable[[str], Path]


@cache
def reference_logits(folder: Path) -> np.ndarray:
    """Logits of all pairs, one pair at a time, without padding."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    limit = min(tokenizer.model_max_length, 1024)
    rows = []
    with torch.inference_mode():
        for query, text in PAIRS:
            # lists, as CrossEncoder passes them: a bare empty text counts as no second text
            inputs = tokenizer(
                [query], [text], truncation="longest_first", max_length=limit, return_tensors="pt"
            )
            rows.append(model(**inputs).logits[0].numpy())
    return np.stack(rows)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("name", RERANKERS)
def test_reranker_logits(name: str, encoder: str, checkpoint: Checkpoint) -> None:
    folder = checkpoint(name)
    reranker = Reranker(folder, encoder=encoder, max_length=min(1024, _limit(name)), passages=None)
    expected = reference_logits(folder)[:, 0]
    logits = reranker.score(PAIRS, logits=True)
    assert logits.dtype == np.float32
    assert expected.std() > 0.01  # a constant would agree with anything
    np.testing.assert_allclose(logits, expected, atol=tolerances.LOGIT, rtol=0)


def _limit(name: str) -> int:
    return 8192 if name == "bge-reranker-v2-m3" else 512


@pytest.mark.parametrize("name", RERANKERS)
def test_reranker_scores_equal_cross_encoder(name: str, checkpoint: Checkpoint) -> None:
    folder = checkpoint(name)
    pairs = [pair for pair in PAIRS if len(pair[0]) + len(pair[1]) < 2000]
    expected = CrossEncoder(str(folder), device="cpu").predict(pairs, show_progress_bar=False)
    scores = Reranker(folder, passages=None).score(pairs)
    assert scores.min() >= 0
    assert scores.max() <= 1
    np.testing.assert_allclose(scores, expected, atol=tolerances.PROBABILITY, rtol=0)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifier(name: str, encoder: str, checkpoint: Checkpoint) -> None:
    folder = checkpoint(name)
    classifier = Classifier(folder, encoder=encoder)
    logits = torch.from_numpy(reference_logits(folder))
    is_multi = name == "multi-label-classifier"
    expected = (logits.sigmoid() if is_multi else logits.softmax(-1)).numpy()
    results = classifier.classify(PAIRS)
    found = np.array([list(result.probabilities.values()) for result in results])
    np.testing.assert_allclose(found, expected, atol=tolerances.PROBABILITY, rtol=0)
    assert [result.label for result in results] == [
        classifier.labels[i] for i in found.argmax(axis=1)
    ]


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("name", EMBEDDERS)
def test_embedder(name: str, encoder: str, checkpoint: Checkpoint) -> None:
    folder = checkpoint(name)
    expected = SentenceTransformer(str(folder), device="cpu").encode(ALL, batch_size=1)
    vectors = Embedder(folder, encoder=encoder, long_texts="truncate").encode(ALL)
    assert vectors.dtype == np.float32
    unit, expected_unit = _unit(vectors), _unit(expected)
    np.testing.assert_allclose(unit, expected_unit, atol=tolerances.EMBEDDING, rtol=0)
    assert (unit * expected_unit).sum(axis=1).min() >= tolerances.COSINE
    # unnormalised vectors must agree in length too
    np.testing.assert_allclose(vectors, expected, rtol=1e-4, atol=1e-5)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_prompts_by_input_type(checkpoint: Checkpoint) -> None:
    folder = checkpoint("multilingual-e5-small")
    reference = SentenceTransformer(str(folder), device="cpu")
    embedder = Embedder(folder, long_texts="truncate")
    texts = list(SENTENCES.values())
    for input_type, expected in (
        ("query", reference.encode_query(texts)),
        ("document", reference.encode_document(texts)),
    ):
        np.testing.assert_allclose(
            embedder.encode(texts, input_type=input_type), expected, atol=tolerances.EMBEDDING
        )
    by_name = embedder.encode(texts, prompt_name="query")
    np.testing.assert_array_equal(by_name, embedder.encode(texts, prompt="query: "))


@pytest.mark.parametrize("output_dtype", ["int8", "uint8", "binary", "ubinary"])
def test_precisions_as_sentence_transformers_makes_them(
    output_dtype: str, checkpoint: Checkpoint
) -> None:
    from sentence_transformers.util.quantization import quantize_embeddings

    embedder = Embedder(checkpoint("multilingual-e5-large"), long_texts="truncate")
    texts = list(SENTENCES.values())
    vectors = embedder.encode(texts)
    ranges = np.stack([vectors.min(axis=0), vectors.max(axis=0)])
    needs_ranges = output_dtype.endswith("int8")
    expected = quantize_embeddings(vectors, output_dtype, ranges if needs_ranges else None)
    found = embedder.encode(
        texts, output_dtype=output_dtype, ranges=ranges if needs_ranges else None
    )
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


def test_pairs_of_different_texts_differ(checkpoint: Checkpoint) -> None:
    logits = Reranker(checkpoint("bge-reranker-base")).score(
        [(SENTENCES["en"], text) for text in SENTENCES.values()], logits=True
    )
    assert len(np.unique(logits)) == len(SENTENCES)
