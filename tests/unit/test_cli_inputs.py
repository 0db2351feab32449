"""Texts from files: layouts, encodings, and errors that name file and line."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from polyrank.cli.inputs import InputFormat, Source, chunks
from polyrank.errors import DataError

TEXTS = ["Les chats vivent 15 ans.", "猫は長生きする。", 'He said "cats, dogs".', "a\u2028b"]


def read(path: Path, **settings: object) -> list[str]:
    return [record.text for record in Source(str(path), **settings).records()]  # type: ignore[arg-type]


def test_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeff".encode() + "\r\n\n".join(TEXTS).encode())
    assert read(path) == TEXTS


def test_jsonl_keeps_fields(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = [{"id": i, "text": text, "more": [1]} for i, text in enumerate(TEXTS)]
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), "utf8")
    records = list(Source(str(path)).records())
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
    records = list(Source(str(path)).records())
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
    assert [len(part) for part in chunks(Source(str(path)).records(), 4)] == [4, 4, 2]
