"""What is read of files of each format, and what is said of broken ones."""

import io
import json
import zipfile
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest

from polyrank.errors import DataError
from polyrank.pipeline.cutting import cut_document
from polyrank.pipeline.extracting.document import ExtractedDocument
from polyrank.pipeline.extracting.formats import NotText, extract
from tests.unit.pipeline.samples import Words, pdf, word


def only(name: str, data: bytes) -> ExtractedDocument:
    (document,) = extract(name, data)
    return document


def parts(document: ExtractedDocument) -> list[tuple[str, str]]:
    return [(each.heading, document.text[each.start : each.end]) for each in document.sections]


def test_markdown_is_kept_as_it_is_in_sections_by_its_headings() -> None:
    text = "Before.\n\n# Cats *here*\n\nText.\n\n```\n# no heading\n```\n\nFood\n----\nFish.\n"
    document = only("a.md", text.replace("\n", "\r\n").encode())
    assert document.text == text
    assert document.title == "Cats here"
    assert [heading for heading, _ in parts(document)] == ["", "Cats here", "Cats here › Food"]
    assert "".join(part for _, part in parts(document)) == text


def test_html_is_what_a_reader_sees() -> None:
    page = (
        '<html lang="de-AT"><head><meta charset="iso-8859-1"><title> Katzen &amp; Co </title>'
        "<style>p {}</style></head><body><nav>Start</nav><h1>Über</h1><p>Eine <b>kl</b>eine\n"
        "Katze.<br>Noch eine.</p><script>evil()</script><h2>Essen</h2><pre>a\n  b</pre>"
        "<ul><li>eins<li>zwei</ul></body></html>"
    )
    document = only("a.html", page.encode("latin-1"))
    assert (document.title, document.language) == ("Katzen & Co", "de")
    assert parts(document) == [
        ("Über", "Über\n\nEine kleine Katze.\n\nNoch eine.\n\n"),
        ("Über › Essen", "Essen\n\na\n  b\n\neins\n\nzwei"),
    ]


def test_html_as_deep_as_it_likes() -> None:
    page = "<div>" * 5_000 + "deep" + "</div>" * 5_000
    assert only("a.htm", page.encode()).text.strip() == "deep"


def test_pdf_page_by_page() -> None:
    document = only("a.pdf", pdf("Cats live long.", "Dogs bark."))
    assert [each.page for each in document.sections] == [1, 2]
    assert [part.strip() for _, part in parts(document)] == ["Cats live long.", "Dogs bark."]


def test_word_with_headings_and_tables(tmp_path: Path) -> None:
    word(tmp_path / "a.docx")
    document = only("a.docx", (tmp_path / "a.docx").read_bytes())
    assert document.title == "All about cats"
    assert parts(document) == [
        ("Cats", "Cats\n\nCats live for fifteen years.\n\n"),
        ("Cats › Food", "Food\n\nfish\tdaily"),
    ]


def test_rows_of_json_lines_and_parquet(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"text": "Cats.", "lang": "en", "n": 1}, {"text": "Hunde.", "lang": "de", "n": 2}]
    lines = "\n\n".join(map(json.dumps, rows)).encode()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    for found in (
        extract("a.jsonl", lines),
        extract("a.parquet", (tmp_path / "a.parquet").read_bytes()),
    ):
        assert [each.text for each in found] == ["Cats.", "Hunde."]
        assert [each.language for each in found] == ["en", "de"]
        assert dict(found[1].fields) == {"lang": "de", "n": "2"}


def test_text_in_other_encodings_and_without_a_known_ending() -> None:
    assert only("README", "Katzen\r\nHunde".encode("utf-16")).text == "Katzen\nHunde"
    assert only("a.txt", b"\xef\xbb\xbfcats").text == "cats"
    assert extract("a.txt", b"")[0].sections == ()


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.pdf", pdf("secret", password="cats"), "encrypted with a password.*qpdf"),
        ("a.pdf", b"%PDF-1.4 nothing", "broken PDF"),
        ("a.pdf", b"", "broken PDF"),
        ("a.docx", b"PK\x03\x04 cut", "broken Word file"),
        ("a.docx", b"\xd0\xcf\x11\xe0 rest", "encrypted|old Word file"),
        ("a.parquet", b"PAR1", "broken Parquet file"),
        ("a.jsonl", b'{"text": "a"}\n{"text"', "line 2: not JSON"),
        ("a.jsonl", b'{"words": "a"}', "row 1: no field 'text'"),
        ("a.jsonl", b'{"text": "\\ud800"}', "row 1"),
        ("a.jsonl", b"[" * 100_000, "line 1: not JSON"),
        ("a.txt", b"caf\xe9", "not utf-8.*iconv"),
        ("a.html", b"<meta charset=nonsense>", "encoding that there is not"),
    ],
)
def test_broken_files_say_what_is_wrong(name: str, data: bytes, said: str) -> None:
    with pytest.raises(DataError, match=said):
        extract(name, data)


def test_word_files_cut_anywhere_are_broken(tmp_path: Path) -> None:
    word(tmp_path / "a.docx")
    whole = (tmp_path / "a.docx").read_bytes()
    for size in range(0, len(whole), len(whole) // 40):
        with pytest.raises(DataError, match="broken Word file"):
            extract("a.docx", whole[:size])
        changed = whole[:size] + b"\xff\0\xff" + whole[size + 3 :]
        with suppress(DataError):
            extract("a.docx", changed)


def test_a_word_file_that_unpacks_to_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polyrank.pipeline.extracting.docx._MOST_UNPACKED", 1 << 20)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", bytes(2 << 20))
    with pytest.raises(DataError, match="unpacks to"):
        extract("a.docx", packed.getvalue())


def test_binary_files_are_no_text() -> None:
    with pytest.raises(NotText):
        extract("a.bin", b"\x7fELF\0\0")


def test_passages_follow_headings_pages_and_sentences() -> None:
    long = "One two three four five. " * 20
    text = f"# A\n\n{long}\n\n# B\n\nShort.\n\n# C\n\nAlso short.\n"
    document = only("a.md", text.encode())
    cuts = cut_document(document, Words(), 40)
    assert [cut.heading for cut in cuts] == ["A"] * (len(cuts) - 1) + ["B"]
    assert max(len(text[cut.start : cut.end].split()) for cut in cuts) <= 40
    assert text[cuts[-1].start : cuts[-1].end] == "# B\n\nShort.\n\n# C\n\nAlso short."
    covered = " ".join(text[cut.start : cut.end] for cut in cuts)
    assert covered.split() == text.split()
    paged = only("a.pdf", pdf("One.", "Two."))
    assert [cut.page for cut in cut_document(paged, Words(), 40)] == [1, 2]


def test_a_long_text_is_split_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polyrank.pipeline.cutting._LONG", 100)
    for text in ("one two three. " * 60, "x" * 950, "line of text\n" * 70):
        document = only("a.txt", text.encode())
        cuts = cut_document(document, Words(), 16)
        covered = "".join(text[cut.start : cut.end] for cut in cuts)
        assert "".join(covered.split()) == "".join(text.split())
        assert all(before.end <= after.start for before, after in pairwise(cuts))
