"""Candidates that a cheaper stage drops: what is promised holds, and what cannot be is said."""

import json

import numpy as np
import pytest

from polyrank.errors import ConfigError, DataError
from polyrank.search.pruning import (
    PRUNING_FILE,
    Pruning,
    ScoredCandidates,
    calibrate_pruning,
    check_pruning,
    depths,
    order_statistic,
    questions_needed,
)


def drawn(number, generator, noise=0.7):
    """Questions whose cheaper scores are noisy copies in a unit of each question's own."""
    made = []
    for _ in range(number):
        best = generator.gumbel(size=200)
        cheap = best + noise * generator.normal(size=200)
        made.append(ScoredCandidates(5 + 0.1 * cheap, best))
    return made


def test_depths_are_told_in_three_ways():
    scores = np.array([3.0, 1.0, 2.0, 3.0, 0.0])
    assert depths(scores, "gap").tolist() == [0, 2, 1, 0, 3]
    assert depths(scores, "rank").tolist() == [0, 3, 2, 0, 4]
    np.testing.assert_allclose(depths(scores, "deviations"), depths(scores, "gap") / scores.std())
    assert depths(np.empty(0), "rank").tolist() == []
    assert depths(np.ones(3), "deviations").tolist() == [0, 0, 0]


@pytest.mark.parametrize(("probability", "confidence"), [(0.9, 0.9), (0.8, 0.95)])
@pytest.mark.parametrize("min_kept", [5, 4])
def test_the_promise_holds_as_often_as_it_says(probability, confidence, min_kept):
    """Of many calibrations, at least `confidence` keep at least `probability` of new questions."""
    generator = np.random.default_rng(1)
    fresh = drawn(1500, generator)
    held = 0
    for _ in range(60):
        pruning = calibrate_pruning(
            drawn(90, generator),
            top_n=5,
            min_kept=min_kept,
            probability=probability,
            confidence=confidence,
        )
        check = check_pruning(pruning, fresh)
        held += check.share_kept >= probability
        assert check.mean_share < 0.8
    # 60 draws at the promised confidence come out below this once in a hundred
    assert held / 60 >= confidence - 2.33 * np.sqrt(confidence * (1 - confidence) / 60)


def test_the_order_statistic_is_that_of_tolerance_limits():
    # known values: 59 draws bound 95 % with confidence 95 % by the largest, 93 by the last but one
    assert order_statistic(58, 0.95, 0.95) is None
    assert order_statistic(59, 0.95, 0.95) == 59
    assert order_statistic(93, 0.95, 0.95) == 92
    assert questions_needed(0.95, 0.95) == 59
    places = [order_statistic(m, 0.9, 0.9) for m in range(22, 400)]
    assert all(place is not None and place / m >= 0.9 for m, place in enumerate(places, 22))


def test_a_perfect_cheaper_stage_hands_on_no_more_than_is_wanted():
    generator = np.random.default_rng(0)
    questions = [ScoredCandidates(best, best) for best in generator.normal(size=(120, 300))]
    pruning = calibrate_pruning(questions, top_n=10)
    assert pruning.statistic == "rank"
    assert pruning.threshold == 9
    assert pruning.mean_share == pytest.approx(10 / 300)
    assert pruning.keeps(questions[0].cheap).sum() == 10


def test_it_is_kept_in_a_file_to_the_bit(tmp_path):
    pruning = calibrate_pruning(drawn(120, np.random.default_rng(3)), stage="vectors")
    pruning.save(tmp_path / PRUNING_FILE)
    assert Pruning.load(tmp_path) == pruning == Pruning.load(tmp_path / PRUNING_FILE)
    assert "95%" in pruning.guarantee


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"format": "polyrank-pruning-2"}', '{"format": "polyrank-pruning-1"}'],
)
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / PRUNING_FILE).write_text(content)
    with pytest.raises(DataError, match=PRUNING_FILE):
        Pruning.load(tmp_path)


def test_values_out_of_range_are_refused(tmp_path):
    calibrate_pruning(drawn(120, np.random.default_rng(3))).save(tmp_path / PRUNING_FILE)
    content = json.loads((tmp_path / PRUNING_FILE).read_text())
    for change in ({"threshold": -1}, {"statistic": "best"}, {"probability": 2}, {"min_kept": 99}):
        (tmp_path / PRUNING_FILE).write_text(json.dumps(content | change))
        with pytest.raises(DataError, match="damaged"):
            Pruning.load(tmp_path)


def test_what_cannot_be_promised_is_said():
    generator = np.random.default_rng(0)
    with pytest.raises(DataError, match=r"50 questions are too few.*89 are needed"):
        calibrate_pruning(drawn(50, generator))
    with pytest.raises(DataError, match="too few"):
        calibrate_pruning([])
    with pytest.raises(ConfigError, match="probability"):
        calibrate_pruning(drawn(3, generator), probability=1.0)
    with pytest.raises(ConfigError, match="min_kept"):
        calibrate_pruning(drawn(3, generator), top_n=5, min_kept=6)
    with pytest.raises(DataError, match=r"questions\[0\].*finite"):
        calibrate_pruning([ScoredCandidates(np.array([np.nan]), np.array([1.0]))])
    with pytest.raises(DataError, match="one of each"):
        calibrate_pruning([ScoredCandidates(np.zeros(2), np.zeros(3))])
