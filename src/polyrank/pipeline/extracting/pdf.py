"""PDF by PDFium, page by page: the text that a page holds; pictures of text are not read."""

import pypdfium2
from pypdfium2 import raw

from polyrank.errors import DataError
from polyrank.pipeline.extracting.document import ExtractedDocument, Section

_PAGE_END = "\n\n"


def extract(data: bytes) -> list[ExtractedDocument]:
    """Return the document in a PDF, a section a page.

    Args:
        data: The file.

    Returns:
        One document.

    Raises:
        DataError: If it is encrypted or broken.
    """
    try:
        with pypdfium2.PdfDocument(data) as pdf:
            pages = [_page_text(pdf, at) for at in range(len(pdf))]
            title = pdf.get_metadata_value("Title").strip()
    except pypdfium2.PdfiumError as exc:
        if getattr(exc, "err_code", None) == raw.FPDF_ERR_PASSWORD:
            raise DataError(
                "encrypted with a password. Save a copy without one, for instance with: "
                "qpdf --decrypt --password=PASSWORD IN OUT"
            ) from exc
        raise DataError(f"a broken PDF: {exc}") from exc
    sections, size = [], 0
    for number, page in enumerate(pages, start=1):
        end = size + len(page) + len(_PAGE_END)
        sections.append(Section(size, end, page=number))
        size = end
    return [ExtractedDocument("".join(page + _PAGE_END for page in pages), tuple(sections), title)]


def _page_text(pdf: pypdfium2.PdfDocument, at: int) -> str:
    page = pdf[at]
    try:
        text = page.get_textpage()
        try:
            found = str(text.get_text_range(errors="replace"))
        finally:
            text.close()
    finally:
        page.close()
    # U+FFFE stands for a hyphen at which a line was broken
    joined = found.replace("\ufffe\r\n", "").replace("\ufffe", "").replace("\0", "")
    return joined.replace("\r\n", "\n").replace("\r", "\n")
