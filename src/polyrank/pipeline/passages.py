"""Passages as entries of a store: their names, and the facts that are kept with them."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from polyrank.errors import DataError
from polyrank.pipeline.cutting import context, cut_document
from polyrank.pipeline.extracting.document import ExtractedDocument
from polyrank.stores.base import RESERVED, Scalar
from polyrank.text.tokenizer import Tokenizer

FACTS = (
    *("path", "title", "heading", "language", "page", "row"),
    *("passage", "start", "end"),
)
"""Keys of what is kept with every passage, as far as it is known."""

WHOLE_NUMBERS = frozenset({"page", "row", "passage", "start", "end"})


@dataclass(frozen=True, slots=True)
class FilePassage:
    """A passage of a file, before it has a vector.

    Attributes:
        id: Its name in the store.
        text: The passage itself.
        read: What models read: the passage beneath its title and headings.
        metadata: `FACTS`, and the fields of its row that were asked for.
    """

    id: str
    text: str
    read: str
    metadata: Mapping[str, Scalar] = field(default_factory=dict)


def content_hash(data: bytes) -> str:
    """Return what names the content of a file."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def passage_ids(path: str, content: str, start: int, stop: int) -> list[str]:
    """Return the names of some passages of a file.

    Args:
        path: The file.
        content: Its `content_hash`.
        start: Number of the first.
        stop: Number after the last.

    Returns:
        One name each: the same file with the same content always gets the same ones.
    """
    place = hashlib.blake2b(f"{path}\0{content}".encode(), digest_size=12).hexdigest()
    return [f"{place}-{number}" for number in range(start, stop)]


def file_passages(
    path: str,
    content: str,
    documents: list[ExtractedDocument],
    tokenizer: Tokenizer,
    max_tokens: int,
    kept_fields: tuple[str, ...] = (),
) -> list[FilePassage]:
    """Return the passages of a file.

    Args:
        path: The file.
        content: Its `content_hash`.
        documents: What was read of it.
        tokenizer: Counts tokens.
        max_tokens: Tokens of a passage at most.
        kept_fields: Fields of rows to keep as metadata.

    Returns:
        Passages in order, numbered through.
    """
    found = [
        (text, read, facts)
        for document in documents
        for text, read, facts in _passages(document, path, tokenizer, max_tokens, kept_fields)
    ]
    names = passage_ids(path, content, 0, len(found))
    return [
        FilePassage(name, text, read, {**facts, "passage": number})
        for number, (name, (text, read, facts)) in enumerate(zip(names, found, strict=True))
    ]


def _passages(
    document: ExtractedDocument,
    path: str,
    tokenizer: Tokenizer,
    max_tokens: int,
    kept_fields: tuple[str, ...],
) -> Iterator[tuple[str, str, dict[str, Scalar]]]:
    own = {key: document.fields[key] for key in kept_fields if key in document.fields}
    for cut in cut_document(document, tokenizer, max_tokens):
        facts: dict[str, Scalar | None] = {
            "path": path,
            "title": document.title or None,
            "heading": cut.heading or None,
            "language": document.language or None,
            "page": cut.page,
            "row": document.row,
            "start": cut.start,
            "end": cut.end,
        }
        text = document.text[cut.start : cut.end]
        known = {key: value for key, value in facts.items() if value is not None}
        yield text, context(document.title, cut.heading, text), {**own, **known}


def check_kept_fields(names: tuple[str, ...]) -> None:
    """Raise unless fields of rows can stand beside what is kept of every passage.

    Args:
        names: Names of the fields.

    Raises:
        DataError: If one has a name that is taken.
    """
    for name in names:
        if name in RESERVED or (name in FACTS and name not in ("title", "language")):
            raise DataError(f"a field {name!r} cannot be kept: passages have a {name} of their own")
