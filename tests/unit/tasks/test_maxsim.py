"""Arithmetic on token rows: every native path against NumPy and float64, and its bits."""

import numpy as np
import pytest

from polyrank.errors import ConfigError
from polyrank.tasks import maxsim
from polyrank.tasks.maxsim import Matcher, NumpyMatcher, choose_matcher

native = pytest.importorskip("polyrank._native")
from polyrank.tasks.native_maxsim import NativeMatcher  # noqa: E402

LENGTHS = (1, 2, 3, 5, 18, 41, 200)
CU_SEQLENS = np.cumsum([0, *LENGTHS]).astype(np.int32)
SPANS = np.stack([CU_SEQLENS[:-1], CU_SEQLENS[1:]], axis=1)
QUERIES = SPANS[[0, 1, 4, 4, 6, 2, 3]]
DOCUMENTS = SPANS[[6, 5, 6, 0, 4, 2, 1]]


@pytest.fixture(params=native.usable_paths())
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Force one path of kernels."""
    monkeypatch.setenv("POLYRANK_ISA", request.param)


def given(width: int, num_directions: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(width)
    rows = generator.standard_normal((CU_SEQLENS[-1], width)).astype(np.float32)
    center = generator.standard_normal(width).astype(np.float32)
    directions = np.linalg.qr(generator.standard_normal((width, width)))[0][:num_directions]
    return rows, center, np.ascontiguousarray(directions, np.float32)


@pytest.mark.parametrize(("width", "num_directions"), [(384, 16), (384, 0), (64, 5), (50, 3)])
def test_native_as_numpy(path: None, width: int, num_directions: int) -> None:
    rows, center, directions = given(width, num_directions)
    rows[7] = center  # nothing is left of it
    found = [matcher.clean(rows, CU_SEQLENS, center, directions) for matcher in matchers()]
    np.testing.assert_allclose(found[0][:7], found[1][:7], atol=1e-6, rtol=0)
    np.testing.assert_allclose(found[0][8:], found[1][8:], atol=1e-6, rtol=0)
    assert not found[0][7].any()
    assert not found[1][7].any()
    exact = (rows - center).astype(np.float64)
    exact -= exact @ directions.T.astype(np.float64) @ directions
    exact /= np.linalg.norm(exact, axis=1, keepdims=True) + 1e-30
    np.testing.assert_allclose(found[0], exact, atol=1e-5, rtol=0)
    both = [matcher.best(found[1], QUERIES, DOCUMENTS) for matcher in matchers()]
    for side, (first, second) in enumerate(zip(*both, strict=True)):
        assert first.dtype == np.float32
        np.testing.assert_allclose(first, second, atol=1e-6, rtol=0)
        wanted = [
            (exact[a:b] @ exact[c:d].T).max(axis=1 - side)
            for (a, b), (c, d) in zip(QUERIES, DOCUMENTS, strict=True)
        ]
        np.testing.assert_allclose(first, np.concatenate(wanted), atol=1e-5, rtol=0)


def matchers() -> tuple[Matcher, Matcher]:
    return NativeMatcher(), NumpyMatcher()


@pytest.mark.parametrize("width", [384, 50])
def test_what_else_is_in_a_call_changes_no_bit(path: None, width: int) -> None:
    rows, center, directions = given(width, 6)
    for matcher in matchers():
        clean = matcher.clean(rows, CU_SEQLENS, center, directions)
        for start, end in SPANS:
            bounds = np.array([0, end - start], np.int32)
            alone = matcher.clean(rows[start:end], bounds, center, directions)
            np.testing.assert_array_equal(alone, clean[start:end])
        by_query, by_document = matcher.best(clean, QUERIES, DOCUMENTS)
        at = np.zeros(2, np.intp)
        for query, document in zip(QUERIES, DOCUMENTS, strict=True):
            size = np.array([query[1] - query[0], document[1] - document[0]])
            first, second = matcher.best(clean, query[None], document[None])
            np.testing.assert_array_equal(first, by_query[at[0] : at[0] + size[0]])
            np.testing.assert_array_equal(second, by_document[at[1] : at[1] + size[1]])
            back = matcher.best(clean, document[None], query[None])
            if isinstance(matcher, NativeMatcher):  # the two texts may change places
                np.testing.assert_array_equal(back[0], second)
                np.testing.assert_array_equal(back[1], first)
            at += size


def test_no_pairs() -> None:
    rows, *_ = given(64, 0)
    none = np.empty((0, 2), np.int32)
    for matcher in matchers():
        assert [len(side) for side in matcher.best(rows, none, none)] == [0, 0]


@pytest.mark.parametrize("span", [(3, 3), (-1, 2), (0, 10**6), (5, 2)])
def test_native_spans_are_checked(span: tuple[int, int]) -> None:
    rows, center, directions = given(64, 2)
    good, bad = np.array([[0, 1]], np.int32), np.array([span], np.int32)
    for spans in ((good, bad), (bad, good)):
        with pytest.raises(ValueError, match="span is empty or outside"):
            native.best_products(rows, *spans)
    with pytest.raises(ValueError, match="equally many"):
        native.best_products(rows, good, good[:0])
    with pytest.raises(ValueError, match="as wide as the rows"):
        native.clean_rows(rows, center[:-1].copy(), directions)


def test_the_matcher_that_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(choose_matcher(), NativeMatcher)
    monkeypatch.setenv("POLYRANK_ISA", "abacus")
    with pytest.raises(ConfigError, match=r"POLYRANK_ISA is .abacus.*portable"):
        choose_matcher()
    monkeypatch.setattr(maxsim, "is_installed", lambda name: False)
    assert isinstance(choose_matcher(), NumpyMatcher)
