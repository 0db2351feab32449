"""Learning what first-stage scores count for."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from scipy.optimize import minimize
from scipy.special import log_softmax
from typer.testing import CliRunner

from polyrank import Reranker
from polyrank.checkpoint.first_stage import FIRST_STAGE_KEY
from polyrank.checkpoint.reader import read_checkpoint
from polyrank.cli.app import app
from polyrank.errors import ConfigError, DataError, TrainingError
from polyrank.tasks.first_stage import standardized
from polyrank.training.config import DataSource, TrainingConfig
from polyrank.training.data.source import Example, SourcePassage, TrainingSource
from polyrank.training.finetune.start import load_start
from polyrank.training.first_stage.fit import (
    RankedCandidates,
    figures,
    fit_weight,
    held_out_weights,
)
from polyrank.training.first_stage.learn import (
    WEIGHTS_RECORD_FILE,
    draw_pools,
    learn_first_stage_weights,
)
from polyrank.training.first_stage.settings import FirstStageWeightConfig, FirstStageWeightJob
from tests.checkpoints import late_interaction
from tests.toys import WORDS, marked_beir, write_lines

Checkpoint = Callable[[str], Path]


def question(generator, source="a", *, logit=1.0, found=1.0, count=20, scale=1.0):
    """One of `count` candidates answers, which logit and first stage tell with some noise."""
    is_answer = np.arange(count) == generator.integers(count)
    logits = scale * (logit * is_answer * 2 + generator.normal(size=count))
    scores = standardized(found * is_answer * 2 + generator.normal(size=count))
    order = np.argsort(-scores, kind="stable")
    return RankedCandidates(
        source, "en", np.float32(logits)[order], scores[order], is_answer[order], 1
    )


def questions(count=200, seed=0, **settings):
    generator = np.random.default_rng(seed)
    return [question(generator, **settings) for _ in range(count)]


def test_the_weight_has_the_least_cross_entropy():
    asked = questions()

    def loss(multipliers):
        return -np.mean(
            [log_softmax(multipliers @ [q.logits, q.found])[q.is_answer].mean() for q in asked]
        )

    alpha, beta = minimize(loss, [1.0, 1.0], tol=1e-10).x
    assert fit_weight(asked, {"a": 1.0}) == pytest.approx(beta / alpha, rel=2e-3)


def test_the_weight_is_in_logits():
    weight = fit_weight(questions(), {"a": 1.0})
    assert fit_weight(questions(scale=8.0), {"a": 1.0}) == pytest.approx(8 * weight, rel=1e-4)


def test_a_first_stage_counts_for_as_much_as_it_tells():
    strong, weak = (fit_weight(questions(found=found), {"a": 1.0}) for found in (2.0, 0.3))
    assert strong > 2 * weak > 0
    assert fit_weight(questions(found=-1.0), {"a": 1.0}) == 0


def test_every_source_weighs_the_same_or_as_given():
    alone = fit_weight(questions(found=0.0, seed=1, source="b"), {"b": 1.0})
    strong = fit_weight(questions(40, found=2.0), {"a": 1.0})
    both = questions(40, found=2.0) + questions(found=0.0, seed=1, source="b")
    even = fit_weight(both, {"a": 1.0, "b": 1.0, "other": 1.0})
    tilted = fit_weight(both, {"a": 9.0, "b": 1.0})
    assert alone < even < tilted < strong
    assert fit_weight(both, {"a": 1e9, "b": 1.0}) == pytest.approx(strong, rel=0.01)


def test_a_reranker_that_tells_nothing_is_refused():
    with pytest.raises(TrainingError, match="do not tell answers"):
        fit_weight(questions(logit=-1.0), {"a": 1.0})


def test_answers_told_apart_without_doubt_leave_a_finite_weight():
    is_answer = np.arange(5) == 0
    sure = RankedCandidates("a", "en", np.float32(is_answer), standardized(is_answer), is_answer, 1)
    assert 0 < fit_weight([sure] * 3, {"a": 1.0}) < 10


def test_several_answers_and_equal_logits():
    is_answer = np.array([True, True, False, False])
    flat = RankedCandidates(
        "a", "en", np.zeros(4, np.float32), standardized([4, 3, 2, 1]), is_answer, 2
    )
    found = fit_weight([flat, *questions(10)], {"a": 1.0})
    assert np.isfinite(found)


def test_weights_are_judged_on_sources_they_were_not_learnt_on():
    asked = questions(50) + questions(50, seed=1, source="b")
    by, weights = held_out_weights(asked, {"a": 1.0, "b": 1.0})
    assert by == "source"
    assert set(weights[:50]) == {fit_weight(asked[50:], {"b": 1.0})}
    assert set(weights[50:]) == {fit_weight(asked[:50], {"a": 1.0})}
    by, weights = held_out_weights(asked[:50], {"a": 1.0})
    assert by == "fifth of the questions"
    assert len(set(weights)) == 5
    assert weights[0] == fit_weight([q for i, q in enumerate(asked[:50]) if i % 5], {"a": 1.0})
    assert held_out_weights(asked[:1], {"a": 1.0}) == ("fifth of the questions", [None])


def test_figures_count_answers_that_were_not_found():
    is_answer = np.array([False, True, False])
    logits = np.float32([0, 1, 2])
    found = standardized([3, 2, 1])
    asked = [
        RankedCandidates("a", "en", logits, found, is_answer, 1),
        RankedCandidates("a", "en", logits[:2], found[:2], np.zeros(2, bool), 1),
        RankedCandidates("a", "en", logits[:0], found[:0], np.zeros(0, bool), 2),
        RankedCandidates("b", "", logits, found, is_answer, 2),
    ]
    shown = figures(asked, [0.9, 0.9, 0.9, None])
    second = 1 / np.log2(3)
    a, b = shown["groups"]
    assert (a["num_questions"], a["num_found"], a["held_out_weight"]) == (3, 1, 0.9)
    assert a["first_stage"] == pytest.approx(second / 3, abs=1e-4)
    assert a["reranked"] == pytest.approx(second / 3, abs=1e-4)
    assert a["blended"] == pytest.approx(second / 3, abs=1e-4)
    assert b["reranked"] == pytest.approx(second / (1 + second), abs=1e-4)
    assert b["held_out_weight"] is None
    assert shown["mean"]["reranked"] == pytest.approx((a["reranked"] + b["reranked"]) / 2, abs=1e-4)


def source(num_passages=120, **changes):
    passages = [SourcePassage({"en": f"passage {i}"}, "") for i in range(num_passages)]
    examples = [Example({"en": f"question {i}"}, (i,)) for i in range(40)]
    settings = {"passages": tuple(passages), "examples": tuple(examples), **changes}
    return TrainingSource("set", "qa", sha256="", **settings)


def test_pools_hold_the_answers_in_their_order():
    config = FirstStageWeightConfig(queries=10, passages=50)
    (pool,) = draw_pools([source()], config)
    assert (len(pool.passages), len(pool.questions), pool.num_usable) == (50, 10, 40)
    for asked, answers in zip(pool.questions, pool.answers, strict=True):
        (place,) = answers
        assert pool.passages[place] == asked.replace("question", "passage")
    numbers = [int(text.split()[1]) for text in pool.passages]
    assert numbers == sorted(numbers)
    assert draw_pools([source()], config) == [pool]
    assert draw_pools([source()], FirstStageWeightConfig(queries=10, passages=50, seed=1)) != [pool]
    (small,) = draw_pools([source()], FirstStageWeightConfig(queries=10, passages=5))
    assert len(small.passages) == 10


def test_repeated_texts_are_one():
    passages = tuple(SourcePassage({"en": f"passage {i // 2}"}, "") for i in range(240))
    examples = (Example({"en": "what?"}, (0,)), Example({"en": "what?"}, (5, 4)))
    (pool,) = draw_pools([source(passages=passages, examples=examples)], FirstStageWeightConfig())
    assert len(pool.passages) == 120
    assert pool.questions == ("what?",)
    assert pool.answers == (frozenset({0, 2}),)


def test_sources_without_enough_are_left_out():
    parallel = source(
        passages=tuple(SourcePassage({"en": f"p {i}", "de": f"q {i}"}, "") for i in range(120))
    )
    silent = source(examples=(Example({"en": "who?"}, ()), Example({"de": "wer?"}, (1,))))
    assert len(draw_pools([parallel, source(99), silent, source()], FirstStageWeightConfig())) == 1
    with pytest.raises(DataError, match="100 passages in one language"):
        draw_pools([parallel, source(99), silent], FirstStageWeightConfig())


@pytest.mark.parametrize("name", ["queries", "candidates", "passages", "least_passages", "seed"])
def test_settings_out_of_range(name):
    with pytest.raises(ConfigError, match=name):
        FirstStageWeightConfig(**{name: -1})


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Passages with one to three of a question's words; glued together, BM25 sees them not."""
    draw = random.Random(0)
    found = []
    for i in range(60):
        one, two, three, *others = draw.sample(WORDS, 9)
        answer = [one, two, three] if i % 2 else [one, two + three]
        negatives = [[two, *others[:2]], [three, *others[2:4]], [one, *others[4:]]]
        if i % 3 == 0:
            negatives.append([two, three, others[0]])
        found.append(
            {
                "query": f"{one} {two} {three}",
                "positives": [" ".join(answer)],
                "negatives": [" ".join(words) for words in negatives],
            }
        )
    return write_lines(tmp_path_factory.mktemp("data") / "rows.jsonl", found)


