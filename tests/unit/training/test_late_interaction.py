import json
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from polyrank import Classifier, Embedder, Reranker
from polyrank.checkpoint.reader import read_checkpoint
from polyrank.config import EngineConfig
from polyrank.errors import CapabilityError, ConfigError, DataError
from polyrank.inference.model import load_model
from polyrank.tasks.heads import Head
from polyrank.tasks.late_interaction import LateInteractionScorer
from polyrank.training.config import DataSource
from polyrank.training.data.reading import read_mixture
from polyrank.training.data.sampling import Drawer
from polyrank.training.data.schedule import plan_draws
from polyrank.training.late_interaction import train as training
from polyrank.training.late_interaction.fit import _Heads, fit_heads
from polyrank.training.late_interaction.settings import LateInteractionConfig, LateInteractionJob
from polyrank.training.late_interaction.token_rows import (
    FEATURES,
    RERANK_FEATURES,
    Examples,
    RowReader,
    language_directions,
)
from polyrank.training.late_interaction.train import collect, train_late_interaction
from tests.toys import MARK, marked_rows, write_lines

WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    """Marked rows, and "translations": the same words with a word of each language beside them."""
    folder = tmp_path_factory.mktemp("toys")
    write_lines(folder / "rows.jsonl", marked_rows(60))
    rows = [
        {"id": i, "src": f"{word} plain", "tgt": f"{word} {mark}", "lang": code}
        for code, mark in (("de", "Jahre"), ("fr", "ans"))
        for i, word in enumerate(WORDS)
    ]
    write_lines(folder / "translations.jsonl", rows)
    return folder


def job_for(toys, start, output, **settings):
    given = {"lists": 60, "directions": 1, "epochs": 3, "batch_size": 16, "max_length": 24}
    data = (DataSource(toys / "rows.jsonl"), DataSource(toys / "translations.jsonl"))
    config = LateInteractionConfig(**given | {"compute_dtype": "float32", **settings})
    return LateInteractionJob(str(start), data, output, config, miner=str(start))


@pytest.fixture(scope="module")
def trained(request, toys, tmp_path_factory):
    checkpoint = request.getfixturevalue("checkpoint")
    output = tmp_path_factory.mktemp("late") / "out"
    record = train_late_interaction(job_for(toys, checkpoint("multilingual-e5-small"), output))
    return output, record


def test_an_embedder_learns_two_more_tasks_and_keeps_its_vectors(checkpoint, trained):
    folder, record = trained
    opened = read_checkpoint(folder)
    assert set(opened.spec.heads) == {"rerank", "classify", "embed"}
    assert opened.spec.heads["classify"].late_interaction.features == FEATURES
    assert opened.spec.heads["rerank"].late_interaction.features == RERANK_FEATURES
    assert json.loads((folder / "training.json").read_text("utf8")) == record
    assert record["evaluations"][-1].keys() == {"epoch", "ranking", "bce", "classes"}
    texts = ["cats", f"does {MARK}", "Jahre"]
    before = Embedder(checkpoint("multilingual-e5-small")).encode(texts)
    assert np.array_equal(Embedder(folder).encode(texts), before)
    theirs = SentenceTransformer(str(folder), device="cpu").encode(texts)
    assert np.abs(theirs - before).max() < 1e-5
    scores = Reranker(folder).score([("cats", "cats eat"), ("cats", "none of it")])
    assert ((scores > 0) & (scores < 1)).all()
    found = Classifier(folder).classify([("cats", "cats eat")])
    assert set(found[0].probabilities) == {"irrelevant", "neutral", "relevant"}


def test_the_same_seed_makes_the_same_folder(checkpoint, toys, trained, tmp_path):
    folder, _ = trained
    train_late_interaction(job_for(toys, checkpoint("multilingual-e5-small"), tmp_path / "again"))
    ours, theirs = (read_checkpoint(path).weights for path in (folder, tmp_path / "again"))
    names = [name for name in ours if name.startswith("heads.")]
    assert names
    for name in names:
        np.testing.assert_allclose(ours.get_float32(name), theirs.get_float32(name), atol=1e-5)


