"""`polyrank calibrate`: what data it takes, what it fits, and what it writes."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polyrank import Classifier, Reranker
from polyrank.calibration.features import query_features
from polyrank.calibration.maps import sigmoid
from polyrank.checkpoint.layouts import CALIBRATION_FILE
from polyrank.errors import CapabilityError, ConfigError, DataError, TrainingError
from polyrank.training.calibration.fit import ScoredQuery, fit_classes, fit_ranking
from polyrank.training.calibration.job import CalibrateJob
from polyrank.training.calibration.learn import calibrate
from polyrank.training.calibration.logistic import fit_softmax
from polyrank.training.calibration.report import write_report
from tests.texts import SENTENCES

Row = dict[str, Any]


def questions(
    count: int, *, slope: float = 1.5, shift: float = -3.0, of_length: float = 0.0, seed: int = 0
) -> list[ScoredQuery]:
    """Return questions whose documents answer by a known law."""
    generator = np.random.default_rng(seed)
    made = []
    for i in range(count):
        features = query_features("猫" if i % 2 else "a cat", int(generator.integers(1, 60)))
        logits = generator.normal(0, 2, 20)
        true = sigmoid(slope * logits + shift + of_length * features["log_query_length"])
        source = f"s{i % 4}"
        made.append(
            ScoredQuery(source, "xx", features, logits, generator.random(20) < true, np.zeros(20))
        )
    return made


def test_the_law_is_found_again() -> None:
    own = fit_ranking(questions(800, of_length=0.8)).calibration
    assert own.slope == pytest.approx(1.5, abs=0.1)
    features = query_features("a cat", 20)
    found = own.probabilities(np.linspace(-3, 3, 9), features)
    true = sigmoid(1.5 * np.linspace(-3, 3, 9) - 3 + 0.8 * np.log(20))
    np.testing.assert_allclose(found, true, atol=0.06)
    assert "log_query_length" in {offset.feature for offset in own.offsets}


def test_candidates_are_compared_on_what_they_have_not_seen() -> None:
    fit = fit_ranking(questions(200))
    assert fit.held_out_by == "source"
    assert {"platt", "beta", "isotonic", "platt + length"} <= set(fit.held_out)
    chosen = fit.calibration.method
    assert min(fit.held_out, key=fit.held_out.__getitem__).startswith(chosen)
    one = [ScoredQuery("s", *_rest(question)) for question in questions(50)]
    assert fit_ranking(one).held_out_by == "query"


def _rest(question: ScoredQuery) -> tuple[Any, ...]:
    own = question
    return own.language, own.features, own.logits, own.is_relevant, own.lengths


def test_relevance_that_falls_with_the_logit_is_no_law() -> None:
    with pytest.raises(TrainingError, match="higher logits"):
        fit_ranking(questions(100, slope=-1.5))


@pytest.mark.parametrize("is_shared", [True, False])
def test_softmax_is_fitted(is_shared: bool) -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 2, (6_000, 3))
    scales = np.full(3, 0.5) if is_shared else np.array([0.5, 1.0, 1.5])
    biases = np.zeros(3) if is_shared else np.array([-0.5, 0.0, 0.5])
    values = logits * scales + biases
    powers = np.exp(values)
    shares = np.cumsum(powers / powers.sum(axis=1, keepdims=True), axis=1)
    labels = (generator.random((6_000, 1)) > shares).sum(axis=1)
    found = fit_softmax(logits, labels, is_shared=is_shared)
    np.testing.assert_allclose(found, np.r_[scales, biases], atol=0.1)
    fit = fit_classes(logits, labels, ("a", "b", "c"), [str(i) for i in range(6_000)])
    assert fit.held_out[fit.calibration.method] < fit.held_out["score"]


@pytest.fixture
def folder(checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint("bge-reranker-base"), tmp_path / "model"))


def write_rows(path: Path, rows: list[Row]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return path


def labelled(folder: Path, count: int = 200) -> list[Row]:
    """Return rows whose labels follow the scores of a model, with chance."""
    generator = np.random.default_rng(1)
    texts = list(SENTENCES.values())
    rows = [
        {
            "query": f"{texts[i % len(texts)]} {i}",
            "passage": f"{texts[int(generator.integers(len(texts)))]} {i * 7}",
            "lang": "en" if i % 3 else "ja",
        }
        for i in range(count)
    ]
    logits = Reranker(folder).score([(r["query"], r["passage"]) for r in rows], logits=True)
    scaled = (logits - logits.mean()) / logits.std()
    chosen = generator.random(count) < sigmoid(2 * scaled)
    return [row | {"label": int(label)} for row, label in zip(rows, chosen, strict=True)]


def test_rows_are_calibrated_and_scores_stay(folder: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "pairs.jsonl", labelled(folder))
    pairs = [("cats", "dogs"), ("cats", "cats sleep")]
    before = Reranker(folder).score(pairs)
    outcome = calibrate(CalibrateJob(str(folder), (data,)))
    assert outcome.path == folder / CALIBRATION_FILE
    assert set(outcome.record["languages"]) == {"en", "ja"}
    reranker = Reranker(folder)
    np.testing.assert_array_equal(reranker.score(pairs), before)
    assert (np.diff(reranker.probabilities(pairs)) > 0) == (before[1] > before[0])
    fitted = json.loads(outcome.path.read_text())["rerank"]["fitted"]
    assert fitted["num_pairs"] == 200
    assert fitted["held_out_log_loss"]["platt"] > 0
    assert outcome.path.stat().st_size < 10_000
    checked = calibrate(CalibrateJob(str(folder), (data,), is_check=True))
    assert checked.path is None
    assert (
        checked.record["overall"]["after"]["log_loss"]
        <= outcome.record["overall"]["after"]["log_loss"] + 1e-3
    )


def test_queries_without_an_answer_count(folder: Path, tmp_path: Path) -> None:
    data, run = beir(tmp_path)
    job = CalibrateJob(str(folder), (data,), run=run, output=tmp_path / "out")
    outcome = calibrate(job)
    assert outcome.path == tmp_path / "out" / CALIBRATION_FILE
    assert not (folder / CALIBRATION_FILE).exists()
    overall = outcome.record["overall"]
    assert overall["num_queries"] == 40  # the last ten are not judged
    assert overall["at_half"]["num_unanswered"] == 20


def beir(tmp_path: Path) -> tuple[Path, Path]:
    folder = tmp_path / "set"
    folder.mkdir()
    texts = list(SENTENCES.values())
    documents = [{"_id": f"d{i}", "text": f"{texts[i % len(texts)]} {i}"} for i in range(60)]
    queries = [{"_id": f"q{i}", "text": f"{texts[i % len(texts)]} {i}"} for i in range(50)]
    write_rows(folder / "corpus.jsonl", documents)
    write_rows(folder / "queries.jsonl", queries)
    lines = [f"q{i}\td{i}\t{int(i < 20)}" for i in range(40)]
    (folder / "qrels.tsv").write_text("\n".join(lines) + "\n")
    run = tmp_path / "run.trec"
    ranked = [f"q{i} Q0 d{(i + k) % 60} {k} {9 - k} me" for i in range(50) for k in range(8)]
    run.write_text("\n".join(ranked) + "\n")
    return folder, run


def test_one_kind_alone_is_refused(folder: Path, tmp_path: Path) -> None:
    rows = [row | {"label": 1} for row in labelled(folder, 50)]
    data = write_rows(tmp_path / "pairs.jsonl", rows)
    with pytest.raises(DataError, match="none of 50 pairs is irrelevant"):
        calibrate(CalibrateJob(str(folder), (data,)))
    assert not (folder / CALIBRATION_FILE).exists()


def test_three_rows_are_refused(folder: Path, tmp_path: Path) -> None:
    rows = [row | {"label": i % 2} for i, row in enumerate(labelled(folder, 3))]
    data = write_rows(tmp_path / "pairs.jsonl", rows)
    with pytest.raises(DataError, match="only 1 of 3 pairs is relevant; at least 10"):
        calibrate(CalibrateJob(str(folder), (data,)))


def test_an_unseen_language_is_told(folder: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "pairs.jsonl", labelled(folder, 40))
    with pytest.raises(ConfigError, match=r"nothing in sw\. It has en, ja"):
        calibrate(CalibrateJob(str(folder), (data,), languages=("sw",)))


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"query": "a", "passage": "b"}, 'no "label"'),
        ({"query": "a", "label": 1}, "lacks the key 'passage'"),
        ({"query": "a", "passage": "b", "label": "perhaps"}, "neither relevant nor 1"),
    ],
)
def test_broken_rows_are_named(row: Row, told: str, folder: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "pairs.jsonl", [row])
    with pytest.raises(DataError, match=f"line 1.*{told}"):
        calibrate(CalibrateJob(str(folder), (data,)))


def test_other_calls_are_refused(folder: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "pairs.jsonl", labelled(folder, 40))
    with pytest.raises(CapabilityError, match="no calibration of rankings to check"):
        calibrate(CalibrateJob(str(folder), (data,), is_check=True))
    with pytest.raises(ConfigError, match="--output"):
        calibrate(CalibrateJob(None, (data,)))
    with pytest.raises(ConfigError, match="--data"):
        CalibrateJob(str(folder), ())
    with pytest.raises(DataError, match="nothing at"):
        calibrate(CalibrateJob(str(folder), (tmp_path / "none",)))


def test_labels_are_calibrated_beside_rankings(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(checkpoint("three-way-classifier"), tmp_path / "model"))
    labels = Classifier(folder).labels
    rows = [
        {"query": f"q {i}", "passage": f"p {i}", "label": labels[i % len(labels)]}
        for i in range(60)
    ]
    data = write_rows(tmp_path / "rows.jsonl", rows)
    outcome = calibrate(CalibrateJob(str(folder), (data,), task="classify"))
    assert outcome.record["method"] in ("temperature", "vector")
    found = Classifier(folder).classify([("q 1", "p 1")])[0]
    assert found.calibrated_probabilities is not None
    assert found.calibrated_probabilities[found.label] == found.probability
    one = write_rows(tmp_path / "one.jsonl", [row | {"label": labels[0]} for row in rows])
    with pytest.raises(DataError, match="all 60 rows have the label"):
        calibrate(CalibrateJob(str(folder), (one,), task="classify"))
    other = write_rows(tmp_path / "other.jsonl", [rows[0] | {"label": "spam"}])
    with pytest.raises(DataError, match="none of the model's"):
        calibrate(CalibrateJob(str(folder), (other,), task="classify"))
    few = write_rows(tmp_path / "few.jsonl", rows[:3])
    with pytest.raises(DataError, match="3 rows are too few"):
        calibrate(CalibrateJob(str(folder), (few,), task="classify"))


def test_the_command_writes_reports_that_need_nothing(folder: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "pairs.jsonl", labelled(folder))
    page = tmp_path / "report.html"
    command = [sys.executable, "-m", "polyrank", "calibrate", str(folder), "--data", str(data)]
    done = subprocess.run(
        [*command, "--report", str(page), "--json"], capture_output=True, text=True, check=True
    )
    record = json.loads(done.stdout)
    assert record["overall"]["num_pairs"] == 200
    assert str(folder / CALIBRATION_FILE) in done.stderr.replace("\n", "")
    text = page.read_text()
    assert "<svg" in text
    for word in ("<script", "src=", "href=", "@import", "url("):
        assert word not in text
    for suffix in (".md", ".json", ".svg"):
        write_report(record, tmp_path / f"report{suffix}")
    assert "| ja |" in (tmp_path / "report.md").read_text()
    assert json.loads((tmp_path / "report.json").read_text()) == record
    refused = subprocess.run(
        [*command, "--report", "report.pdf"], capture_output=True, text=True, check=False
    )
    assert refused.returncode == 2
    assert ".html" in refused.stderr
