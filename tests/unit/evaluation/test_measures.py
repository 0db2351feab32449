import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyrank.evaluation.bootstrap import estimate, resampled_means
from polyrank.evaluation.measures import measure, measures_for


def test_measures_follow_top_k():
    assert measures_for(100) == ("nDCG@10", "RR@10", "AP", "R@10", "R@100")
    assert measures_for(10) == ("nDCG@10", "RR@10", "AP", "R@10")


def test_values_worked_out_by_hand():
    qrels = {"q": {"a": 2, "b": 1, "c": 1, "z": 0}}
    values = measure(measures_for(100), qrels, {"q": ["z", "b", "x", "a"]})
    gain = 1 / math.log2(3) + 2 / math.log2(5)  # b second, a fourth
    ideal = 2 + 1 / math.log2(3) + 1 / math.log2(4)
    assert values["nDCG@10"] == pytest.approx([gain / ideal])
    assert values["RR@10"] == pytest.approx([1 / 2])
    assert values["AP"] == pytest.approx([(1 / 2 + 2 / 4) / 3])
    assert values["R@10"] == pytest.approx([2 / 3])


def test_rank_eleven_counts_for_recall_at_100_but_not_at_10():
    ranking = [f"x{i}" for i in range(10)] + ["a"]
    values = measure(measures_for(100), {"q": {"a": 1}}, {"q": ranking})
    found = {name: value[0] for name, value in values.items()}
    assert found == pytest.approx({"nDCG@10": 0, "RR@10": 0, "AP": 1 / 11, "R@10": 0, "R@100": 1})


def test_missing_and_empty_rankings_count_as_zero_and_order_is_that_of_the_qrels():
    qrels = {"q2": {"a": 1}, "q0": {"a": 1}, "q1": {"a": 1}}
    values = measure(measures_for(100), qrels, {"q1": ["a"], "q0": [], "unjudged": ["a"]})
    for value in values.values():
        assert value.tolist() == [0, 0, 1]


@pytest.mark.parametrize("ids", [["a", "b"], ["b", "a"], ["10", "9"], ["9", "10"]])
def test_the_order_shown_is_measured_whatever_the_ids(ids):
    # trec_eval would order tied documents by id; ours are never tied
    values = measure(["RR@10"], {"q": {ids[1]: 1}}, {"q": ids})
    assert values["RR@10"].tolist() == [0.5]


def reference(qrels, ranking, top_k):
    """The same measures, written down independently."""
    grades = np.array([qrels.get(doc, 0) for doc in ranking], float)
    hits = grades > 0
    relevant = sum(grade > 0 for grade in qrels.values())
    discount = 1 / np.log2(np.arange(2, 12))
    ideal = np.sort(list(qrels.values()))[::-1][:10]
    first = np.flatnonzero(hits[:10])
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return {
        "nDCG@10": (grades[:10] * discount[: len(grades[:10])]).sum()
        / (ideal * discount[: len(ideal)]).sum(),
        "RR@10": 1 / (first[0] + 1) if len(first) else 0,
        "AP": precision[hits].sum() / relevant,
        "R@10": hits[:10].sum() / relevant,
        f"R@{top_k}": hits[:top_k].sum() / relevant,
    }


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_agrees_with_an_independent_implementation(data):
    docs = [str(i) for i in range(40)]
    qrels, rankings = {}, {}
    for query in ("q1", "q0", "q10"):
        judged = data.draw(st.dictionaries(st.sampled_from(docs), st.integers(0, 3), max_size=15))
        judged[data.draw(st.sampled_from(docs))] = 1
        qrels[query] = judged
        order = data.draw(st.permutations(docs))
        rankings[query] = order[: data.draw(st.integers(0, 30))]
    values = measure(measures_for(30), qrels, rankings)
    for row, query in enumerate(qrels):
        expected = reference(qrels[query], rankings[query], 30)
        for name, value in expected.items():
            assert values[name][row] == pytest.approx(value), (name, query)


def test_intervals_are_seeded_and_hold_the_mean():
    values = {"m": np.random.default_rng(3).random(400), "n": np.ones(400)}
    one = resampled_means(values, num_resamples=500, seed=1)
    again = resampled_means(values, num_resamples=500, seed=1)
    other = resampled_means(values, num_resamples=500, seed=2)
    assert (one["m"] == again["m"]).all()
    assert (one["m"] != other["m"]).any()
    assert one["n"] == pytest.approx(1)
    found = estimate(float(values["m"].mean()), one["m"])
    # of a uniform variable the mean's standard error is sqrt(1/12/n)
    half = 1.96 * math.sqrt(1 / 12 / 400)
    assert found.low == pytest.approx(found.mean - half, abs=0.006)
    assert found.high == pytest.approx(found.mean + half, abs=0.006)


def test_resampling_is_paired_between_calls():
    values = np.random.default_rng(4).random(100)
    first = resampled_means({"m": values}, num_resamples=200, seed=0)["m"]
    better = resampled_means({"m": values + 0.25}, num_resamples=200, seed=0)["m"]
    assert better - first == pytest.approx(0.25)