def test_directions_are_those_in_which_languages_differ(checkpoint, toys):
    """Taken out, texts of the same words in two languages come nearer to each other."""
    model = load_model(checkpoint("multilingual-e5-small"), EngineConfig(compute_dtype="float32"))
    reader = RowReader(model, 24)
    sources = read_mixture([DataSource(toys / "translations.jsonl")])
    directions = language_directions(sources, reader, 5, 0, lambda *_: None)
    assert directions.shape == (2, reader.width)  # three languages differ in two directions
    np.testing.assert_allclose(directions @ directions.T, np.eye(2), atol=1e-5)

    def spread(rows):
        """Distance of the means of two languages, relative to that of single texts."""
        german, french = (
            np.stack([part.mean(axis=0) for part in reader.own_rows([f"{w} {m}" for w in WORDS])])
            @ rows
            for m in ("Jahre", "ans")
        )
        apart = np.linalg.norm(german.mean(axis=0) - french.mean(axis=0))
        return apart / np.linalg.norm(german - german.mean(axis=0))

    everything = np.eye(reader.width, dtype=np.float32)
    assert spread(everything - directions.T @ directions) < 0.1 * spread(everything)
    rows_alone = read_mixture([DataSource(toys / "rows.jsonl")])
    assert language_directions(rows_alone, reader, 5, 0, lambda *_: None).shape[0] == 0


def test_the_folder_scores_as_the_fitted_layers_do(trained):
    """The scaling of features is folded into the layers; token weights go through softplus."""
    folder, _ = trained
    model = load_model(str(folder), EngineConfig(compute_dtype="float32"))
    generator = np.random.default_rng(0)
    pairs = [("cats eat", "cats eat fish"), ("cats eat", "dogs"), ("a b c", "c d")]
    head = model.computations.head("classify")
    scorer = LateInteractionScorer(
        RowReader(model, 24)._builder, head, model.computations.head("embed"), model.spec.prompts
    )
    plan = scorer.prepare(pairs)
    rows = model.engine.run(plan.batch, (), scorer.width)
    compared, features = scorer.compare(plan, rows), scorer.features(plan, rows)
    longest = int(compared.sizes.max())
    matches = np.zeros((3, longest), np.float32)
    queries = np.zeros((3, longest, scorer.width), np.float32)
    starts = np.cumsum([0, *compared.sizes])
    for i, (start, end) in enumerate(compared.given.queries):
        matches[i, : end - start] = compared.by_query[starts[i] : starts[i + 1]]
        queries[i, : end - start] = compared.given.clean[start:end]
    examples = Examples(
        features=generator.normal(size=(9, len(FEATURES) - 1)).astype(np.float32),
        matches=np.zeros((9, 4), np.float32),
        grades=np.zeros(9, np.int64),
        is_labelled=np.ones(9, bool),
        list_starts=np.array([0, 9]),
        query_rows=queries[0],
        query_starts=np.array([0, longest]),
    )
    fitted = _Heads(examples, LateInteractionConfig(length_weight=0.3))
    with torch.no_grad():
        fitted.tokens.weight.normal_()
        fitted.rerank.bias.fill_(0.3)
        is_token = torch.from_numpy(np.arange(longest)[None] < compared.sizes[:, None]).float()
        logits, classes = fitted(
            torch.from_numpy(queries),
            is_token,
            torch.arange(3),
            torch.from_numpy(matches),
            torch.from_numpy(features[:, 1:]),
        )
    tensors = fitted.tensors()
    weights = (
        np.logaddexp(
            0,
            queries @ tensors["heads.late_interaction.tokens.weight"][0]
            + tensors["heads.late_interaction.tokens.bias"],
        )
        * is_token.numpy()
    )
    sharp = np.maximum(matches, 0) ** 1.5
    match = (weights * sharp).sum(axis=1) / weights.sum(axis=1)
    lengths = features[:, FEATURES.index("document_length")]
    got = np.column_stack([match, lengths]) @ tensors["heads.late_interaction.rerank.0.weight"][0]
    got += tensors["heads.late_interaction.rerank.0.bias"][0]
    np.testing.assert_allclose(got, logits.numpy(), atol=1e-4)
    given = np.column_stack([match, features[:, 1:]])
    layers = [
        type(layer)(
            tensors[f"heads.late_interaction.classify.{i}.weight"],
            tensors[f"heads.late_interaction.classify.{i}.bias"],
            layer.nonlinearity,
        )
        for i, layer in enumerate(head.layers)
    ]
    replaced = Head(head.spec, tuple(layers), head.in_features, head.late_interaction)
    np.testing.assert_allclose(replaced(given.astype(np.float32)), classes.numpy(), atol=1e-4)


