"""Searching in stages: as the stages by hand, within budgets, told what was spent where."""

import numpy as np
import pytest

from polyrank import Embedder, Reranker, Search
from polyrank.errors import ConfigError, EncoderError, InputError
from polyrank.search.fusion import reciprocal_rank_fusion
from polyrank.search.pruning import Pruning
from polyrank.search.stages import (
    Bm25Source,
    Candidate,
    RerankerScorer,
    Stage,
    StageScores,
    VectorScorer,
)

QUERY = "How long do cats live?"
DOCUMENTS = [
    "Bread is baked from flour, water and salt.",
    "Cats live for about fifteen years, some for twenty.",
    "Der Mount Everest liegt im Himalaya.",
    "Les chats vivent environ quinze ans.",
    "Dogs live for about twelve years.",
    "犬は吠える。",
]


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Slow:
    """Scores a text by the number in it, and takes a while for each."""

    def __init__(self, clock, seconds, sign=1):
        self.clock, self.seconds, self.sign, self.calls = clock, seconds, sign, []

    def score(self, query, candidates):
        self.calls.append(len(candidates))
        self.clock.now += self.seconds * len(candidates)
        scores = self.sign * np.array([float(c.text) for c in candidates])
        return StageScores(scores, scores)


NUMBERS = [str((7 * i) % 101) for i in range(101)]


def slow_search(*seconds, **settings):
    clock = Clock()
    stages = [Stage(f"s{i}", Slow(clock, own)) for i, own in enumerate(seconds)]
    return Search(stages, clock=clock, **settings), clock


def test_without_a_budget_it_is_the_reranker_by_hand():
    reranker = Reranker()
    by_hand = reranker.rank(QUERY, DOCUMENTS)
    result = Search.of(reranker=reranker).search(QUERY, DOCUMENTS, top_n=None)
    assert [hit.ranked for hit in result] == by_hand
    assert [(hit.index, hit.score) for hit in result] == [(h.index, h.score) for h in by_hand]
    (report,) = result.stages
    assert (report.name, report.num_given, report.num_read) == ("late_interaction", 6, 6)
    assert not report.is_cut_short
    assert 0 < report.milliseconds <= result.milliseconds


def test_vectors_choose_what_the_reranker_reads():
    embedder, reranker = Embedder(), Reranker()
    search = Search.of(embedder=embedder, reranker=reranker, contenders=3)
    for _ in range(2):  # the second time by vectors that were kept
        result = search.search(QUERY, DOCUMENTS, top_n=6)
        vectors = embedder.encode(DOCUMENTS, input_type="document")
        cosines = vectors @ embedder.encode([QUERY], input_type="query")[0]
        order = np.argsort(-cosines, kind="stable").tolist()
        first = [hit.index for hit in reranker.rank(QUERY, [DOCUMENTS[i] for i in order[:3]])]
        assert [hit.index for hit in result] == [order[i] for i in first] + order[3:]
        assert [hit.stage for hit in result] == ["late_interaction"] * 3 + ["vectors"] * 3
        assert [report.num_read for report in result.stages] == [6, 3]
        assert result.hits[0].scores.keys() == {"vectors", "late_interaction"}


def test_each_document_comes_back_as_it_was_given():
    given = [{"text": text, "page": i} for i, text in enumerate(DOCUMENTS)]
    hit = Search.of(reranker=Reranker()).search(QUERY, given, top_n=1).hits[0]
    assert hit.document is given[1]
    assert hit.ranked.document is given[1]


def test_first_stage_scores_order_what_no_stage_reads():
    found = Search().search(QUERY, DOCUMENTS, first_stage_scores=[1, 5, 2, 5, 3, 4], top_n=4)
    assert [hit.index for hit in found] == [1, 3, 5, 4]
    assert [hit.score for hit in found] == [5, 5, 4, 3]


def test_sources_are_joined_by_rank():
    texts = {str(i): text for i, text in enumerate(DOCUMENTS)}
    reversed_texts = dict(reversed(texts.items()))
    first, second = Bm25Source(texts), Bm25Source(reversed_texts)
    second.name = "again"
    result = Search(sources=[first, second]).search("cats live years", top_n=None)
    rankings = [[c.id for c in s.find("cats live years", 99)] for s in (first, second)]
    assert [hit.id for hit in result] == [hit.id for hit in reciprocal_rank_fusion(rankings)]
    assert [report.name for report in result.stages] == ["bm25", "again"]
    weighted = Search(sources=[first, second], weights=[1, 0]).search("cats live years")
    assert [hit.id for hit in weighted][: len(rankings[0])] == rankings[0]


@pytest.mark.parametrize("budget", [1, 7, 50, 101, 150, 202, 500])
def test_a_budget_of_pairs_is_never_overdrawn(budget):
    search, _ = slow_search(0.001, 0.002)
    result = search.search("q", NUMBERS, budget_pairs=budget, top_n=None)
    assert sum(report.num_read for report in result.stages) == min(budget, 202)
    assert len(result) == 101
    read = [report.num_read for report in result.stages]
    assert read == [min(101, budget), max(0, min(101, budget - 101))]


@pytest.mark.parametrize("budget_ms", [1, 5, 20, 100, 350, 1000, 10_000])
@pytest.mark.parametrize("seconds", [(0.001, 0.003), (0.0001, 0.02), (0.01,)])
def test_a_budget_of_milliseconds_is_kept_once_the_pace_is_known(budget_ms, seconds):
    search, _ = slow_search(*seconds)
    search.search("q", NUMBERS)
    result = search.search("q", NUMBERS, budget_ms=budget_ms, top_n=None)
    assert result.milliseconds <= budget_ms
    assert len(result) == 101
    whole = 101_000 * sum(seconds)
    assert any(report.is_cut_short for report in result.stages) or budget_ms >= whole
    if budget_ms >= 3 * whole:
        assert [report.num_read for report in result.stages] == [101] * len(seconds)


