import io
import json

import pytest
from PIL import Image
from rich.console import Console

from polyrank.errors import ConfigError
from polyrank.evaluation import (
    EmbeddingRetriever,
    EvaluationConfig,
    Provenance,
    evaluate,
    load_dataset,
    report_table,
    write_report,
)
from polyrank.evaluation.report import report_dict, report_json
from tests.unit.evaluation.test_run import LANGUAGES, SAMPLE, Overlap, Trigrams

PROVENANCE = Provenance("trigrams", "overlap", "2026-01-31T12:00:00+00:00", {"encoder": "none"})


def make_report(mode, *, reranked=True, **settings):
    return evaluate(
        load_dataset(SAMPLE),
        retriever=EmbeddingRetriever(Trigrams()),
        reranker=Overlap() if reranked else None,
        config=EvaluationConfig(mode=mode, num_resamples=100, **settings),
    )


@pytest.fixture(scope="module")
def report():
    return make_report("same")


def shown(report):
    console = Console(file=io.StringIO(), width=110)
    console.print(report_table(report))
    return console.file.getvalue()


def test_table_shows_both_stages_their_difference_and_the_mean(report):
    text = shown(report)
    for word in ("first stage", "reranked", "difference", "mean", "R@100", *LANGUAGES):
        assert word in text
    assert "rerank: 96 pairs in" in text
    figures = report.groups[0].difference.estimates["nDCG@10"]
    assert f"{figures.mean:+.3f} [{figures.low:+.3f}, {figures.high:+.3f}]" in text


def test_table_without_a_reranker_shows_every_measure():
    text = shown(make_report("all", reranked=False))
    assert "RR@10" in text
    assert "difference" not in text
    assert "reranked" not in text


def test_table_says_how_many_queries_were_left_out(tmp_path):
    (tmp_path / "corpus.jsonl").write_text('{"_id": "a", "text": "cats"}\n')
    (tmp_path / "queries.jsonl").write_text(
        '{"_id": "q", "text": "cats?"}\n{"_id": "unjudged", "text": "dogs?"}\n'
    )
    (tmp_path / "qrels.tsv").write_text("q\ta\t1\n")
    found = evaluate(load_dataset(tmp_path), retriever=EmbeddingRetriever(Trigrams()))
    assert "1 queries left out" in shown(found)


def test_json_holds_every_figure_with_what_made_it(report):
    content = json.loads(report_json(report, PROVENANCE))
    assert content["format"] == "polyrank-eval-1"
    assert content["date"] == PROVENANCE.date
    assert (content["first_stage"], content["reranker"]) == ("trigrams", "overlap")
    assert content["settings"]["seed"] == 0
    assert content["settings"]["mode"] == "same"
    assert content["settings"]["encoder"] == "none"
    assert {"polyrank", "bm25s", "ir_measures", "numpy"} <= content["versions"].keys()
    assert [group["query_language"] for group in content["groups"]] == list(LANGUAGES)
    for group in [*content["groups"], content["mean"]]:
        for measure in content["measures"]:
            first, second = group["first_stage"][measure], group["reranked"][measure]
            change = group["difference"][measure]
            assert change["mean"] == pytest.approx(second["mean"] - first["mean"])
            for stage in (first, second, change):
                assert stage["low"] <= stage["mean"] + 1e-9
                assert stage["mean"] <= stage["high"] + 1e-9
    mean = sum(g["reranked"]["nDCG@10"]["mean"] for g in content["groups"]) / len(LANGUAGES)
    assert content["mean"]["reranked"]["nDCG@10"]["mean"] == pytest.approx(mean)


def test_json_without_a_reranker_says_null():
    content = report_dict(make_report("pool", reranked=False), Provenance("trigrams"))
    assert content["reranker"] is None
    assert content["mean"]["reranked"] is None
    assert content["groups"][0]["difference"] is None


@pytest.mark.parametrize(
    ("mode", "settings"),
    [
        ("same", {}),
        ("same", {"reranked": False}),
        ("all", {}),
        ("pool", {}),
        ("cross", {}),
        ("cross", {"reranked": False}),
        ("cross", {"document_languages": ("en",)}),
    ],
)
def test_files_are_written_whole(tmp_path, mode, settings):
    folder = tmp_path / "new" / "report"
    paths = write_report(make_report(mode, **settings), PROVENANCE, folder)
    assert sorted(folder.iterdir()) == sorted(paths)
    assert {path.name for path in paths} == {"plot.png", "report.json", "report.md"}
    json.loads((folder / "report.json").read_text("utf8"))
    page = (folder / "report.md").read_text("utf8")
    assert "| mean | " in page or mode == "all"
    assert "![by language](plot.png)" in page
    with Image.open(folder / "plot.png") as picture:
        picture.load()
        assert picture.width > 600
        assert picture.height > 250
        assert len(picture.convert("RGB").getcolors(1 << 24)) > 20


def test_older_reports_are_replaced(tmp_path, report):
    (tmp_path / "report.json").write_text("old")
    write_report(report, PROVENANCE, tmp_path)
    assert json.loads((tmp_path / "report.json").read_text("utf8"))["dataset"] == "evaluation"


def test_a_file_in_the_way_is_named(tmp_path, report):
    (tmp_path / "taken").write_text("")
    with pytest.raises(ConfigError, match="taken cannot be made a folder"):
        write_report(report, PROVENANCE, tmp_path / "taken")
