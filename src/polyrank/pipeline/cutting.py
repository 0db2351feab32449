"""Documents in passages: by headings and pages first, and by sentences where those are long."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from polyrank.pipeline.extracting.document import ExtractedDocument, Section
from polyrank.text.passages import count_tokens, split_passages
from polyrank.text.tokenizer import Tokenizer

_LONG = 200_000  # characters of a text that is split at once: bounds memory
_SMALL = 4  # sections below this part of a passage are joined with the next


@dataclass(frozen=True, slots=True)
class CutPassage:
    """A passage of a document.

    Attributes:
        start: Offset of its first character in the document's text.
        end: Offset after its last character.
        heading: The headings it stands under.
        page: The page it begins on.
    """

    start: int
    end: int
    heading: str = ""
    page: int | None = None


def cut_document(
    document: ExtractedDocument, tokenizer: Tokenizer, max_tokens: int
) -> list[CutPassage]:
    """Return the passages of a document.

    Args:
        document: The document.
        tokenizer: Counts tokens.
        max_tokens: Tokens of a passage at most.

    Returns:
        Passages in order, without blanks at their ends; none for a document without words.
    """
    text = document.text
    sections = tuple(part for each in document.sections for part in _bounded(each, text))
    document = replace(document, sections=sections)
    cuts = []
    for section, size in _joined(document, tokenizer, max_tokens):
        spans = [(section.start, section.end)]
        if size > max_tokens:
            part = text[section.start : section.end]
            found = split_passages(part, tokenizer, max_tokens=max_tokens)
            spans = [(section.start + span.start, section.start + span.end) for span in found]
        for start, end in spans:
            passage = text[start:end]
            start += len(passage) - len(passage.lstrip())
            end -= len(passage) - len(passage.rstrip())
            if start < end:
                cuts.append(CutPassage(start, end, section.heading, section.page))
    return cuts


def _bounded(section: Section, text: str) -> Iterator[Section]:
    """Yield parts of a section that are short enough, cut at line ends or blanks if there are."""
    start = section.start
    while section.end - start > _LONG:
        low, high = start + _LONG // 2, start + _LONG
        border = text.rfind("\n", low, high)
        if border < 0:
            border = text.rfind(" ", low, high)
        border = high if border < 0 else border + 1
        yield replace(section, start=start, end=border)
        start = border
    yield replace(section, start=start)


def _joined(
    document: ExtractedDocument, tokenizer: Tokenizer, max_tokens: int
) -> Iterator[tuple[Section, int]]:
    """Yield sections and their tokens; small ones are joined with what follows on their page."""
    waiting: Section | None = None
    size = 0
    texts = [document.text[each.start : each.end] for each in document.sections]
    counts = count_tokens(tokenizer, texts)
    for section, count in zip(document.sections, counts, strict=True):
        if waiting is None:
            waiting, size = section, count
        elif (
            size * _SMALL < max_tokens
            and size + count <= max_tokens
            and waiting.page == section.page
        ):
            waiting, size = replace(waiting, end=section.end), size + count
        else:
            yield waiting, size
            waiting, size = section, count
    if waiting is not None:
        yield waiting, size


def context(title: str, heading: str, text: str) -> str:
    """Return a passage as models read it: beneath the title and the headings it stands under.

    Args:
        title: Of its document.
        heading: Its headings.
        text: The passage.

    Returns:
        The text; what a passage already begins with is not said twice.
    """
    above = [part for part in (title, heading) if part]
    if len(above) == 2 and heading.startswith(title):
        above = [heading]
    return "\n".join([*above, text]) if above else text
