"""Joining rankings: by rank, by standardised score, by learnt weights."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyrank.errors import ConfigError, InputError, TrainingError
from polyrank.search.fusion import (
    LabelledCandidates,
    learn_fusion_weights,
    reciprocal_rank_fusion,
    standardized_columns,
    weighted_fusion,
)


def test_ranks_are_joined_by_the_sum_of_their_reciprocals():
    fused = reciprocal_rank_fusion([["a", "b", "c"], ["b", "d"]])
    assert [hit.id for hit in fused] == ["b", "a", "d", "c"]
    assert fused[0].score == pytest.approx(1 / 62 + 1 / 61)
    assert fused[1].score == pytest.approx(1 / 61)


def test_equal_sums_keep_the_order_of_appearance():
    assert [hit.id for hit in reciprocal_rank_fusion([[2, 1], [1, 2]])] == [2, 1]
    assert reciprocal_rank_fusion([]) == [] == weighted_fusion([])


def test_a_weight_of_nothing_leaves_the_order_of_the_other_ranking():
    rankings = [["a", "b", "c"], ["c", "b", "a"]]
    assert [h.id for h in reciprocal_rank_fusion(rankings, weights=[1, 0])] == ["a", "b", "c"]
    scores = [{"a": 3.0, "b": 2.0, "c": 1.0}, {"c": 300.0, "b": 2.0, "a": 1.0}]
    assert [h.id for h in weighted_fusion(scores, [1, 0])] == ["a", "b", "c"]
    assert [h.id for h in weighted_fusion(scores, [0, 1])] == ["c", "b", "a"]


@given(
    st.lists(st.permutations(range(6)), min_size=1, max_size=4),
    st.floats(0, 1000, allow_nan=False),
)
def test_a_document_that_is_first_everywhere_comes_first(rankings, k):
    led = [[99, *ranking] for ranking in rankings]
    fused = reciprocal_rank_fusion(led, k)
    assert fused[0].id == 99
    assert len(fused) == 7
    assert all(a.score >= b.score for a, b in pairwise(fused))


def test_units_do_not_matter_and_missing_documents_count_as_the_lowest():
    lexical, dense = {"a": 12.0, "b": 3.0}, {"b": 0.81, "c": 0.79, "a": 0.8}
    scaled = {name: 1000 * score + 5 for name, score in dense.items()}
    first = weighted_fusion([lexical, dense], [0.5, 1.0])
    second = weighted_fusion([lexical, scaled], [0.5, 1.0])
    assert [h.id for h in first] == [h.id for h in second]
    columns = standardized_columns([lexical, dense], ["a", "b", "c"])
    assert columns[1, 0] == columns[2, 0] < columns[0, 0]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: reciprocal_rank_fusion([["a"]], -1), ConfigError, "k must be"),
        (lambda: reciprocal_rank_fusion([["a", "a"]]), InputError, "twice"),
        (lambda: reciprocal_rank_fusion([["a"]], weights=[1, 2]), ConfigError, "one a ranking"),
        (lambda: weighted_fusion([{"a": 1.0}], [-1.0]), ConfigError, "0 or more"),
        (lambda: weighted_fusion([{"a": float("nan")}]), InputError, "finite"),
        (lambda: learn_fusion_weights([]), TrainingError, "none of the 0 questions"),
    ],
)
def test_what_cannot_be_joined_is_said(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_learnt_weights_follow_what_tells_answers_apart_and_never_go_below_nothing():
    generator = np.random.default_rng(0)
    questions = []
    for _ in range(200):
        is_answer = np.zeros(10, bool)
        is_answer[generator.integers(10)] = True
        good = is_answer * 2.0 + generator.normal(size=10)
        fair = is_answer * 1.0 + generator.normal(size=10)
        wrong = is_answer * -1.0 + generator.normal(size=10)
        questions.append(LabelledCandidates(np.stack([good, fair, wrong], axis=1), is_answer))
    weights = learn_fusion_weights(questions)
    assert weights[0] == pytest.approx(2.0, abs=0.5)
    assert weights[1] == pytest.approx(1.0, abs=0.4)
    assert weights[2] == 0.0
