"""Which module reads which file, and whether its library is there."""

from dataclasses import dataclass
from importlib import import_module
from pathlib import PurePath
from typing import TYPE_CHECKING

from polyrank._extras import require
from polyrank.pipeline.extracting.decoding import decode, is_binary
from polyrank.pipeline.extracting.document import ExtractedDocument, Section

if TYPE_CHECKING:
    from collections.abc import Callable


class NotText(Exception):  # no error: such files are passed over
    """A file holds nothing that could be read as text."""


@dataclass(frozen=True, slots=True)
class FileFormat:
    """How a kind of file is read.

    Attributes:
        name: What people call it.
        module: Its file in this folder.
        function: The function in it.
        extra: What to install for it; "" where nothing is needed.
        needs: Modules that this brings.
    """

    name: str
    module: str
    function: str = "extract"
    extra: str = ""
    needs: tuple[str, ...] = ()


_MARKDOWN = FileFormat("Markdown", "markdown", extra="index", needs=("markdown_it",))
_HTML = FileFormat("HTML", "html", extra="index", needs=("selectolax",))
_JSONL = FileFormat("JSON lines", "rows", "extract_jsonl")
FORMATS = {
    ".md": _MARKDOWN,
    ".markdown": _MARKDOWN,
    ".html": _HTML,
    ".htm": _HTML,
    ".xhtml": _HTML,
    ".pdf": FileFormat("PDF", "pdf", extra="index", needs=("pypdfium2",)),
    ".docx": FileFormat("Word", "docx", extra="index", needs=("docx",)),
    ".jsonl": _JSONL,
    ".ndjson": _JSONL,
    ".parquet": FileFormat("Parquet", "rows", "extract_parquet", "parquet", ("pyarrow",)),
}
"""Formats by ending; other files are read as plain text, if they are text."""


def extract(path: str, data: bytes) -> list[ExtractedDocument]:
    """Return the documents in a file.

    Args:
        path: Its name, whose ending says what it is.
        data: Its content.

    Returns:
        One document, or one a row.

    Raises:
        NotText: If it is a binary file of no known format.
        DataError: If it is broken, encrypted, or in another encoding.
        MissingExtraError: If the library that reads it is not installed.
    """
    kind = FORMATS.get(PurePath(path).suffix.lower())
    if kind is None:
        if is_binary(data):
            raise NotText
        text = decode(data)
        return [ExtractedDocument(text, (Section(0, len(text)),) if text else ())]
    if kind.needs:
        require(kind.extra, *kind.needs, purpose=f"Reading {kind.name} files")
    module = import_module(f"polyrank.pipeline.extracting.{kind.module}")
    read: Callable[[bytes], list[ExtractedDocument]] = getattr(module, kind.function)
    return read(data)