@pytest.fixture
def folder(checkpoint: Checkpoint, tmp_path: Path) -> Path:
    """An embedder that also reranks, by 20 times the mean best match of the query's tokens."""
    name = "multilingual-e5-small"
    made = late_interaction(
        Path(shutil.copytree(checkpoint(name), tmp_path / name)),
        features=["plain_match"],
        directions=None,
    )
    weights, config = made / "model.safetensors", json.loads((made / "config.json").read_text())
    tensors = load_file(weights) | {"heads.rerank.weight": np.float32([[20]])}
    save_file(tensors | {"heads.match.center": np.zeros(64, np.float32)}, weights)
    config["polyrank_heads"]["rerank"]["layers"] = [{"weight": "heads.rerank.weight"}]
    (made / "config.json").write_text(json.dumps(config))
    return made


def job(model, *paths, **settings):
    config = FirstStageWeightConfig(queries=40, candidates=20)
    return FirstStageWeightJob(
        str(model), tuple(DataSource(path) for path in paths), config, **settings
    )


def test_weights_are_learnt_and_written(folder, rows):
    steps = []
    before = json.loads((folder / "config.json").read_text())
    record = learn_first_stage_weights(job(folder, rows), progress=lambda *step: steps.append(step))
    learnt = read_checkpoint(folder).spec.first_stage_weights
    assert set(learnt) == {"lexical", "dense"}
    assert learnt["lexical"] > 0
    assert learnt == record["weights"]
    config = json.loads((folder / "config.json").read_text())
    assert config.pop(FIRST_STAGE_KEY) == learnt
    assert config == before
    written = (folder / WEIGHTS_RECORD_FILE).read_text("utf8")
    assert json.loads(written) == record
    assert str(folder.parent) not in written
    assert record["data"][0]["num_lists"] == 40
    assert record["data"][0]["num_usable"] == 60
    lexical = record["first_stages"]["lexical"]
    assert lexical["held_out_by"] == "fifth of the questions"
    assert lexical["mean"]["blended"] >= lexical["mean"]["reranked"]
    done = {step: (count, total) for step, count, total in steps}
    assert done == {"passages": (518, 518), "questions": (40, 40)}
    hits = Reranker(folder).rank("cats", ["a", "b"], first_stage_scores=[1, 2])
    assert len(hits) == 2


