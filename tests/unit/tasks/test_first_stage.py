"""First-stage scores beside a reranker's: the rule, where it is kept, and who applies it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from typer.testing import CliRunner

from polyrank import Reranker
from polyrank.checkpoint.first_stage import FIRST_STAGE_KEY
from polyrank.checkpoint.reader import read_checkpoint
from polyrank.cli.app import app
from polyrank.cli.info import describe
from polyrank.compress.quantize.writing import write_int8
from polyrank.errors import (
    CapabilityError,
    CheckpointError,
    ConfigError,
    DataError,
    InputError,
)
from polyrank.tasks.first_stage import standardized, with_first_stage
from tests.texts import SENTENCES
from tests.unit.evaluation.test_run import SAMPLE

Checkpoint = Callable[[str], Path]
TEXTS = list(SENTENCES.values())
SCORES = [float(i % 7) for i in range(len(TEXTS))]


def with_weights(folder: Path, parent: Path, weights: object) -> Path:
    """Copy a checkpoint and let it name first-stage weights."""
    copied = Path(shutil.copytree(folder, parent / folder.name))
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(config | {FIRST_STAGE_KEY: weights}))
    return copied


@pytest.fixture
def blended(checkpoint: Checkpoint, tmp_path: Path) -> Path:
    return with_weights(checkpoint("bge-reranker-base"), tmp_path, {"lexical": 0.6, "dense": 0})


def test_scores_are_standardised() -> None:
    assert standardized([1, 2, 3]) == pytest.approx([-np.sqrt(1.5), 0, np.sqrt(1.5)])
    assert standardized([5.0]).tolist() == [0]
    assert standardized([0.1] * 3).tolist() == [0, 0, 0]
    assert standardized([]).shape == (0,)


@pytest.mark.parametrize("unit", [1e-300, 1e-30, 7.0, 1e306])
def test_the_unit_does_not_matter(unit: float) -> None:
    scores = np.array([3.0, 1.0, 9.0, -4.0])
    assert standardized(unit * scores) == pytest.approx(standardized(scores))
    assert standardized(scores + 5) == pytest.approx(standardized(scores))


@example([1.7976931292752424e308, 1.7976931296731333e308])
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=20))
def test_any_finite_scores_stay_finite(scores: list[float]) -> None:
    found = standardized(scores)
    assert np.isfinite(found).all()
    assert abs(found.sum()) < 1e-6
    assert len(set(found[np.argsort(scores, kind="stable")])) <= max(1, len(set(scores)))
    assert (np.diff(found[np.argsort(scores, kind="stable")]) >= 0).all()


def test_a_weight_of_zero_changes_no_bit() -> None:
    logits = np.float32([1.5, -2, 0])
    assert with_first_stage(logits, [3, 2, 1], 0) is logits
    blended = with_first_stage(logits, [3, 2, 1], 0.5)
    assert blended.dtype == np.float32
    assert blended == pytest.approx(logits + 0.5 * standardized([3, 2, 1]))


def test_ranks_by_logits_with_what_the_first_stage_adds(blended: Path) -> None:
    reranker = Reranker(blended)
    plain = {hit.index: hit.logit for hit in reranker.rank("cats", TEXTS)}
    hits = reranker.rank("cats", TEXTS, first_stage_scores=SCORES)
    added = 0.6 * standardized(SCORES)
    logits = [hit.logit for hit in hits]
    assert logits == pytest.approx([plain[hit.index] + added[hit.index] for hit in hits])
    assert logits == sorted(logits, reverse=True)
    assert [hit.score for hit in hits] == pytest.approx(1 / (1 + np.exp(-np.array(logits))))
    assert reranker.rank("cats", TEXTS, first_stage_scores=SCORES, first_stage=0.6) == hits
    dense = reranker.rank("cats", TEXTS, first_stage_scores=SCORES, first_stage="dense")
    assert dense == reranker.rank("cats", TEXTS)
    assert reranker.rank("cats", [], first_stage_scores=[]) == []


def test_a_strong_first_stage_can_decide(checkpoint: Checkpoint) -> None:
    reranker = Reranker(checkpoint("bge-reranker-base"))
    scores = np.arange(len(TEXTS), dtype=np.float32)
    hits = reranker.rank("cats", TEXTS, first_stage_scores=scores, first_stage=np.float32(1e6))
    assert [hit.index for hit in hits] == list(range(len(TEXTS)))[::-1]


@pytest.mark.parametrize(
    ("given_scores", "error", "said"),
    [
        ({"first_stage_scores": [1.0]}, InputError, "2 documents, and scores of shape"),
        ({"first_stage_scores": [[1.0], [2.0]]}, InputError, "shape"),
        ({"first_stage_scores": [1.0, "much"]}, InputError, "one number a document"),
        ({"first_stage_scores": [1.0, float("nan")]}, InputError, r"\[1\] is nan"),
        ({"first_stage_scores": [float("inf"), 0]}, InputError, r"\[0\] is inf"),
        ({"first_stage_scores": [1, 2]}, CapabilityError, "train first-stage-weight"),
        ({"first_stage_scores": [1, 2], "first_stage": "dense"}, CapabilityError, "dense"),
        ({"first_stage_scores": [1, 2], "first_stage": "sparse"}, ConfigError, "sparse"),
        ({"first_stage_scores": [1, 2], "first_stage": -1}, ConfigError, "-1"),
        ({"first_stage_scores": [1, 2], "first_stage": True}, ConfigError, "True"),
        ({"first_stage_scores": [1, 2], "first_stage": float("nan")}, ConfigError, "nan"),
    ],
)
def test_what_cannot_be_used_is_named(
    checkpoint: Checkpoint, given_scores: dict, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        Reranker(checkpoint("bge-reranker-base")).rank("cats", ["a", "b"], **given_scores)


def test_the_checkpoint_tells_its_weights(blended: Path, checkpoint: Checkpoint) -> None:
    assert read_checkpoint(blended).spec.first_stage_weights == {"lexical": 0.6, "dense": 0.0}
    assert describe(read_checkpoint(blended))["first_stage_weights"]["lexical"] == 0.6
    assert read_checkpoint(checkpoint("bge-reranker-base")).spec.first_stage_weights == {}


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ([0.6], "as an object of lexical and dense"),
        ({"sparse": 1.0}, "'sparse'"),
        ({"lexical": -0.1}, "finite number"),
        ({"lexical": float("nan")}, "finite number"),
        ({"dense": float("inf")}, "finite number"),
        ({"dense": "much"}, "'much'"),
        ({"dense": True}, "True"),
        ({"dense": None}, "None"),
    ],
)
def test_weights_that_make_no_sense(
    checkpoint: Checkpoint, tmp_path: Path, weights: object, said: str
) -> None:
    folder = with_weights(checkpoint("bge-reranker-base"), tmp_path, weights)
    with pytest.raises(CheckpointError, match=said):
        read_checkpoint(folder)


def test_compressed_folders_keep_the_weights(blended: Path, tmp_path: Path) -> None:
    source, target = read_checkpoint(blended), tmp_path / "int8"
    target.mkdir()
    write_int8(source, np.ones((3, 4, 96), np.float32), target)
    compressed = read_checkpoint(target)
    assert compressed.spec.quantization is not None
    assert compressed.spec.first_stage_weights == source.spec.first_stage_weights


def call(*arguments: object) -> list[dict]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None:
        raise result.exception
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_rerank_takes_scores_from_a_field(blended: Path, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"hits.{suffix}"
    rows = [
        {"text": text.split()[0], "bm25": score} for text, score in zip(TEXTS, SCORES, strict=True)
    ]
    if suffix == "csv":
        path.write_text("text,bm25\n" + "".join(f'"{r["text"]}",{r["bm25"]}\n' for r in rows))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    texts = [row["text"] for row in rows]
    arguments = ["rerank", "cats", path, "-m", blended, "--first-stage-field", "bm25"]
    expected = Reranker(blended).rank("cats", texts, first_stage_scores=SCORES)
    assert [row["index"] for row in call(*arguments)] == [hit.index for hit in expected]
    found = call(*arguments, "--first-stage", "2.5")
    expected = Reranker(blended).rank("cats", texts, first_stage_scores=SCORES, first_stage=2.5)
    assert [row["score"] for row in found] == pytest.approx([hit.score for hit in expected])
    with pytest.raises(ConfigError, match="lexical, dense or a weight, not 'words'"):
        call(*arguments, "--first-stage", "words")


@pytest.mark.parametrize("value", ["much", None, True, [1], float("nan"), 10**400])
def test_a_field_without_a_number_is_named(blended: Path, tmp_path: Path, value: object) -> None:
    path = tmp_path / "hits.jsonl"
    path.write_text(json.dumps({"text": "cats", "bm25": value}) + "\n")
    with pytest.raises(DataError, match="line 1: field 'bm25' holds"):
        call("rerank", "cats", path, "-m", blended, "--first-stage-field", "bm25")


def test_eval_blends_and_says_so(blended: Path, checkpoint: Checkpoint, tmp_path: Path) -> None:
    base = ["eval", SAMPLE, "--retriever", "bm25", "--top-k", 5, "--languages", "en,de,th"]
    named = [*base, "--reranker", blended]

    def figures(*options: object) -> dict:
        (report,) = call(*named, *options)
        return report

    plain, learnt = figures(), figures("--first-stage-weight", "auto", "-o", tmp_path / "out")
    assert plain["settings"]["first_stage_weight"] == 0
    assert learnt["settings"]["first_stage_weight"] == 0.6
    assert figures("--first-stage-weight", "lexical")["mean"] == learnt["mean"]
    assert "plus 0.6 times the first stage's" in (tmp_path / "out" / "report.md").read_text()
    # so large a weight leaves the order of the first stage
    decided = figures("--first-stage-weight", "1e6")["mean"]
    assert decided["reranked"] == decided["first_stage"]
    assert plain["mean"]["reranked"] != plain["mean"]["first_stage"]
    with pytest.raises(ConfigError, match="--reranker"):
        call(*base, "--first-stage-weight", "auto")
    with pytest.raises(CapabilityError, match="train first-stage-weight"):
        call(*base, "--reranker", checkpoint("bge-reranker-base"), "--first-stage-weight", "auto")
