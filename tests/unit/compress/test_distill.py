"""Students with fewer layers come nearer to their teacher; what cannot be one is named."""

import json

import numpy as np
import pytest

from polyrank import Embedder, Reranker
from polyrank.checkpoint.hub import default_model_folder
from polyrank.checkpoint.reader import read_checkpoint
from polyrank.compress.layers.drop import drop_layers
from polyrank.errors import CapabilityError, ConfigError, DataError
from tests.toys import marked_rows, write_lines
from tests.unit.cli.test_evaluate import call_app

QUICK = ("--batch-size", "8", "--learning-rate", "1e-3", "--set", "max_length=24", "-q")


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    write_lines(path, marked_rows())
    return path


def distill(teacher, output, rows, *arguments):
    given = ("--data", str(rows), *QUICK, *arguments)
    return call_app("compress", "distill", str(teacher), str(output), *given)


def test_an_embedder_comes_near_to_its_teacher(checkpoint, tmp_path, rows):
    teacher, output = checkpoint("multilingual-e5-small"), tmp_path / "student"
    start = drop_layers(read_checkpoint(teacher), tmp_path / "start", (1,)).spec.folder
    result = distill(teacher, output, rows, "--keep", "1", "--steps", "40")
    assert result.exit_code == 0, result.output
    texts = [row["query"] for row in marked_rows(40, seed=9)]
    wanted, before, after = (Embedder(each).encode(texts) for each in (teacher, start, output))
    assert (after * wanted).sum(axis=1).mean() > (before * wanted).sum(axis=1).mean() + 0.01
    assert json.loads((output / "training.json").read_text())["settings"]["loss"] == "vectors"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["start", "student"]


def test_a_reranker_learns_its_teachers_scores(checkpoint, tmp_path, rows):
    teacher, output = checkpoint("bge-reranker-base"), tmp_path / "student"
    result = distill(teacher, output, rows, "--layers", "1", "--steps", "4", "--set", "miner=none")
    assert result.exit_code == 0, result.output
    assert json.loads((output / "training.json").read_text())["settings"]["loss"] == "distill"
    assert np.isfinite(Reranker(output).score([("a", "b")])).all()


def test_what_cannot_be_taught_is_named(checkpoint, tmp_path, rows):
    with pytest.raises(CapabilityError, match="neither an embedder nor"):
        distill(checkpoint("three-way-classifier"), tmp_path / "out", rows, "--layers", "1")
    with pytest.raises(CapabilityError, match="neither an embedder nor"):
        distill(default_model_folder(), tmp_path / "out", rows, "--layers", "1")
    with pytest.raises(ConfigError, match="1 to 3"):
        distill(checkpoint("multilingual-e5-small"), tmp_path / "out", rows, "--layers", "99")
    assert list(tmp_path.iterdir()) == []


def test_rows_are_learnt_of_a_teacher_alike(checkpoint, tmp_path, rows):
    arguments = ("--data", str(rows), "--loss", "vectors", "--steps", "2", *QUICK)
    start, other = (str(checkpoint(each)) for each in ("multilingual-e5-small", "UAE-Large-V1"))
    with pytest.raises(ConfigError, match="learns the rows of a --teacher"):
        call_app("train", "embedder", start, "-o", str(tmp_path / "out"), *arguments)
    with pytest.raises(ConfigError, match="cannot teach"):
        call_app(
            *("train", "embedder", start, "-o", str(tmp_path / "no"), "--teacher", other),
            *arguments,
        )


@pytest.mark.parametrize(
    ("data", "error"), [((), ConfigError), (("--data", "nowhere.jsonl"), DataError)]
)
def test_a_run_that_cannot_begin_leaves_nothing(checkpoint, tmp_path, data, error):
    teacher = str(checkpoint("multilingual-e5-small"))
    arguments = ("compress", "distill", teacher, str(tmp_path / "out"), "--layers", "1", *data)
    for _ in range(2):  # the second call is not told of a folder that the first one left
        with pytest.raises(error, match=r"nothing to train on|nowhere\.jsonl"):
            call_app(*arguments)
        assert list(tmp_path.iterdir()) == []
