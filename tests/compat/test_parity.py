"""The classes of polyrank.compat give what the classes they stand for give."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import sentence_transformers
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import polyrank
from polyrank.compat import (
    CrossEncoder,
    FlagReranker,
    MultiVectorEncoder,
    Reranker,
    SentenceTransformer,
)
from polyrank.errors import CapabilityError
from tests import tolerances
from tests.checkpoints import CLASSIFIERS, EMBEDDERS, MULTI_VECTOR, RERANKERS
from tests.texts import SENTENCES

TEXTS = list(SENTENCES.values())
PAIRS = [(TEXTS[0], text) for text in TEXTS]
Checkpoint = Callable[[str], Path]


@pytest.mark.parametrize("name", [*RERANKERS, *CLASSIFIERS])
def test_predict(name: str, checkpoint: Checkpoint) -> None:
    folder = str(checkpoint(name))
    theirs, ours = sentence_transformers.CrossEncoder(folder, device="cpu"), CrossEncoder(folder)
    assert ours.num_labels == theirs.num_labels
    for arguments in (
        {},
        {"activation_fn": torch.nn.Identity()},
        {"activation_fn": torch.nn.Sigmoid()},
        {"apply_softmax": True},
        {"convert_to_tensor": True},
        {"convert_to_numpy": False},
        {"batch_size": 3, "show_progress_bar": False},
    ):
        expected = theirs.predict(PAIRS, **arguments)
        found = ours.predict(PAIRS, **arguments)
        assert type(found) is type(expected)
        if isinstance(expected, list):
            found, expected = torch.stack(found), torch.stack(expected)
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, atol=tolerances.LOGIT, rtol=0)
    single = ours.predict(PAIRS[3])
    np.testing.assert_allclose(single, theirs.predict(PAIRS[3]), atol=tolerances.LOGIT)


@pytest.mark.parametrize("name", RERANKERS)
@pytest.mark.parametrize("arguments", [{}, {"top_k": 3, "return_documents": True}])
def test_rank(name: str, arguments: dict[str, object], checkpoint: Checkpoint) -> None:
    folder = str(checkpoint(name))
    expected = sentence_transformers.CrossEncoder(folder, device="cpu").rank(
        TEXTS[0], TEXTS, **arguments
    )
    found = CrossEncoder(folder).rank(TEXTS[0], TEXTS, **arguments)
    assert [hit.keys() for hit in found] == [hit.keys() for hit in expected]
    assert [hit["corpus_id"] for hit in found] == [hit["corpus_id"] for hit in expected]
    scores = [[hit["score"] for hit in hits] for hits in (found, expected)]
    np.testing.assert_allclose(*scores, atol=tolerances.PROBABILITY)


@pytest.mark.parametrize("name", EMBEDDERS)
def test_vectors(name: str, checkpoint: Checkpoint) -> None:
    folder = str(checkpoint(name))
    theirs = sentence_transformers.SentenceTransformer(folder, device="cpu")
    ours = SentenceTransformer(folder)
    assert ours.get_embedding_dimension() == theirs.get_embedding_dimension()
    for call in ("encode", "encode_query", "encode_document"):
        for arguments in (
            {},
            {"normalize_embeddings": True},
            {"truncate_dim": 16, "convert_to_tensor": True},
            {"truncate_dim": 16, "normalize_embeddings": True},
            {"prompt": "query: "},
        ):
            expected = getattr(theirs, call)(TEXTS, **arguments)
            found = getattr(ours, call)(TEXTS, **arguments)
            assert type(found) is type(expected)
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=tolerances.EMBEDDING)
    np.testing.assert_allclose(
        ours.encode(TEXTS[0]), theirs.encode(TEXTS[0]), rtol=1e-4, atol=tolerances.EMBEDDING
    )


@pytest.mark.parametrize("name", ["cosine", "dot", "euclidean", "manhattan"])
def test_similarity(name: str, checkpoint: Checkpoint) -> None:
    folder = str(checkpoint("paraphrase-multilingual-mpnet-base-v2"))
    theirs = sentence_transformers.SentenceTransformer(
        folder, device="cpu", similarity_fn_name=name
    )
    ours = SentenceTransformer(folder, similarity_fn_name=name)
    vectors = theirs.encode(TEXTS)
    expected = theirs.similarity(vectors[:3], vectors)
    np.testing.assert_allclose(ours.similarity(vectors[:3], vectors), expected, rtol=1e-4)
    as_tensors = ours.similarity(torch.from_numpy(vectors[:3]), torch.from_numpy(vectors))
    assert isinstance(as_tensors, torch.Tensor)


def test_saved_similarity_is_kept(checkpoint: Checkpoint, tmp_path: Path) -> None:
    folder = str(checkpoint("paraphrase-multilingual-mpnet-base-v2"))
    model = sentence_transformers.SentenceTransformer(
        folder, device="cpu", similarity_fn_name="dot"
    )
    model.save_pretrained(str(tmp_path / "saved"))
    assert SentenceTransformer(tmp_path / "saved").similarity_fn_name == "dot"


@pytest.mark.parametrize("precision", ["int8", "uint8", "binary", "ubinary"])
def test_small_types(precision: str, checkpoint: Checkpoint) -> None:
    folder = str(checkpoint("multilingual-e5-large"))
    texts = [f"{text} {count}" for text in TEXTS for count in range(5)]  # 100 or a warning
    expected = sentence_transformers.SentenceTransformer(folder, device="cpu").encode(
        texts, precision=precision
    )
    found = SentenceTransformer(folder).encode(texts, precision=precision)
    assert found.dtype == expected.dtype
    # a value on the edge between two steps falls to either side, and so does one next to 0
    if precision.endswith("int8"):
        assert np.abs(found.astype(np.int16) - expected).max() <= 1
    else:
        assert np.mean(found == expected) > 0.999


@pytest.mark.parametrize("name", RERANKERS)
def test_flag_reranker(name: str, checkpoint: Checkpoint) -> None:
    """FlagEmbedding cuts the query to 3/4 of 512 tokens, then the passage alone."""
    folder = checkpoint(name)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    pairs = [*PAIRS, (TEXTS[1], "cats and dogs " * 400), ("cats and dogs " * 400, TEXTS[2])]
    expected = []
    for query, passage in pairs:
        first = tokenizer(query, add_special_tokens=False, max_length=384, truncation=True)
        second = tokenizer(passage, add_special_tokens=False)["input_ids"]
        room = 512 - tokenizer.num_special_tokens_to_add(pair=True) - len(first["input_ids"])
        texts = [query, passage]
        if len(second) > room or len(first["input_ids"]) == 384:
            texts = [tokenizer.decode(ids) for ids in (first["input_ids"], second[:room])]
        with torch.inference_mode():
            inputs = tokenizer([texts[0]], [texts[1]], return_tensors="pt")
            expected.append(float(model(**inputs).logits[0, 0]))
    ours = FlagReranker(folder, use_fp16=True)
    np.testing.assert_allclose(ours.compute_score(pairs), expected, atol=tolerances.LOGIT)
    normalized = ours.compute_score(list(pairs[0]), normalize=True)
    assert normalized == pytest.approx([1 / (1 + np.exp(-expected[0]))], abs=1e-5)


@pytest.mark.parametrize("name", RERANKERS)
def test_rerankers(name: str, checkpoint: Checkpoint) -> None:
    folder = checkpoint(name)
    theirs = sentence_transformers.CrossEncoder(str(folder), device="cpu")
    logits = theirs.predict(PAIRS, activation_fn=torch.nn.Identity())
    results = Reranker(folder, verbose=0).rank(
        TEXTS[0], TEXTS, metadata=[{"place": i} for i in range(len(TEXTS))]
    )
    order = np.argsort(-logits, kind="stable").tolist()
    assert [hit.doc_id for hit in results] == [hit.place for hit in results] == order
    assert [hit.rank for hit in results] == list(range(1, len(TEXTS) + 1))
    found = [results.get_score_by_docid(i) for i in range(len(TEXTS))]
    np.testing.assert_allclose(found, logits, atol=tolerances.LOGIT)
    assert results.top_k(2) == results.results[:2]
    assert results[0].text == TEXTS[order[0]]


@pytest.mark.parametrize("name", MULTI_VECTOR)
def test_token_vectors(name: str, checkpoint: Checkpoint) -> None:
    folder = str(checkpoint(name))
    theirs = sentence_transformers.MultiVectorEncoder(folder, device="cpu")
    ours = MultiVectorEncoder(folder)
    assert ours.similarity_fn_name == theirs.similarity_fn_name
    found = {}
    for call in ("encode_query", "encode_document"):
        found[call] = getattr(ours, call)(TEXTS)
        for text, rows in zip(TEXTS, found[call], strict=True):
            expected = getattr(theirs, call)(text)
            assert type(rows) is type(expected)
            np.testing.assert_allclose(rows, expected, atol=tolerances.EMBEDDING)
    as_array = ours.encode_query(TEXTS[0], convert_to_numpy=True)
    np.testing.assert_array_equal(as_array, found["encode_query"][0])
    scores = ours.similarity(found["encode_query"][:2], found["encode_document"])
    expected = theirs.similarity(found["encode_query"][:2], found["encode_document"])
    np.testing.assert_allclose(scores, expected, atol=1e-4)


def test_token_vectors_of_the_default_model(checkpoint: Checkpoint) -> None:
    model = MultiVectorEncoder()
    asked = model.encode_query(TEXTS[:1], convert_to_numpy=True)
    found = model.encode_document(TEXTS, convert_to_numpy=True)
    np.testing.assert_allclose(np.linalg.norm(found[3], axis=1), 1, atol=1e-5)
    scores = model.similarity(asked, found)
    assert scores.shape == (1, len(TEXTS))
    assert scores[0].argmax() == 0  # the text itself
    with pytest.raises(CapabilityError, match="token by token"):
        polyrank.Reranker(checkpoint("bge-reranker-base")).token_vectors(["a"], input_type="query")
