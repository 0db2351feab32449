from pathlib import Path

import numpy as np
import pytest

from polyrank.errors import ConfigError, EncoderError
from polyrank.evaluation import (
    Bm25Retriever,
    EmbeddingRetriever,
    EvaluationConfig,
    LogitReranker,
    evaluate,
    load_dataset,
)
from polyrank.evaluation.lexical import tokenize

SAMPLE = Path(__file__).parents[2] / "data" / "evaluation"
LANGUAGES = ("de", "en", "hi", "ja", "th", "zh")


class Trigrams:
    """A real, if simple, embedder: hashed character trigrams, counted and scaled."""

    def __init__(self):
        self.calls = []

    def encode(self, texts, *, input_type):
        self.calls.append((input_type, list(texts)))
        rows = np.zeros((len(texts), 512), np.float32)
        for row, text in zip(rows, texts, strict=True):
            folded = f" {text.casefold()} "
            for i in range(len(folded) - 2):
                row[sum(ord(char) * 31**j for j, char in enumerate(folded[i : i + 3])) % 512] += 1
            row /= np.linalg.norm(row)
        return rows


class Overlap:
    """Scores a pair by the share of the query's words in the document."""

    def __init__(self):
        self.num_pairs = 0

    def score(self, pairs):
        self.num_pairs += len(pairs)
        shares = []
        for query, document in pairs:
            asked, present = set(tokenize(query)), set(tokenize(document))
            shares.append(len(asked & present) / len(asked))
        return np.array(shares, np.float32)


class Constant:
    def score(self, pairs):
        return np.zeros(len(pairs), np.float32)


class Mirror:
    """Turns the first stage's order round."""

    def score(self, pairs):
        return np.arange(len(pairs), dtype=np.float32)


@pytest.fixture(scope="module")
def dataset():
    return load_dataset(SAMPLE)


def run(dataset, reranker=None, stage=None, progress=None, **settings):
    return evaluate(
        dataset,
        retriever=stage or EmbeddingRetriever(Trigrams()),
        reranker=reranker,
        config=EvaluationConfig(**settings),
        progress=progress,
    )


def test_same_language_is_the_default_and_finds_the_passages(dataset):
    report = run(dataset)
    assert report.mode == "same"
    assert [group.label for group in report.groups] == list(LANGUAGES)
    assert {group.num_documents for group in report.groups} == {4}
    assert report.mean(lambda group: group.first_stage)["nDCG@10"].mean > 0.9
    assert not report.is_reranked
    assert report.mean(lambda group: group.reranked) == {}


def test_bm25_with_a_reranker(dataset):
    reranker = Overlap()
    report = run(dataset, reranker, Bm25Retriever(), mode="pool", top_k=3)
    assert report.is_reranked
    assert report.timings["rerank"].count == reranker.num_pairs > 0
    assert report.timings["index documents"].count == 24
    for group in report.groups:
        assert group.num_documents == 24
        assert group.difference.per_query["R@3"].tolist() == [0] * 4  # the same documents


def test_each_text_is_embedded_once_however_many_pairs(dataset):
    embedder = Trigrams()
    report = run(dataset, stage=EmbeddingRetriever(embedder), mode="cross")
    assert len(report.groups) == 30
    assert report.groups[0].label == "de→en"
    for kind in ("query", "document"):
        texts = [text for asked, block in embedder.calls if asked == kind for text in block]
        assert len(texts) == 24  # 4 in each of 6 languages


def test_cross_agrees_with_measuring_the_pair_alone(dataset):
    whole = run(dataset, mode="cross")
    alone = run(dataset, mode="cross", query_languages=("ja",), document_languages=("zh",))
    (pair,) = alone.groups
    same = next(group for group in whole.groups if group.label == "ja→zh")
    assert pair.query_ids == same.query_ids
    for name, values in pair.first_stage.per_query.items():
        assert (values == same.first_stage.per_query[name]).all()


def test_equal_scores_keep_the_order_of_the_first_stage(dataset):
    report = run(dataset, Constant())
    for group in report.groups:
        assert group.difference.per_query["nDCG@10"].tolist() == [0] * 4


def test_the_reranker_decides(dataset):
    # one query, so that scores rising along the pairs reverse its candidates
    report = run(dataset, Mirror(), max_queries=1, query_languages=("en",))
    (group,) = report.groups
    assert group.first_stage.per_query["RR@10"].tolist() == [1]
    assert group.reranked.per_query["RR@10"].tolist() == [1 / 4]


def test_all_mode_without_languages(dataset, tmp_path):
    (tmp_path / "corpus.jsonl").write_text('{"_id": "a", "text": "cats"}\n')
    (tmp_path / "queries.jsonl").write_text(
        '{"_id": "q", "text": "cats?"}\n{"_id": "unjudged", "text": "dogs?"}\n'
    )
    (tmp_path / "qrels.tsv").write_text("q\ta\t1\n")
    plain = load_dataset(tmp_path)
    report = run(plain)
    assert report.mode == "all"
    assert [group.label for group in report.groups] == ["all"]
    assert report.groups[0].num_dropped_queries == 1
    with pytest.raises(ConfigError, match="names no languages"):
        run(plain, mode="same")
    assert run(dataset, mode="all").groups[0].num_documents == 24


def test_samples_are_seeded_and_parallel_across_languages(dataset):
    one = run(dataset, max_queries=2, seed=3)
    assert [group.query_ids for group in one.groups] == [
        group.query_ids for group in run(dataset, max_queries=2, seed=3).groups
    ]
    topics = {tuple(name.split("-")[1] for name in group.query_ids) for group in one.groups}
    assert len(topics) == 1
    assert len({run(dataset, max_queries=2, seed=s).groups[0].query_ids for s in range(8)}) > 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"query_languages": ("xx",)}, "has no queries in xx. It has de, en"),
        ({"document_languages": ("en", "yy")}, "has no documents in yy"),
        ({"mode": "cross", "query_languages": ("en",), "document_languages": ("en",)}, "nothing"),
        ({"mode": "sideways"}, "mode must be one of"),
        ({"top_k": 0}, "top_k must be 1 or more, not 0"),
        ({"max_queries": 0}, "max_queries must be 1 or more"),
    ],
)
def test_settings_that_make_no_sense(dataset, settings, said):
    with pytest.raises(ConfigError, match=said):
        run(dataset, **settings)


@pytest.mark.parametrize("scores", [np.zeros(1), np.zeros((4, 1)), np.full(16, np.nan)])
def test_bad_scores_are_refused(dataset, scores):
    class Broken:
        def score(self, pairs):
            return scores

    with pytest.raises(EncoderError, match="one finite score a pair"):
        run(dataset, Broken())


def test_logits_rank_where_scores_would_tie():
    class Saturated:
        def score(self, pairs, *, logits=False):
            raw = np.arange(len(pairs), dtype=np.float32) + 30
            return raw if logits else np.ones(len(pairs), np.float32)

    scores = LogitReranker(Saturated()).score([("q", "a"), ("q", "b")])
    assert scores.tolist() == [30, 31]


@pytest.mark.parametrize("reranker", [None, Overlap()])
def test_progress_reaches_the_end_of_every_step(dataset, reranker):
    calls = []
    run(dataset, reranker, progress=lambda *call: calls.append(call), mode="cross")
    last = {step: (done, total) for step, done, total in calls}
    assert last == {"documents": (24, 24), "queries": (24, 24), "rankings": (120, 120)}