def test_fitting_finds_what_tells_relevant_passages_apart():
    """Query tokens of one kind match only relevant passages, those of the other all alike."""
    generator = np.random.default_rng(1)
    num_lists, width = 300, 8
    grades = np.tile([2, 1, 0, 0], num_lists)
    telling = np.where(grades == 2, 0.9, np.where(grades == 1, 0.6, 0.3))
    noise = generator.uniform(0, 1, (len(grades), 3))
    kinds = np.eye(width, dtype=np.float32)[[0, 1, 1, 1]]
    examples = Examples(
        features=generator.normal(size=(len(grades), len(FEATURES) - 1)).astype(np.float32),
        matches=np.column_stack([telling, noise]).astype(np.float32),
        grades=grades,
        is_labelled=np.ones(len(grades), bool),
        list_starts=np.arange(0, len(grades) + 1, 4),
        query_rows=np.tile(kinds, (num_lists, 1)),
        query_starts=np.arange(0, num_lists * 4 + 1, 4),
    )
    config = LateInteractionConfig(epochs=60, batch_size=32)
    tensors, course = fit_heads(examples, config, lambda *_: None)
    token_weights = np.logaddexp(
        0,
        kinds @ tensors["heads.late_interaction.tokens.weight"][0]
        + tensors["heads.late_interaction.tokens.bias"],
    )
    assert token_weights[0] > 4 * token_weights[1]
    assert course[-1]["ranking"] < 0.5 * course[0]["ranking"]


def test_translations_and_mined_negatives_have_no_class(checkpoint, toys, monkeypatch):
    monkeypatch.setattr(training, "_ONE_TOPIC", 2.0)
    config = LateInteractionConfig(
        lists=30, hard_negatives=1, random_negatives=1, neutrals=1, shortened=0
    )
    sources = read_mixture([DataSource(toys / n) for n in ("rows.jsonl", "translations.jsonl")])
    schedule = plan_draws(sources, config.drawing)
    reader = RowReader(load_model(checkpoint("multilingual-e5-small"), EngineConfig()), 24)
    scorer = reader.scorer(np.zeros(reader.width, "f4"), np.empty((0, reader.width), "f4"))
    drawer = Drawer(sources, schedule, config.drawing)
    of_sources = np.array([source.is_translation for source in sources])
    translated = of_sources[schedule.source_of]
    assert 0 < translated.sum() < 30
    given = (drawer, schedule.source_of, of_sources, reader, scorer, config)
    found = collect(*given, lambda *_: None)
    num_labelled = 0
    for is_translation, (start, end) in zip(translated, pairwise(found.list_starts), strict=True):
        grades, is_labelled = found.grades[start:end], found.is_labelled[start:end]
        if is_translation:
            assert not is_labelled.any()
        else:  # of two irrelevant passages the given one comes first, the random one last
            assert is_labelled.tolist() == [
                g != 0 or i == len(grades) - 1 for i, g in enumerate(grades)
            ]
            num_labelled += 1
    assert num_labelled
    assert np.isfinite(found.features).all()


def test_lists_come_a_second_time_with_short_passages(checkpoint, toys):
    reader = RowReader(load_model(checkpoint("multilingual-e5-small"), EngineConfig()), 24)
    scorer = reader.scorer(np.zeros(reader.width, "f4"), np.empty((0, reader.width), "f4"))
    found = {}
    for share in (0.0, 1.0):
        config = LateInteractionConfig(lists=8, hard_negatives=0, shortened=share)
        sources = read_mixture([DataSource(toys / "rows.jsonl")])
        schedule = plan_draws(sources, config.drawing)
        drawer = Drawer(sources, schedule, config.drawing)
        given = (drawer, schedule.source_of, np.zeros(1, bool), reader, scorer, config)
        found[share] = collect(*given, lambda *_: None)
    assert np.array_equal(found[1.0].grades, np.tile(found[0.0].grades, 2))
    assert np.array_equal(found[1.0].is_labelled, np.tile(found[0.0].is_labelled, 2))
    assert np.array_equal(found[1.0].features[: len(found[0.0].grades)], found[0.0].features)


@pytest.mark.parametrize("limit", [-2.0, 2.0])
def test_irrelevant_passages_of_one_topic_have_no_class(checkpoint, toys, monkeypatch, limit):
    monkeypatch.setattr(training, "_ONE_TOPIC", limit)
    reader = RowReader(load_model(checkpoint("multilingual-e5-small"), EngineConfig()), 24)
    scorer = reader.scorer(np.zeros(reader.width, "f4"), np.empty((0, reader.width), "f4"))
    config = LateInteractionConfig(lists=8, hard_negatives=0)
    sources = read_mixture([DataSource(toys / "rows.jsonl")])
    schedule = plan_draws(sources, config.drawing)
    drawer = Drawer(sources, schedule, config.drawing)
    given = (drawer, schedule.source_of, np.zeros(1, bool), reader, scorer, config)
    found = collect(*given, lambda *_: None)
    is_one_topic = limit < 0  # the mean cosine of all sources is above it
    assert found.is_labelled[found.grades == 0].any() == (not is_one_topic)
    assert found.is_labelled[found.grades != 0].all()


