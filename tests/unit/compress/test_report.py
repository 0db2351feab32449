"""Variants side by side: what each takes, how well it ranks, and the files that say so."""

import json

import pytest

from polyrank.compress.report.footprint import disk_bytes, measure_footprint
from polyrank.errors import ConfigError, EncoderError
from tests.unit.cli.test_evaluate import call_app
from tests.unit.evaluation.test_run import SAMPLE


def test_a_footprint_is_of_the_folder_and_of_a_process_of_its_own(checkpoint):
    folder = checkpoint("bge-reranker-base")
    found = measure_footprint(folder, {"num_threads": 1}, ["Cats live 15 years.", "Bread."])
    assert found.disk_bytes == disk_bytes(folder) > (folder / "model.safetensors").stat().st_size
    assert found.load_s > 0
    assert found.document_s > 0
    assert found.peak_bytes is None or found.peak_bytes > found.disk_bytes


def test_what_cannot_be_loaded_is_named(checkpoint, tmp_path):
    folder = checkpoint("bge-reranker-base")
    with pytest.raises(EncoderError, match=r"bge-reranker-base could not be measured: .*encoder"):
        measure_footprint(folder, {"encoder": "none-such"})


@pytest.mark.parametrize("name", ["multilingual-e5-small", "bge-reranker-base"])
def test_command_reports(checkpoint, tmp_path, name):
    folder = checkpoint(name)
    result = call_app(
        *("compress", "report", str(folder), f"again={folder}", "--data", str(SAMPLE)),
        *("--max-queries", "3", "--output", str(tmp_path), "--threads", "1"),
    )
    assert result.exit_code == 0, result.output
    content = json.loads((tmp_path / "report.json").read_text())
    assert [each["name"] for each in content["variants"]] == [name, "again"]
    assert content["variants"][0]["disk_bytes"] == disk_bytes(folder)
    source, again = content["quality"]["systems"]
    assert source["mean"] == again["mean"]
    page = (tmp_path / "report.html").read_text()
    assert "nDCG@10 beside MB on disk" in page
    assert "| again |" in (tmp_path / "report.md").read_text()


def test_command_without_data_gives_one_table(checkpoint, tmp_path):
    folder = checkpoint("three-way-classifier")
    with pytest.raises(EncoderError, match="could not be measured"):  # it ranks nothing
        call_app("compress", "report", str(folder))
    folder = checkpoint("bge-reranker-base")
    result = call_app("compress", "report", str(folder), "--output", str(tmp_path))
    assert result.exit_code == 0, result.output
    assert "quality" not in json.loads((tmp_path / "report.json").read_text())
    assert "<table>" in (tmp_path / "report.html").read_text()


def test_two_variants_of_one_name_are_refused(checkpoint):
    folder = str(checkpoint("bge-reranker-base"))
    with pytest.raises(ConfigError, match="names of their own"):
        call_app("compress", "report", folder, folder)