def test_learning_again_gives_the_same_and_keeps_what_is_not_learnt(checkpoint, folder, rows):
    first = learn_first_stage_weights(job(folder, rows, row_cache_bytes=10**8))
    again = learn_first_stage_weights(job(folder, rows))
    assert again["weights"] == first["weights"] == again["weights_before"]
    plain = Path(shutil.copytree(checkpoint("multilingual-e5-small"), folder.parent / "plain"))
    config = json.loads((plain / "config.json").read_text())
    (plain / "config.json").write_text(json.dumps(config | {FIRST_STAGE_KEY: {"dense": 0.25}}))
    record = learn_first_stage_weights(job(plain, rows))
    assert set(record["first_stages"]) == {"lexical"}
    assert read_checkpoint(plain).spec.first_stage_weights == record["weights"]
    assert record["weights"]["dense"] == 0.25


def test_another_model_can_be_the_dense_first_stage(checkpoint, folder, rows):
    other = checkpoint("multilingual-e5-large")
    record = learn_first_stage_weights(
        job(folder, rows, retriever_model=str(other), is_dry_run=True)
    )
    assert record["retriever_model"] == "multilingual-e5-large"
    assert set(record["weights"]) == {"lexical", "dense"}


def test_an_embedder_is_not_blended_with_itself(checkpoint, rows):
    folder = checkpoint("multilingual-e5-small")
    record = learn_first_stage_weights(job(folder, rows, is_dry_run=True))
    assert set(record["weights"]) == {"lexical"}
    assert not (folder / WEIGHTS_RECORD_FILE).exists()
    assert read_checkpoint(folder).spec.first_stage_weights == {}