def test_what_all_queries_share_is_taken_out(checkpoint, trained):
    """Queries and passages of the same words are as far apart as their prompts move them."""
    folder, _ = trained
    head = Head.load(read_checkpoint(folder), read_checkpoint(folder).spec.heads["rerank"])
    directions = head.late_interaction.directions
    np.testing.assert_allclose(directions @ directions.T, np.eye(len(directions)), atol=1e-5)
    model = load_model(checkpoint("multilingual-e5-small"), EngineConfig(compute_dtype="float32"))
    reader = RowReader(model, 24)
    means = [
        np.concatenate(reader.own_rows(WORDS, are_queries=asked)).mean(axis=0)
        for asked in (False, True)
    ]
    apart = means[1] - means[0]
    left = apart - (apart @ directions.T) @ directions
    assert np.linalg.norm(left) < 0.5 * np.linalg.norm(apart)


def test_classes_weigh_the_same_however_often_they_occur():
    generator = np.random.default_rng(2)
    grades = np.array([2] + [1] * 3 + [0] * 12)
    examples = Examples(
        features=generator.normal(size=(16, len(FEATURES) - 1)).astype(np.float32),
        matches=generator.uniform(size=(16, 2)).astype(np.float32),
        grades=grades,
        is_labelled=grades < 2,
        list_starts=np.array([0, 16]),
        query_rows=np.ones((2, 4), np.float32),
        query_starts=np.array([0, 2]),
    )
    weights = _Heads(examples, LateInteractionConfig()).class_weights.numpy()
    assert weights[1] * 3 == pytest.approx(weights[0] * 12)
    assert np.isfinite(weights).all()


def test_what_cannot_be_trained_is_said(checkpoint, toys, tmp_path):
    with pytest.raises(CapabilityError, match="cannot learn late interaction"):
        train_late_interaction(job_for(toys, checkpoint("bge-reranker-base"), tmp_path / "out"))
    (tmp_path / "there").mkdir()
    with pytest.raises(ConfigError, match="exists already"):
        train_late_interaction(
            job_for(toys, checkpoint("multilingual-e5-small"), tmp_path / "there")
        )
    with pytest.raises(ConfigError, match="lists must be 1 or more"):
        LateInteractionConfig(lists=0)
    alone = write_lines(tmp_path / "alone.jsonl", [{"query": "a", "positives": ["b", "c"]}])
    job = LateInteractionJob(
        str(checkpoint("multilingual-e5-small")),
        (DataSource(alone),),
        tmp_path / "out",
        LateInteractionConfig(lists=4, hard_negatives=0),
    )
    with pytest.raises(DataError, match="two passages"):
        train_late_interaction(job)
    assert not (tmp_path / "out").exists()


def test_the_command_trains(checkpoint, toys, tmp_path):
    start = str(checkpoint("multilingual-e5-small"))
    arguments = [
        "train",
        "late-interaction",
        start,
        "-d",
        str(toys / "rows.jsonl"),
        "--set",
        "lists=40",
    ]
    arguments += ["-o", str(tmp_path / "out"), "--set", f"miner={start}", "--epochs", "1"]
    command = [sys.executable, "-m", "polyrank", *arguments]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    facts = json.loads(found.stdout)
    assert facts["folder"] == str(tmp_path / "out")
    assert Reranker(facts["folder"]).rank("cats", ["dogs", "cats eat"])[0].document


def test_a_long_document_must_match_better(toys, checkpoint, trained, tmp_path):
    """The rerank head takes length_weight times the logarithm of the length from the match."""
    folder, _ = trained
    start = checkpoint("multilingual-e5-small")
    train_late_interaction(job_for(toys, start, tmp_path / "out", length_weight=0.25))
    for path, length_weight in ((folder, 0.008), (tmp_path / "out", 0.25)):
        of_match, of_length = (
            Head.load(read_checkpoint(path), read_checkpoint(path).spec.heads["rerank"])
            .layers[0]
            .weight[0]
        )
        assert of_match > 0
        assert of_length == pytest.approx(-length_weight * of_match, rel=1e-5)


@pytest.mark.parametrize("length_weight", [-0.1, float("inf"), float("nan")])
def test_length_weights_out_of_range(length_weight):
    with pytest.raises(ConfigError, match="length_weight must be 0 or more"):
        LateInteractionConfig(length_weight=length_weight)