def test_an_unknown_pace_is_tried_on_a_few():
    search, _ = slow_search(0.01)
    result = search.search("q", NUMBERS, budget_ms=500)
    assert search.stages[0].scorer.calls[0] == 8
    assert result.milliseconds <= 500
    assert 20 < result.stages[0].num_read < 50


def test_a_slow_beginning_bars_no_stage_for_ever():
    search, _ = slow_search(1.0)
    search.search("q", NUMBERS[:8], budget_ms=50)
    search.stages[0].scorer.seconds = 0.001
    read = [search.search("q", NUMBERS, budget_ms=50).stages[0].num_read for _ in range(60)]
    assert read[0] == 0
    assert read[-1] > 20


def test_what_was_read_comes_first_and_the_rest_keeps_its_order():
    search, _ = slow_search(0.001)
    result = search.search("q", NUMBERS, budget_pairs=10, top_n=None)
    read = sorted(range(10), key=lambda i: -int(NUMBERS[i]))
    assert [hit.index for hit in result] == read + list(range(10, 101))
    assert [hit.stage for hit in result][9:11] == ["s0", ""]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"budget_ms": 0}, "budget_ms must be a finite number above 0"),
        ({"budget_ms": -1.5}, "budget_ms"),
        ({"budget_ms": float("nan")}, "budget_ms"),
        ({"budget_pairs": 0}, "budget_pairs must be 1 or more, not 0. Leave it out"),
        ({"budget_pairs": 1.5}, "whole number"),
        ({"top_n": 0}, "top_n"),
    ],
)
def test_a_budget_of_nothing_is_an_error(settings, message):
    with pytest.raises(ConfigError, match=message):
        Search.of(reranker=Reranker()).search(QUERY, DOCUMENTS, **settings)


def pruning(threshold, statistic="gap"):
    return Pruning(statistic, threshold, 10, 10, 0.95, 0.95, 100, 0.2)


def test_pruning_hands_on_what_lies_above_the_threshold_and_says_what_it_promises():
    clock = Clock()
    stages = [
        Stage("cheap", Slow(clock, 0.001)),
        Stage("dear", Slow(clock, 0.01, sign=-1), pruning=pruning(9)),
    ]
    result = Search(stages, clock=clock).search("q", NUMBERS, top_n=None)
    _, dear = result.stages
    assert (dear.num_given, dear.num_read, dear.num_pruned) == (10, 10, 91)
    assert dear.guarantee.startswith("Of at least 95% of questions")
    assert [int(hit.document) for hit in result][:11] == [*range(91, 101), 90]
    cut = Search(stages, clock=clock).search("q", NUMBERS, budget_pairs=50, top_n=None)
    assert cut.stages[1].guarantee == ""  # the first stage did not score all of them
    assert cut.stages[0].is_cut_short


def test_the_first_stage_prunes_by_the_scores_that_were_given():
    clock = Clock()
    stage = Stage("dear", Slow(clock, 0.01), pruning=pruning(1, "rank"))
    scores = [float(i) for i in range(101)]
    result = Search([stage], clock=clock).search("q", NUMBERS, first_stage_scores=scores)
    assert result.stages[0].num_read == 2
    assert {hit.index for hit in result.hits[:2]} == {99, 100}


def test_nothing_to_search_is_said():
    with pytest.raises(ConfigError, match="nothing to search"):
        Search().search(QUERY)
    with pytest.raises(ConfigError, match="two stages or sources are called"):
        Search([Stage("a", Slow(Clock(), 1)), Stage("a", Slow(Clock(), 1))])
    with pytest.raises(ConfigError, match="one a source"):
        Search(weights=[1.0])
    with pytest.raises(ConfigError, match="two stages"):
        Search.of(reranker=Reranker(), pruning=pruning(1))
    with pytest.raises(ConfigError, match="at_most"):
        Stage("a", Slow(Clock(), 1), 0)
    with pytest.raises(InputError, match=r"documents\[0\]"):
        Search().search(QUERY, [3])
    assert len(Search().search(QUERY, [])) == 0


def test_a_stage_that_gives_no_number_is_named():
    class Broken:
        def score(self, query, candidates):
            values = np.full(len(candidates), np.nan)
            return StageScores(values, values)

    with pytest.raises(EncoderError, match="the stage broken"):
        Search([Stage("broken", Broken())]).search(QUERY, DOCUMENTS)


def test_vectors_are_kept_by_text_up_to_a_size():
    embedder = Embedder()
    scorer = VectorScorer(embedder, cache_bytes=4 * embedder.dimensions * 4)
    candidates = [Candidate(str(i), text, text) for i, text in enumerate(DOCUMENTS)]
    first = scorer.score(QUERY, candidates)
    tokens = embedder.usage.num_tokens
    again = scorer.score(QUERY, candidates[2:])
    np.testing.assert_array_equal(first.order[2:], again.order)
    assert embedder.usage.num_tokens - tokens < 15  # the query alone
    scorer.score(QUERY, candidates[:1])
    assert embedder.usage.num_tokens - tokens > 20


def test_a_ranking_in_parts_has_the_bits_of_a_ranking_at_once():
    reranker = Reranker(row_pooling=2, row_dtype="int8", row_cache_bytes=1 << 22)
    candidates = [Candidate(str(i), text, text) for i, text in enumerate(DOCUMENTS)]
    scorer = RerankerScorer(reranker)
    whole = scorer.score(QUERY, candidates)
    for i, candidate in enumerate(candidates):
        assert scorer.score(QUERY, [candidate]).order[0] == whole.order[i]
