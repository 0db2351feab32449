"""Heads, vectors and results, against values worked out by hand or by torch."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from polyrank.checkpoint.spec import BodySpec
from polyrank.encoder.base import padded_indices, position_ids
from polyrank.encoder.pooling import pool
from polyrank.tasks.classify import classifications
from polyrank.tasks.embed import quantize_vectors, shorten
from polyrank.tasks.heads import NONLINEARITIES, normalize, sigmoid, softmax
from polyrank.tasks.rerank import order_by_logit
from polyrank.types import PackedBatch

floats = st.floats(-80, 80, width=32)
rows = arrays(np.float32, (5, 8), elements=floats)


@given(values=rows)
def test_activations_as_torch(values: np.ndarray) -> None:
    tensor = torch.from_numpy(values)
    np.testing.assert_allclose(sigmoid(values), tensor.sigmoid().numpy(), atol=1e-6)
    np.testing.assert_allclose(softmax(values), tensor.softmax(-1).numpy(), atol=1e-6)
    functional = torch.nn.functional
    for name, function in (
        ("tanh", torch.tanh),
        ("relu", torch.relu),
        ("silu", functional.silu),
        ("gelu", functional.gelu),
        ("gelu_tanh", lambda x: functional.gelu(x, approximate="tanh")),
    ):
        found = NONLINEARITIES[name](values)  # type: ignore[index]
        np.testing.assert_allclose(found, function(tensor).numpy(), atol=2e-5, err_msg=name)


def test_sigmoid_of_large_logits_neither_overflows_nor_warns() -> None:
    found = sigmoid(np.array([-1e4, -30, 0, 30, 1e4], np.float32))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [0, 9.3576e-14, 0.5, 1, 1], rtol=1e-4)


def test_equal_logits_keep_their_order() -> None:
    assert order_by_logit(np.array([1, 3, 1, 3, 2], np.float32)) == [1, 3, 4, 0, 2]
    # scores of both would be 1.0 in float32
    assert order_by_logit(np.array([20.0, 21.0], np.float32)) == [1, 0]


@given(vectors=rows)
def test_normalized_rows_have_unit_length_or_are_zero(vectors: np.ndarray) -> None:
    lengths = np.linalg.norm(normalize(vectors), axis=1)
    is_long = np.linalg.norm(vectors.astype(np.float64), axis=1) > 1e-6
    np.testing.assert_allclose(lengths[is_long], 1, atol=1e-5)


def test_shortened_vectors_are_normalized_again() -> None:
    vectors = normalize(np.arange(1, 9, dtype=np.float32)[None])
    short = shorten(vectors, 3, is_normalized=True)
    np.testing.assert_allclose(short, np.array([[1, 2, 3]]) / np.sqrt(14), rtol=1e-6)
    kept = shorten(vectors, 3, is_normalized=False)
    np.testing.assert_array_equal(kept, vectors[:, :3])


def test_int8_keeps_cosines() -> None:
    vectors = normalize(np.random.default_rng(0).normal(size=(50, 384)).astype(np.float32))
    small = quantize_vectors(vectors, "int8")
    assert small.dtype == np.int8
    assert np.abs(small).max(axis=1).tolist() == [127] * 50
    cosines = normalize(small.astype(np.float32)) @ normalize(small.astype(np.float32)).T
    np.testing.assert_allclose(cosines, vectors @ vectors.T, atol=0.01)
    shifted = quantize_vectors(vectors, "uint8").astype(np.int16) - 128
    np.testing.assert_array_equal(shifted, small)


def test_bits_by_hand() -> None:
    vectors = np.array([[1, -1, 1, 0, 0, 0, 0, 1, 1]], np.float32)
    assert quantize_vectors(vectors, "ubinary").tolist() == [[0b10100001, 0b10000000]]
    assert quantize_vectors(vectors, "binary").tolist() == [[0b10100001 - 128, 0]]


def test_pooling_by_hand() -> None:
    tokens = np.array([[1, 2], [3, 6], [5, 0]], np.float32)
    cu_seqlens = np.array([0, 2, 3], np.int32)
    expected = {
        "cls": [[1, 2], [5, 0]],
        "mean": [[2, 4], [5, 0]],
        "max": [[3, 6], [5, 0]],
        "last_token": [[3, 6], [5, 0]],
        "mean_sqrt_len": [[4 / 2**0.5, 8 / 2**0.5], [5, 0]],
        "weighted_mean": [[7 / 3, 14 / 3], [5, 0]],
    }
    for mode, values in expected.items():
        found = pool(tokens, cu_seqlens, (mode,))  # type: ignore[arg-type]
        np.testing.assert_allclose(found, values, rtol=1e-6, err_msg=mode)
    both = pool(tokens, cu_seqlens, ("cls", "max"))
    assert both.tolist() == [[1, 2, 3, 6], [5, 0, 5, 0]]


def test_positions_by_hand() -> None:
    body = dict(
        model_type="x", hidden_size=1, num_layers=1, num_heads=1, intermediate_size=1,
        vocab_size=9, num_positions=9, type_vocab_size=1, activation="gelu",
        layer_norm_eps=1e-5, prefix="",
    )  # fmt: skip
    bert = BodySpec(**body, position_offset=0, pad_token_id=0)  # type: ignore[arg-type]
    roberta = BodySpec(**body, position_offset=2, pad_token_id=1)  # type: ignore[arg-type]
    batch = PackedBatch(np.array([5, 1, 6, 7, 8], np.int32), np.array([0, 3, 5], np.int32))
    assert position_ids(batch, bert).tolist() == [0, 1, 2, 0, 1]
    # the text's own padding token takes the padding position and does not count
    assert position_ids(batch, roberta).tolist() == [2, 1, 3, 2, 3]
    indices, mask = padded_indices(batch)
    assert indices[mask].tolist() == [0, 1, 2, 3, 4]
    assert mask.tolist() == [[True, True, True], [True, True, False]]


def test_classification_of_ties_and_order() -> None:
    probabilities = np.array([[0.2, 0.4, 0.4], [0.9, 0.05, 0.05]], np.float32)
    first, second = classifications(("a", "b", "c"), probabilities, np.array([True, False]))
    assert (first.label, second.label) == ("b", "a")
    assert first.is_truncated
    assert not second.is_truncated
    assert second.score == pytest.approx(0.9)
    assert list(first.probabilities) == ["a", "b", "c"]
