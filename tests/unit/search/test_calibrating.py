"""`polyrank train pruning`: calibrated on questions of any data, checked on those left out."""

import json
import random

import pytest
from typer.testing import CliRunner

from polyrank.cli.app import app
from polyrank.errors import ConfigError
from polyrank.search.pruning import Pruning
from polyrank.search.settings import PruningConfig
from tests.toys import WORDS, write_lines


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    draw, found = random.Random(0), []
    for _ in range(60):
        words = draw.sample(WORDS, 8)
        answer, others = " ".join(words[:4]), [" ".join(draw.sample(WORDS, 4)) for _ in range(2)]
        found.append({"query": " ".join(words[:2]), "positives": [answer], "negatives": others})
    return write_lines(tmp_path_factory.mktemp("data") / "rows.jsonl", found)


def invoke(*arguments):
    return CliRunner().invoke(app, ["train", "pruning", *map(str, arguments)])


def test_a_file_is_written_that_says_what_it_promises(rows, tmp_path):
    promise = ("--top-n", 3, "--probability", 0.8, "--confidence", 0.8)
    result = invoke("-d", rows, *promise, "--output", tmp_path, "--quiet")
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    pruning = Pruning.load(tmp_path)
    assert (pruning.top_n, pruning.probability, pruning.num_questions) == (3, 0.8, 29)
    assert pruning.stage == "polyrank-small"
    assert record["threshold"] == pruning.threshold
    assert record["check"]["num_questions"] == 15
    assert record["check"]["share_kept"] >= 0.6
    assert 0 < pruning.mean_share < 1


def test_too_few_questions_are_refused_before_a_file_is_written(rows, tmp_path):
    result = invoke("-d", rows, "--probability", 0.99, "--output", tmp_path, "--quiet")
    assert result.exit_code != 0
    assert "too few" in str(result.exception) + result.output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "settings", [{"top_n": 0}, {"min_kept": 11}, {"probability": 1.0}, {"queries": 0}]
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        PruningConfig(**settings)
