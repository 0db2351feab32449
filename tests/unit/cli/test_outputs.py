"""The ending of an output's name decides what is written, or is refused before any work."""

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from polyrank.cli.app import app
from polyrank.cli.outputs import ROW_SUFFIXES, check_output, vector_sink, write_rows
from polyrank.errors import ConfigError, DataError, MissingExtraError

ROWS = [
    {"text": 'a, "b"\n猫', "rank": 1, "probabilities": {"x": 0.5, "y": 0.25}},
    {"text": "c", "rank": 2, "probabilities": {"x": 1.0, "y": 0.0}, "is_truncated": True},
]


@pytest.mark.parametrize("name", ["r.jsonl", "r.NDJSON", "r", "r.json"])
def test_rows_as_json(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    write_rows(ROWS, str(path))
    text = path.read_text("utf8")
    assert "猫" in text
    if name == "r.json":
        assert json.loads(text) == ROWS
    else:
        assert [json.loads(line) for line in text.splitlines()] == ROWS


@pytest.mark.parametrize(("name", "delimiter"), [("r.csv", ","), ("r.TSV", "\t")])
def test_rows_as_tables(tmp_path: Path, name: str, delimiter: str) -> None:
    path = tmp_path / name
    write_rows([{**ROWS[0], "tags": ["t", 1]}, ROWS[1]], str(path))
    with path.open(encoding="utf8", newline="") as file:
        first, second = csv.DictReader(file, delimiter=delimiter)
    assert first["text"] == ROWS[0]["text"]
    assert first["probabilities.x"] == "0.5"
    assert json.loads(first["tags"]) == ["t", 1]
    assert second == {
        "text": "c",
        "rank": "2",
        "probabilities.x": "1.0",
        "probabilities.y": "0.0",
        "tags": "",
        "is_truncated": "True",
    }


def test_rows_as_parquet(tmp_path: Path) -> None:
    write_rows(ROWS, str(tmp_path / "r.parquet"))
    found = pq.read_table(tmp_path / "r.parquet").to_pylist()
    assert found == [{**ROWS[0], "is_truncated": None}, ROWS[1]]


def write_parts(output: str, rows: list[dict[str, object]]) -> None:
    with vector_sink(output) as sink:
        for row in rows:
            sink.write([row], np.ones((1, 4), np.float32))


def test_fields_that_only_later_rows_have(tmp_path: Path) -> None:
    vectors = np.ones((1, 4), np.float32)
    path = tmp_path / "v.parquet"
    with vector_sink(str(path)) as sink:
        sink.write([{"text": "a", "n": 1}], vectors)
        sink.write([{"n": None}], vectors)
    assert [row["text"] for row in pq.read_table(path).to_pylist()] == ["a", None]
    for later, message in (({"n": 1, "m": 1}, "no earlier row has: m"), ({"n": "x"}, "one type")):
        with pytest.raises(DataError, match=f"do not fit into one Parquet table.*{message}"):
            write_parts(str(tmp_path / "w.parquet"), [{"n": 1}, later])
    assert [path.name for path in tmp_path.iterdir()] == ["v.parquet"]


def test_vectors_alone(tmp_path: Path) -> None:
    vectors = np.arange(8, dtype=np.float32).reshape(2, 4)
    for name, parts in (("v.npy", [vectors[:1], vectors[1:]]), ("none.npy", [])):
        with vector_sink(str(tmp_path / name)) as sink:
            for part in parts:
                sink.write([{}], part)
    np.testing.assert_array_equal(np.load(tmp_path / "v.npy"), vectors)
    assert np.load(tmp_path / "none.npy").shape == (0, 0)


def test_a_missing_library_is_said_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polyrank._extras.is_installed", lambda *modules: False)
    check_output("a.csv", ROW_SUFFIXES)
    with pytest.raises(MissingExtraError, match="Writing Parquet files needs pyarrow"):
        check_output("a.parquet", ROW_SUFFIXES)


@pytest.mark.parametrize(
    ("command", "name", "message"),
    [
        (["embed"], "v.csv", ".npy, .parquet, .jsonl, .ndjson"),
        (["embed"], "v.npy.gz", ".npy, .parquet, .jsonl, .ndjson"),
        (["rerank", "q"], "r.xlsx", ".jsonl, .ndjson, .json, .csv, .tsv, .parquet"),
        (["classify"], "r.npy", ".jsonl, .ndjson, .json, .csv, .tsv, .parquet"),
        (["embed"], ".", "is a folder"),
        (["eval", "nowhere"], "report.json", "is to be a folder"),
        (["compress", "quantize", "--data", "nowhere"], "q.onnx", "is to be a folder"),
        (["train", "reranker", "--data", "nowhere"], "m.safetensors", "is to be a folder"),
    ],
)
def test_unknown_endings(tmp_path: Path, command: list[str], name: str, message: str) -> None:
    done = CliRunner().invoke(app, [*command, "--output", str(tmp_path / name)], input="a\n")
    assert isinstance(done.exception, ConfigError)
    assert message in str(done.exception)
    assert list(tmp_path.iterdir()) == []