def test_what_cannot_be_written_to_is_refused_before_the_work(rows, tmp_path):
    with pytest.raises(ConfigError, match="not a folder"):
        learn_first_stage_weights(job("some/model", rows))
    with pytest.raises(ConfigError, match="--data"):
        learn_first_stage_weights(job(tmp_path))
    with pytest.raises(ConfigError, match="the default model is not a folder"):
        learn_first_stage_weights(
            FirstStageWeightJob(None, (DataSource(rows),), FirstStageWeightConfig())
        )


def call(*arguments: object):
    result = CliRunner().invoke(app, ["train", "first-stage-weight", *map(str, arguments)])
    if result.exception is not None:
        raise result.exception
    return result


def test_a_first_stage_that_finds_no_answer_keeps_its_weight(checkpoint, folder, rows, tmp_path):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {FIRST_STAGE_KEY: {"lexical": 0.75}}))
    found = [json.loads(line) for line in rows.read_text().splitlines()]
    for row in found:
        row["query"] = row["query"].replace(" ", "")  # no word that BM25 could look up
    glued = write_lines(tmp_path / "glued.jsonl", found)
    done = call(folder, "-d", glued, "--queries", 40, "--set", "candidates=20")
    record = json.loads(done.stdout)
    assert set(record["first_stages"]) == {"dense"}
    assert "none of 40 questions has its answer" in record["not_learnt"]["lexical"]
    assert "no weight for lexical first stages" in done.stderr
    assert read_checkpoint(folder).spec.first_stage_weights == record["weights"]
    assert record["weights"]["lexical"] == 0.75
    with pytest.raises(DataError, match="none of 40 questions"):
        learn_first_stage_weights(job(checkpoint("multilingual-e5-small"), glued, is_dry_run=True))


def test_the_command_learns_and_tells(folder, rows):
    options = ["-d", f"{rows}:2", "--queries", 20]
    options += ["--set", "candidates=10", "--set", "passages=150"]
    looked = call(folder, *options, "--dry-run")
    assert "nothing was written" in looked.stderr
    assert FIRST_STAGE_KEY not in json.loads((folder / "config.json").read_text())
    done = call(folder, *options)
    record = json.loads(done.stdout)
    assert record["weights"] == json.loads(looked.stdout)["weights"]
    assert record["settings"]["passages"] == 150
    assert "first_stage_weights.json there" in done.stderr.replace("\n", " ")
    assert read_checkpoint(folder).spec.first_stage_weights == record["weights"]
    assert call(folder, *options, "--dry-run", "-q").stderr == ""


def test_people_get_a_table(folder, rows, monkeypatch):
    monkeypatch.setattr("polyrank.cli.screen.is_table_wanted", lambda *_: True)
    shown = call(folder, "-d", rows, "--queries", 10, "--dry-run").stdout
    assert "lexical first stage, nDCG@10" in shown
    assert "learnt on all" in shown


def test_eval_uses_what_was_learnt(folder, rows, tmp_path):
    record = learn_first_stage_weights(job(folder, rows))
    data = marked_beir(tmp_path / "beir")
    arguments = ["eval", str(data), "--reranker", str(folder), "--first-stage-weight", "auto", "-q"]
    for kind, stage in (("lexical", ["bm25"]), ("dense", ["embedder", "--embedder", str(folder)])):
        result = CliRunner().invoke(app, [*arguments, "--retriever", *stage])
        report = json.loads(result.stdout)
        assert report["settings"]["first_stage_weight"] == record["weights"][kind]


@pytest.mark.parametrize("task", ["reranker", "embedder"])
def test_training_drops_weights_that_were_learnt_before(checkpoint, tmp_path, task):
    name = "bge-reranker-base" if task == "reranker" else "multilingual-e5-large"
    folder = Path(shutil.copytree(checkpoint(name), tmp_path / name))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {FIRST_STAGE_KEY: {"dense": 0.25}}))
    start = load_start(read_checkpoint(folder), TrainingConfig(task, steps=1), "cpu")
    start.save(tmp_path / "trained")
    assert read_checkpoint(tmp_path / "trained").spec.first_stage_weights == {}
