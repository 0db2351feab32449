"""Word files (DOCX): paragraphs, headings and tables in order."""

import io
import re
import zipfile
import zlib

import docx
from docx.opc.exceptions import OpcError
from docx.table import Table
from docx.text.paragraph import Paragraph
from lxml.etree import LxmlError

from polyrank.errors import DataError
from polyrank.pipeline.extracting.document import ExtractedDocument, TextBuilder

_MOST_UNPACKED = 1 << 30
_HEADING = re.compile(r"Heading([1-9])")
_ENCRYPTED = b"\xd0\xcf\x11\xe0"  # a compound file: what Word makes of a file with a password


def extract(data: bytes) -> list[ExtractedDocument]:
    """Return the document in a Word file.

    Args:
        data: The file.

    Returns:
        One document.

    Raises:
        DataError: If it is encrypted, broken, or unpacks to more than a gigabyte.
    """
    if data.startswith(_ENCRYPTED):
        raise DataError("encrypted with a password, or an old Word file (.doc). Save it as .docx.")
    try:
        _check_size(data)
        word = docx.Document(io.BytesIO(data))
        builder = TextBuilder()
        for block in word.iter_inner_content():
            _add(builder, block)
        title = word.core_properties.title
    # the library lets errors of the archive through
    except (
        *(OpcError, LxmlError, zipfile.BadZipFile, zlib.error, EOFError),
        *(KeyError, ValueError, AttributeError, NotImplementedError, RuntimeError),
    ) as exc:
        raise DataError(f"a broken Word file: {exc}") from exc
    return [builder.document(title=title.strip())]


def _check_size(data: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        size = sum(member.file_size for member in archive.infolist())
    if size > _MOST_UNPACKED:
        raise DataError(f"unpacks to {size:,} bytes; {_MOST_UNPACKED:,} are the most")


def _add(builder: TextBuilder, block: Paragraph | Table) -> None:
    if isinstance(block, Table):
        rows = ("\t".join(_cells(row.cells)) for row in block.rows)
        builder.add("\n".join(rows))
        return
    # names of styles are in the language of Word, their ids are not
    style = block.style.style_id if block.style is not None else ""
    heading = _HEADING.fullmatch(style)
    level = int(heading.group(1)) if heading else int(style == "Title")
    builder.add(block.text, level=level)


def _cells(cells: tuple[docx.table._Cell, ...]) -> list[str]:
    """Return the texts of cells; one that spans several columns counts once."""
    texts = {id(cell._tc): " ".join(cell.text.split()) for cell in cells}
    return list(texts.values())
