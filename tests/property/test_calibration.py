"""Probabilities rise with logits, whatever was fitted, so that no order changes."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from polyrank.calibration.calibration import RankCalibration
from polyrank.calibration.features import query_features, script_shares
from polyrank.calibration.maps import Beta, Isotonic, Map, Platt
from polyrank.training.calibration.fit import ScoredQuery, fit_ranking
from polyrank.training.calibration.logistic import pool_adjacent

numbers = st.floats(-8, 8)
slopes = st.floats(0.01, 10)
shares = st.floats(0, 1)


@st.composite
def maps(draw: st.DrawFn) -> Map:
    kind = draw(st.sampled_from(("platt", "beta", "isotonic")))
    if kind == "beta":
        return Beta(draw(slopes), draw(slopes), draw(numbers))
    if kind == "isotonic":
        places = sorted(draw(st.sets(numbers, min_size=1, max_size=10)))
        values = sorted(draw(st.lists(shares, min_size=len(places), max_size=len(places))))
        return Isotonic(tuple(places), tuple(values))
    return Platt()


@given(maps(), slopes, numbers, st.lists(numbers, min_size=2, max_size=30), st.text())
def test_probabilities_rise_with_logits(
    made: Map, slope: float, intercept: float, logits: list[float], query: str
) -> None:
    own = RankCalibration(slope, intercept, map=made)
    ordered = np.sort(np.array(logits))
    found = own.probabilities(ordered, query_features(query, 5))
    assert ((found >= 0) & (found <= 1)).all()
    assert (np.diff(found) >= 0).all()
    apart = np.diff(slope * ordered) > 1e-6
    inner = np.abs(slope * ordered + intercept)[1:] < 15  # beyond, float64 ends
    if not isinstance(made, Beta):
        assert (np.diff(found)[apart & inner] > 0).all()


@given(st.lists(shares, min_size=1, max_size=60))
def test_blocks_rise_and_keep_the_mean(values: list[float]) -> None:
    blocks = pool_adjacent(np.array(values))
    assert [start for start, _, _ in blocks] == [0, *(end for _, end, _ in blocks[:-1])]
    means = [mean for *_, mean in blocks]
    assert all(a < b for a, b in itertools.pairwise(means))
    total = sum((end - start) * mean for start, end, mean in blocks)
    assert abs(total - sum(values)) < 1e-6


@given(st.integers(0, 1_000), st.booleans())
@settings(max_examples=8, deadline=None)
def test_fits_rise_whatever_the_data(seed: int, reorder: bool) -> None:
    generator = np.random.default_rng(seed)
    questions = []
    for i in range(60):
        logits = generator.normal(0, 3, 8)
        truths = generator.random(8) < 1 / (1 + np.exp(3 - 1.5 * logits))
        features = query_features("猫 の" if i % 2 else "a cat", int(generator.integers(1, 40)))
        questions.append(ScoredQuery("one", "xx", features, logits, truths, generator.random(8)))
    own = fit_ranking(questions, is_reordering=reorder, seed=seed).calibration
    grid = np.linspace(-10, 10, 200)
    found = own.probabilities(grid, query_features("dogs", 4), np.full(200, 0.5))
    assert (np.diff(found) >= 0).all()
    assert own.is_reordering == reorder


@given(st.text())
def test_shares_of_any_text_sum_to_one(text: str) -> None:
    total = sum(script_shares(text))
    assert total == 0 or abs(total - 1) < 1e-9
