"""Texts from files: layouts, encodings, and errors that name file and line."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from polyrank.cli.inputs import InputFormat, TextSource, chunks
from polyrank.errors import DataError, MissingExtraError

TEXTS = ["Les chats vivent 15 ans.", "猫は長生きする。", 'He said "cats, dogs".', "a\u2028b"]


def read(path: Path, **settings: object) -> list[str]:
    return [record.text for record in TextSource(str(path), **settings).records()]  # type: ignore[arg-type]


def test_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeff".encode() + "\r\n\n".join(TEXTS).encode())
    assert read(path) == TEXTS


def test_jsonl_keeps_fields(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = [{"id": i, "text": text, "more": [1]} for i, text in enumerate(TEXTS)]
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), "utf8")
    records = list(TextSource(str(path)).records())
    assert [record.fields for record in records] == rows
    assert records[2].where.endswith("a.jsonl, line 3")


def test_jsonl_without_its_ending_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_text('{"text": "a"}\n{"text": "b"}\n')
    assert read(path) == ["a", "b"]
    assert read(path, format=InputFormat.LINES)[0] == '{"text": "a"}'


@pytest.mark.parametrize(("suffix", "delimiter"), [(".csv", ","), (".tsv", "\t")])
def test_tables(tmp_path: Path, suffix: str, delimiter: str) -> None:
    import csv

    path = tmp_path / f"a{suffix}"
    with path.open("w", encoding="utf8", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(["id", "body"])
        writer.writerows([i, text + "\nsecond line"] for i, text in enumerate(TEXTS))
    assert read(path, text_field="body") == [text + "\nsecond line" for text in TEXTS]
    with pytest.raises(DataError, match=r"no field 'text'; it has id, body.*--text-field"):
        read(path)


def test_a_very_long_cell(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text\n" + "x" * 300_000 + "\n")
    assert len(read(path)[0]) == 300_000


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": TEXTS, "n": [1, 2, 3, 4]}), path)
    records = list(TextSource(str(path)).records())
    assert [record.text for record in records] == TEXTS
    assert records[1].fields["n"] == 2
    path.write_bytes(b"PAR1 not really PAR1")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        read(path)


def test_gzip(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    with gzip.open(path, "wt", encoding="utf8") as file:
        file.write('{"text": "猫"}\n')
    assert read(path) == ["猫"]
    path.write_bytes(path.read_bytes()[:-6])
    with pytest.raises(DataError, match="cannot be read"):
        read(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"text": "a"}\n{"text": \n', r"line 2: not JSON"),
        (b'{"text": "a"}\n[1]\n', "line 2: a JSON list, not an object"),
        (b'{"text": "a"}\n{"body": "b"}\n', "line 2: no field 'text'; it has body"),
        (b'{"text": "a"}\n{"text": 5}\n', "line 2: field 'text' holds int"),
        (b'{"text": "caf\xe9"}\n', r"not UTF-8.*0xe9.*iconv"),
    ],
)
def test_errors_name_the_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        read(path)
    assert "a.jsonl" in str(error.value)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be opened: No such file"):
        read(tmp_path / "none.txt")
    with pytest.raises(DataError, match="cannot be opened"):
        read(tmp_path)


def test_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("\n \n")
    assert read(path) == []


def test_chunks(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("\n".join(map(str, range(10))))
    assert [len(part) for part in chunks(TextSource(str(path)).records(), 4)] == [4, 4, 2]


ROWS = [{"id": 1, "text": "a"}, {"id": 2, "text": "b"}]


@pytest.mark.parametrize("name", ["a.json", "a.json.gz", "a", "a.txt"])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize(
    "value", [ROWS, ["a", "b"], {"documents": ROWS, "query": "q"}, {"version": 1, "data": ROWS}]
)
def test_json_values_are_read_whole(
    tmp_path: Path, name: str, indent: int | None, value: object
) -> None:
    path = tmp_path / name
    content = "\n" + json.dumps(value, indent=indent) + "\n"
    with gzip.open(path, "wt") if name.endswith(".gz") else path.open("w") as file:
        file.write(content)
    layout = InputFormat.JSON if name == "a.txt" else InputFormat.AUTO
    assert read(path, format=layout) == ["a", "b"]


@pytest.mark.parametrize("indent", [None, 2])
def test_json_objects_one_after_another(tmp_path: Path, indent: int | None) -> None:
    for name in ("a.json", "a"):
        path = tmp_path / name
        path.write_text("\n".join(json.dumps(row, indent=indent) for row in ROWS))
        records = list(TextSource(str(path)).records())
        assert [record.fields for record in records] == ROWS


def test_one_json_object_is_one_text(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"text": "a", "tags": ["x"]}, indent=1))
    assert read(path) == ["a"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", '[{"text": "a"}', "not JSON: .*line 1 column 15.*--format lines"),
        ("a", '[\n  {"text": "a"},\n', "not JSON"),
        ("a", '{"text": \n', "not JSON"),
        ("a.json", '["a", 5]', "item 2: int, where a text or an object should be"),
        ("a.json", '[{"text": "a"}, {"body": "b"}]', "item 2: no field 'text'; it has body"),
        ("a.json", '{"x": ["a"], "y": ["b"]}', "these arrays of texts or objects: x, y"),
        ("a.json", '{"x": 5}', "these arrays of texts or objects: none"),
        ("a.json", "5", "a JSON int, not an array"),
        ("a", '{"body": "a"}\n{"body": "b"}\n', "line 1: no field 'text'; it has body"),
        ("a.json", "[" * 100_000, "not JSON"),
    ],
)
def test_json_is_never_ranked_by_its_lines(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        read(path)
    if name == "a":
        assert read(path, format=InputFormat.LINES) == content.splitlines()


def test_lines_that_only_begin_with_a_bracket(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("[1] Smith et al., 2020\n[2]\n")
    assert read(path) == ["[1] Smith et al., 2020", "[2]"]


@pytest.mark.parametrize("field", ["content", "page_content", "passage", "document"])
def test_usual_names_of_the_text(tmp_path: Path, field: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({field: "a", "text_id": 5}))
    assert read(path) == ["a"]
    path.write_text(json.dumps({field: "a", "text": "b"}))
    assert read(path) == ["b"]
    path.write_text(json.dumps({field: "a", "answer": "b"}))
    assert read(path, text_field="answer") == ["b"]
    path.write_text(json.dumps({"content": "a", "passage": "b"}))
    with pytest.raises(DataError, match=r"no field 'text'.*--text-field"):
        read(path)


def test_what_is_missing_is_said_before_a_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match="cannot be opened"):
        TextSource(str(tmp_path / "none.txt")).check()
    TextSource("-").check()
    monkeypatch.setattr("polyrank._extras.is_installed", lambda *modules: False)
    with pytest.raises(MissingExtraError, match="Reading Parquet files needs pyarrow"):
        TextSource(str(tmp_path / "a.parquet")).check()
