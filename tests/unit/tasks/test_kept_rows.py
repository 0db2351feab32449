"""Documents' rows made small: what is joined, how codes compare, and that bits never differ."""

import numpy as np
import pytest

from polyrank import Reranker
from polyrank.errors import CapabilityError, ConfigError
from polyrank.tasks.heads import normalize
from polyrank.tasks.kept_rows import RowFormat, coded, keep_rows, match_kept, pool_rows
from polyrank.tasks.maxsim import NumpyMatcher, choose_matcher
from tests import checkpoints

MATCHER = choose_matcher()


def unit_rows(number, width=48, seed=0):
    rows = np.random.default_rng(seed).normal(size=(number, width)).astype(np.float32)
    return normalize(rows)


@pytest.mark.parametrize("pooling", [1, 2, 3, 8])
@pytest.mark.parametrize("number", [1, 2, 3, 17, 60])
def test_one_row_in_so_many_is_left_and_each_has_unit_length(number, pooling):
    pooled = pool_rows(unit_rows(number), pooling, MATCHER)
    assert len(pooled) == -(-number // pooling)
    np.testing.assert_allclose(np.linalg.norm(pooled, axis=1), 1, atol=1e-5)


def test_rows_that_are_alike_are_joined():
    rows = unit_rows(4)
    near = normalize(rows + 0.01 * unit_rows(4, seed=1))
    pooled = pool_rows(np.concatenate([rows, near]), 2, MATCHER)
    best = (pooled @ rows.T).max(axis=0)
    np.testing.assert_allclose(best, 1, atol=1e-3)
    assert len(pooled) == 4


def test_equal_rows_and_rows_that_are_no_numbers_end():
    assert len(pool_rows(np.ones((9, 4), np.float32) / 2, 2, MATCHER)) == 5
    assert len(pool_rows(np.zeros((9, 4), np.float32), 3, MATCHER)) == 3
    with np.errstate(invalid="ignore"):
        assert len(pool_rows(np.full((5, 4), np.nan, np.float32), 2, MATCHER)) == 3


def test_codes_stand_for_their_rows():
    rows = unit_rows(20)
    codes, scale = coded(rows)
    assert codes.dtype == np.int8
    assert np.abs(codes).max() == 127
    np.testing.assert_allclose(codes * scale, rows, atol=float(scale) / 2 + 1e-7)
    codes, scale = coded(np.zeros((2, 3), np.float32))
    assert not codes.any()
    assert scale == 1


@pytest.mark.parametrize("width", [48, 1040, 1500])
def test_products_of_codes_are_exact_whatever_else_is_compared(width):
    query = unit_rows(7, width)
    lots = [unit_rows(number, width, number) for number in (3, 90, 2500, 1)]
    documents = [keep_rows(rows, RowFormat(1, "int8"), MATCHER) for rows in lots]
    together = match_kept(MATCHER, query, documents, both_ways=True)
    asked, asked_scale = coded(query)
    for place, document in enumerate(documents):
        alone = match_kept(MATCHER, query, [document], both_ways=True)
        np.testing.assert_array_equal(together.by_query[place], alone.by_query[0])
        np.testing.assert_array_equal(together.by_document[place], alone.by_document[0])
        products = asked.astype(np.int64) @ document.values.astype(np.int64).T
        wanted = products.max(axis=1).astype(np.float32) * (document.scale * asked_scale)
        if width <= 1040:
            np.testing.assert_array_equal(together.by_query[place], wanted)
        np.testing.assert_allclose(together.by_query[place], wanted, rtol=1e-6)


def test_codes_compare_with_the_same_bits_with_and_without_the_native_library():
    query, rows = unit_rows(7, 384), unit_rows(120, 384, 5)
    plain = NumpyMatcher()
    made = [keep_rows(rows, RowFormat(2, "int8"), matcher) for matcher in (plain, MATCHER)]
    np.testing.assert_array_equal(made[0].values, made[1].values)
    found = [match_kept(m, query, [made[0]], both_ways=True) for m in (plain, MATCHER)]
    np.testing.assert_array_equal(found[0].by_query, found[1].by_query)
    np.testing.assert_array_equal(found[0].by_document[0], found[1].by_document[0])


@pytest.mark.parametrize("row_format", [RowFormat(2), RowFormat(1, "int8"), RowFormat(2, "int8")])
def test_small_rows_match_nearly_as_the_rows_themselves(row_format):
    query, rows = unit_rows(5), unit_rows(40, seed=3)
    found = match_kept(MATCHER, query, [keep_rows(rows, row_format, MATCHER)], both_ways=True)
    exact = (query @ rows.T).max(axis=1)
    slack = 0.01 if row_format.pooling == 1 else 0.5
    np.testing.assert_allclose(found.by_query[0], exact, atol=slack)
    assert len(found.by_document[0]) == -(-40 // row_format.pooling)


@pytest.mark.parametrize(
    "settings", [{"pooling": 0}, {"pooling": 9}, {"pooling": 1.5}, {"dtype": "int4"}]
)
def test_a_format_that_does_not_exist_is_refused(settings):
    with pytest.raises(ConfigError, match="row_"):
        RowFormat(**settings)


SMALL = [{"row_dtype": "int8"}, {"row_pooling": 2}, {"row_pooling": 2, "row_dtype": "int8"}]
QUERIES = ["How long do cats live?", "Wo liegt der höchste Berg?"]
DOCUMENTS = [
    "Cats live for about fifteen years, some for twenty.",
    "Der Mount Everest liegt im Himalaya und ist der höchste Berg der Erde.",
    "犬は吠える。",
    "x",
    "Bread is baked from flour, water and salt.",
]


@pytest.mark.parametrize("small", SMALL)
def test_a_score_has_the_same_bits_kept_or_not_alone_or_not(small):
    plain, kept = Reranker(**small), Reranker(row_cache_bytes=1 << 22, **small)
    pairs = [(query, document) for document in DOCUMENTS for query in QUERIES]
    scores = plain.score(pairs, logits=True)
    alone = [plain.score([pair], logits=True)[0] for pair in pairs]
    np.testing.assert_array_equal(scores, alone)
    tokens = kept.usage.num_tokens
    np.testing.assert_array_equal(scores, kept.score(pairs, logits=True))
    first = kept.usage.num_tokens - tokens
    np.testing.assert_array_equal(scores, kept.score(pairs, logits=True))
    assert kept.usage.num_tokens - tokens - first < first / 2  # the queries alone
    ranked = {hit.index: hit.logit for hit in kept.rank(QUERIES[0], DOCUMENTS)}
    assert [ranked[i] for i in range(5)] == scores[::2].tolist()
    assert any("Rows of documents are" in note for note in kept.info.notes)


def test_small_rows_change_scores_little_and_nothing_of_other_rerankers():
    pairs = [(QUERIES[0], document) for document in DOCUMENTS]
    before = Reranker().score(pairs, logits=True)
    rounded = Reranker(row_dtype="int8").score(pairs, logits=True)
    assert 0 < np.abs(before - rounded).max() < 0.05
    np.testing.assert_array_equal(before, Reranker().score(pairs, logits=True))


def test_no_pairs_give_no_scores():
    assert Reranker(row_dtype="int8").score([]).shape == (0,)
    assert Reranker(row_dtype="int8").rank("a", []) == []


def test_progress_ends_where_it_says():
    seen = []
    reranker = Reranker(row_dtype="int8", row_cache_bytes=1 << 22)
    for _ in range(2):
        reranker.rank(QUERIES[0], DOCUMENTS, progress=lambda *at: seen.append(at))
        assert seen[-1][0] == seen[-1][1]


def test_a_checkpoint_without_rows_says_so(tmp_path):
    folder = checkpoints.bge_reranker_base(tmp_path / "model")
    with pytest.raises(CapabilityError, match="row_pooling"):
        Reranker(folder, row_pooling=2)
