import json

import pytest
from typer.testing import CliRunner

from polyrank.cli.app import app
from polyrank.errors import ConfigError, DataError
from tests.unit.evaluation.test_run import SAMPLE


def call(*arguments):
    return call_app("eval", *arguments)


def call_app(*arguments):
    result = CliRunner().invoke(app, [*map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def report_of(result):
    (line,) = result.stdout.splitlines()
    return json.loads(line)


def test_a_pipe_gets_one_line_of_json(tmp_path):
    result = call(SAMPLE, "--retriever", "bm25", "--output", tmp_path / "out", "--top-k", 5)
    assert result.exit_code == 0
    report = report_of(result)
    assert report["first_stage"] == "bm25"
    assert report["settings"]["top_k"] == 5
    assert report["date"].endswith("+00:00")
    assert len(report["groups"]) == 6
    written = json.loads((tmp_path / "out" / "report.json").read_text("utf8"))
    assert written == report
    assert "plot.png" in result.stderr


def test_quiet_says_nothing_but_the_result(tmp_path):
    result = call(SAMPLE, "--retriever", "bm25", "-q", "-o", tmp_path)
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "labels"),
    [
        (["--languages", "en,th"], ["en", "th"]),
        (["--mode", "cross", "--languages", "en, th"], ["en→th", "th→en"]),
        (["--mode", "cross", "--languages", "ja:zh"], ["ja→zh"]),
        (["--mode", "pool", "--languages", "de:en,th"], ["de"]),
        (["--mode", "all"], ["all"]),
    ],
)
def test_languages_and_modes(arguments, labels):
    report = report_of(call(SAMPLE, "--retriever", "bm25", *arguments))
    assert [group["label"] for group in report["groups"]] == labels


def test_sample_and_seed_are_recorded():
    report = report_of(call(SAMPLE, "--retriever", "bm25", "--max-queries", 2, "--seed", 7))
    assert (report["settings"]["max_queries"], report["settings"]["seed"]) == (2, 7)
    assert {group["num_queries"] for group in report["groups"]} == {2}


def test_errors_come_before_the_work(tmp_path):
    with pytest.raises(DataError, match="is not a folder"):
        call(tmp_path / "nowhere", "--retriever", "bm25")
    (tmp_path / "taken").write_text("")
    with pytest.raises(ConfigError, match="cannot be made a folder"):
        call(SAMPLE, "--retriever", "bm25", "--output", tmp_path / "taken")
    assert call(SAMPLE, "--mode", "sideways").exit_code == 2


def test_models_are_named_with_their_encoder(checkpoint):
    embedder, reranker = checkpoint("multilingual-e5-small"), checkpoint("bge-reranker-base")
    models = ["--embedder", embedder, "--reranker", reranker, "--max-length", 16]
    result = call(SAMPLE, *models, "--languages", "en", "--encoder", "onnx", "--top-k", 3)
    report = report_of(result)
    assert report["first_stage"] == embedder.name
    assert report["reranker"] == reranker.name
    assert report["settings"]["embedder_encoder"]["name"] == "onnx"
    assert report["settings"]["reranker_max_length"] == 16
    assert report["settings"]["reranker_num_truncated"] > 0
    assert report["timings"]["rerank"]["count"] == 12
    assert "reranker: 12 inputs were longer than 16 tokens" in result.stderr.replace("\n", " ")
    assert str(embedder.parent) not in result.stdout
