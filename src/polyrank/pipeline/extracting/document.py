"""What is read of a file, whatever its format: a text in sections."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

_NO_FIELDS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a document under one heading, or on one page.

    Attributes:
        start: Offset of its first character in the document's text.
        end: Offset after its last character.
        heading: The headings it stands under, the outermost first; "" before the first.
        page: Its page, from 1; None where the format has no pages.
    """

    start: int
    end: int
    heading: str = ""
    page: int | None = None


@dataclass(frozen=True, slots=True)
class ExtractedDocument:
    """A file, or a row of one.

    Attributes:
        text: What was read, line ends as line feeds.
        sections: Parts of the text in order, which cover it.
        title: What it calls itself; "" where it does not.
        language: The language that it names itself, as in "de"; "" where it does not.
        row: Its row in a file of many, from 1; None for a whole file.
        fields: What else the row holds.
    """

    text: str
    sections: tuple[Section, ...]
    title: str = ""
    language: str = ""
    row: int | None = None
    fields: Mapping[str, str] = field(default_factory=lambda: _NO_FIELDS)


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading in a text.

    Attributes:
        start: Offset at which its section begins.
        level: 1 for the outermost.
        text: Its words.
    """

    start: int
    level: int
    text: str


def sections_of(text: str, headings: Sequence[Heading]) -> tuple[Section, ...]:
    """Cut a text before its headings.

    Args:
        text: The text.
        headings: Its headings in order.

    Returns:
        One section a heading, and one before the first where there is any text.
    """
    sections = []
    trail: list[Heading] = []
    start, name = 0, ""
    for heading in headings:
        if heading.start > start:
            sections.append(Section(start, heading.start, name))
        trail = [above for above in trail if above.level < heading.level] + [heading]
        start, name = heading.start, " › ".join(each.text for each in trail if each.text)
    if start < len(text):
        sections.append(Section(start, len(text), name))
    return tuple(sections)


class TextBuilder:
    """Puts blocks of text together, with a blank line between two, and remembers headings."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._size = 0
        self._headings: list[Heading] = []

    @property
    def headings(self) -> Sequence[Heading]:
        """The headings so far."""
        return self._headings

    def add(self, block: str, *, level: int = 0) -> None:
        """Put a block at the end.

        Args:
            block: Its text; one of blanks alone is left out.
            level: Of a heading; 0 for what is none.
        """
        block = block.strip()
        if not block:
            return
        if self._parts:
            self._put("\n\n")
        if level:
            self._headings.append(Heading(self._size, level, " ".join(block.split())))
        self._put(block)

    def _put(self, text: str) -> None:
        self._parts.append(text)
        self._size += len(text)

    def document(self, *, title: str = "", language: str = "") -> ExtractedDocument:
        """Return the document.

        Args:
            title: What it calls itself; the first heading stands for one that is missing.
            language: The language that it names.

        Returns:
            Text, sections and title.
        """
        text = "".join(self._parts)
        if not title and self._headings:
            title = self._headings[0].text
        return ExtractedDocument(text, sections_of(text, self._headings), title, language)
