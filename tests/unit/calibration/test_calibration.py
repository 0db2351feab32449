"""The pure room: features, maps, thresholds, measures, and the file that holds a calibration."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polyrank import Classifier, Reranker
from polyrank.calibration.calibration import (
    Calibration,
    ClassCalibration,
    RankCalibration,
    as_content,
)
from polyrank.calibration.features import Offset, main_script, query_features, script_shares
from polyrank.calibration.maps import Beta, Isotonic, Platt
from polyrank.calibration.measures import (
    brier_score,
    calibration_error,
    expected_error,
    log_loss,
    reliability_by_width,
)
from polyrank.calibration.reading import read_calibration
from polyrank.calibration.thresholds import choose_threshold, parse_threshold, threshold_table
from polyrank.checkpoint.gate import fingerprint
from polyrank.checkpoint.layouts import CALIBRATION_FILE
from polyrank.checkpoint.reader import Checkpoint, read_checkpoint
from polyrank.errors import CapabilityError, CheckpointError, ConfigError

LABELS = ("irrelevant", "neutral", "relevant")


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("How long do cats live?", "latin"),
        ("Сколько живут кошки?", "cyrillic"),
        ("Πόσο ζουν οι γάτες;", "greek"),
        ("كم تعيش القطط؟", "arabic"),
        ("כמה זמן חיים חתולים?", "hebrew"),
        ("बिल्लियाँ कितने साल जीती हैं?", "indic"),
        ("แมวมีอายุกี่ปี", "southeast_asian"),
        ("猫の寿命は?", "cjk"),
        ("고양이는 얼마나 사나요?", "hangul"),
        ("რამდენ ხანს ცოცხლობენ კატები?", "caucasian"),
        ("ድመቶች ስንት ዓመት ይኖራሉ?", "other"),
        ("1 + 2 = 3 😀", ""),
        ("", ""),
    ],
)
def test_scripts(text: str, script: str) -> None:
    assert main_script(text) == script
    assert sum(script_shares(text)) == pytest.approx(1.0 if script else 0.0)


def test_offsets_stay_within_what_was_fitted() -> None:
    offset = Offset("log_query_length", 2.0, 1.0, 3.0)
    assert offset(np.array([0.0, 2.0, 9.0])).tolist() == [2.0, 4.0, 6.0]
    own = RankCalibration(1.0, 0.0, (offset,))
    long, longer = (own.probabilities([0.0], query_features("a", n)) for n in (500, 5_000))
    assert long == longer


def test_beta_with_equal_slopes_is_platt() -> None:
    shifted = np.linspace(-30, 30, 101)
    np.testing.assert_allclose(Beta(1.0, 1.0, 0.0)(shifted), Platt()(shifted), atol=1e-12)


@pytest.mark.parametrize("value", [0, 0.5, 1.0, "0.5", "precision:0.9", "recall:1"])
def test_thresholds_are_read(value: Any) -> None:
    parse_threshold(value)


@pytest.mark.parametrize(
    "value", [-0.1, 1.01, float("nan"), True, None, "", "half", "accuracy:0.5", "precision:2", []]
)
def test_other_thresholds_are_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match="probability from 0 to 1"):
        parse_threshold(value)


def test_thresholds_reach_what_they_promise() -> None:
    generator = np.random.default_rng(0)
    values = 0.85 * generator.random(4_000)
    truths = generator.random(4_000) < values
    rows = threshold_table(values, truths)
    assert [row.probability for row in rows] == sorted(row.probability for row in rows)
    for wanted in (0.5, 0.6, 0.7):
        least = choose_threshold(rows, "precision", wanted)
        assert truths[values >= least].mean() >= wanted - 0.001
        most = choose_threshold(rows, "recall", wanted)
        assert truths[values >= most].sum() / truths.sum() >= wanted - 0.001
    with pytest.raises(CapabilityError, match=r"the best is 0\.\d+"):
        choose_threshold(rows, "precision", 0.9999)


def test_measures_of_a_known_case() -> None:
    said, came = [0.2, 0.2, 0.8, 0.8], [0, 0, 1, 0]
    assert calibration_error(said, came, 2) == pytest.approx((0.2 + 0.3) / 2)
    assert [each.count for each in reliability_by_width([0.05, 0.95, 1.0], [0, 1, 1])] == [1, 2]
    assert brier_score(said, came) == pytest.approx((0.04 * 3 + 0.64) / 4)
    assert log_loss([1.0], [0]) < 30
    assert expected_error([0.0, 1.0]) == 0
    assert 0.01 < expected_error(np.full(600, 0.8), 10) < 0.08


@pytest.fixture
def folder(checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint("three-way-classifier"), tmp_path / "model"))


MAPS = {"platt": Platt(), "beta": Beta(0.5, 2.0, -0.25), "isotonic": Isotonic((-1, 2), (0.1, 0.9))}


def calibration(opened: Checkpoint, method: str = "platt") -> dict[str, Any]:
    """Return the content of a sound file."""
    offsets = (Offset("log_query_length", 0.5, 0.0, 4.0), Offset("share_cjk", -1.0, 0.0, 1.0))
    rank = RankCalibration(1.25, -2.5, offsets, method, MAPS[method])  # type: ignore[arg-type]
    labels = opened.spec.head("classify").labels
    count = len(labels)
    classes = ClassCalibration(labels, "temperature", (1.5,) * count, (0.0,) * count)
    return as_content(Calibration(rank, classes), fingerprint(opened.weights.paths))


def write(folder: Path, content: Any) -> None:
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / CALIBRATION_FILE).write_text(text)


@pytest.mark.parametrize("method", MAPS)
def test_what_is_written_is_read(method: str, folder: Path) -> None:
    opened = read_checkpoint(folder)
    content = calibration(opened, method)
    write(folder, content)
    found = read_calibration(read_checkpoint(folder))
    assert as_content(found, content["model_sha256"]) == content
    assert found.rerank is not None
    assert found.rerank.map == MAPS[method]


def test_no_file_is_no_calibration(folder: Path) -> None:
    assert read_calibration(read_checkpoint(folder)) == Calibration()
    assert Classifier(folder).classify(["cats"])[0].probability is None


BROKEN: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no JSON": lambda _: "{",
    "a list": lambda _: [1],
    "another version": lambda c: c | {"version": 2},
    "no version": lambda c: {k: v for k, v in c.items() if k != "version"},
    "other weights": lambda c: c | {"model_sha256": "0" * 64},
    "a slope of 0": lambda c: c | {"rerank": c["rerank"] | {"slope": 0}},
    "a slope that falls": lambda c: c | {"rerank": c["rerank"] | {"slope": -1.0}},
    "no slope": lambda c: c | {"rerank": c["rerank"] | {"slope": None}},
    "infinity": lambda c: c | {"rerank": c["rerank"] | {"intercept": 1e400}},
    "an unknown map": lambda c: c | {"rerank": c["rerank"] | {"method": "oracle"}},
    "an unknown feature": lambda c: c | {"rerank": c["rerank"] | {"offsets": {"moon": {}}}},
    "a beta that falls": lambda c: (
        c
        | {
            "rerank": c["rerank"]
            | {"method": "beta", "beta": {"low": -1, "high": 1, "intercept": 0}}
        }
    ),
    "an isotonic map that falls": lambda c: (
        c
        | {
            "rerank": c["rerank"]
            | {
                "method": "isotonic",
                "isotonic": [{"at": 0, "probability": 0.5}, {"at": 1, "probability": 0.4}],
            }
        }
    ),
    "an isotonic map of nothing": lambda c: c | {"rerank": c["rerank"] | {"method": "isotonic"}},
    "a threshold of 2": lambda c: (
        c
        | {
            "rerank": c["rerank"]
            | {"thresholds": [{"probability": 2, "precision": 0, "recall": 0}]}
        }
    ),
    "other labels": lambda c: c | {"classify": c["classify"] | {"labels": ["a", "b"]}},
    "too few scales": lambda c: c | {"classify": c["classify"] | {"scales": [1.0]}},
    "scales that are text": lambda c: c | {"classify": c["classify"] | {"scales": ["1", "1", "1"]}},
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_refused(name: str, folder: Path) -> None:
    write(folder, BROKEN[name](calibration(read_checkpoint(folder))))
    with pytest.raises(CheckpointError, match=CALIBRATION_FILE):
        read_calibration(read_checkpoint(folder))
    with pytest.raises(CheckpointError, match=CALIBRATION_FILE):
        Classifier(folder)


def test_a_new_file_counts_at_once(folder: Path) -> None:
    before = Classifier(folder).classify(["cats"])[0]
    write(folder, calibration(read_checkpoint(folder)))
    after = Classifier(folder).classify(["cats"])[0]
    assert before.probability is None
    assert after.probability is not None
    assert (after.score, after.probabilities) == (before.score, before.probabilities)
    assert after.calibrated_probabilities is not None
    assert sum(after.calibrated_probabilities.values()) == pytest.approx(1.0)


@pytest.fixture
def reranker_folder(checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint("bge-reranker-base"), tmp_path / "model"))


def calibrate(folder: Path, own: RankCalibration) -> Reranker:
    opened = read_checkpoint(folder)
    write(folder, as_content(Calibration(own), fingerprint(opened.weights.paths)))
    return Reranker(folder)


DOCUMENTS = [
    "Cats live 15 years.",
    "Paris.",
    "Cats sleep all day long.",
    "x",
    "Cats live 15 years.",
]


def test_a_threshold_leaves_documents_out_and_order_as_it_is(reranker_folder: Path) -> None:
    plain = Reranker(reranker_folder).rank("How long?", DOCUMENTS)
    logits = [hit.logit for hit in plain]
    middle = float(np.median(logits))
    reranker = calibrate(reranker_folder, RankCalibration(4.0, -4.0 * middle))
    hits = reranker.rank("How long?", DOCUMENTS)
    assert [(h.index, h.score, h.logit) for h in hits] == [
        (h.index, h.score, h.logit) for h in plain
    ]
    values = [hit.probability for hit in hits]
    assert values == sorted(values, reverse=True)  # type: ignore[type-var]
    kept = reranker.rank("How long?", DOCUMENTS, min_probability=0.5)
    assert kept == [hit for hit in hits if (hit.probability or 0) >= 0.5]
    assert 0 < len(kept) < len(hits)
    assert reranker.rank("How long?", DOCUMENTS, min_probability=1.0) == []
    assert len(reranker.rank("How long?", DOCUMENTS, min_probability=0.0, top_n=2)) == 2
    found = reranker.probabilities([("How long?", text) for text in DOCUMENTS])
    assert {h.index: h.probability for h in hits} == dict(enumerate(found.tolist()))


def test_first_stage_scores_are_no_part_of_a_probability(reranker_folder: Path) -> None:
    reranker = calibrate(reranker_folder, RankCalibration(1.0, 0.0))
    plain = {h.index: h.probability for h in reranker.rank("How long?", DOCUMENTS)}
    blended = reranker.rank(
        "How long?", DOCUMENTS, first_stage_scores=[1, 5, 2, 9, 3], first_stage=2.0
    )
    assert {h.index: h.probability for h in blended} == plain


def test_documents_change_places_only_where_that_was_asked_for(reranker_folder: Path) -> None:
    lengths = Offset("log_document_length", 2.0, 0.0, 6.0)
    reranker = calibrate(reranker_folder, RankCalibration(1.0, 0.0, (lengths,)))
    hits = reranker.rank("How long?", DOCUMENTS)
    assert hits[0].index == 2  # the longest
    assert [hit.probability for hit in hits] == sorted(
        (hit.probability or 0 for hit in hits), reverse=True
    )


def test_a_threshold_needs_a_calibration(reranker_folder: Path) -> None:
    reranker = Reranker(reranker_folder)
    for call in (
        lambda: reranker.rank("q", ["d"], min_probability=0.5),
        lambda: reranker.probabilities([("q", "d")]),
    ):
        with pytest.raises(CapabilityError, match="polyrank calibrate"):
            call()
    with pytest.raises(ConfigError, match="min_probability"):
        reranker.rank("q", ["d"], min_probability="often")
    own = calibrate(reranker_folder, RankCalibration(1.0, 0.0))
    with pytest.raises(CapabilityError, match="no threshold reached"):
        own.rank("q", ["d"], min_probability="precision:0.9")


def test_a_changed_folder_takes_no_calibration_along(folder: Path) -> None:
    from polyrank.checkpoint.building import copy_rest

    write(folder, calibration(read_checkpoint(folder)))
    target = folder.parent / "copy"
    target.mkdir()
    copy_rest(folder, target, ())
    assert not (target / CALIBRATION_FILE).exists()


def test_replace_keeps_maps() -> None:
    own = RankCalibration(1.0, 0.0, method="beta", map=Beta(1, 2, 0))
    assert replace(own, fitted={"data": []}).map == own.map
