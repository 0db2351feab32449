"""Markdown: the source as it is, in sections by its headings."""

from itertools import accumulate, pairwise

from markdown_it import MarkdownIt
from markdown_it.token import Token

from polyrank.pipeline.extracting.decoding import decode
from polyrank.pipeline.extracting.document import ExtractedDocument, Heading, sections_of


def extract(data: bytes) -> list[ExtractedDocument]:
    """Return the document in a file of Markdown.

    Args:
        data: The file.

    Returns:
        One document.

    Raises:
        DataError: If it is no text.
    """
    text = decode(data)
    headings = _headings(text)
    title = headings[0].text if headings else ""
    return [ExtractedDocument(text, sections_of(text, headings), title)]


def _headings(text: str) -> list[Heading]:
    # the parser counts lines between line feeds alone
    starts = [0, *accumulate(len(line) + 1 for line in text.split("\n"))]
    tokens = MarkdownIt("commonmark").parse(text)
    return [
        Heading(starts[token.map[0]], int(token.tag[1:]), _words(inline))
        for token, inline in pairwise(tokens)
        if token.type == "heading_open" and token.level == 0 and token.map
    ]


def _words(inline: Token) -> str:
    parts = (child.content or " " for child in inline.children or [])
    return " ".join("".join(parts).split())
