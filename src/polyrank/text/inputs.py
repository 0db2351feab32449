"""Checks of what callers hand in, before any tokenizer sees it."""

from collections.abc import Iterable, Mapping
from typing import Any

from polyrank.errors import InputError

TEXT_FIELDS = ("text", "content", "page_content")
"""Fields of mappings, and attributes of objects, that may hold a document's text, first come."""


def document_text(document: object, what: str) -> str:
    """Return the text of a document.

    Args:
        document: A string, a mapping with one of `TEXT_FIELDS`, or an object with such an
            attribute, as LangChain's, LlamaIndex's and Haystack's documents are.
        what: Which document it is, for the message.

    Returns:
        Its text.

    Raises:
        InputError: If it is none of them, or its text cannot be read.
    """
    if isinstance(document, str):
        return check_text(document, what)
    if isinstance(document, Mapping):
        for name in TEXT_FIELDS:
            if name in document:
                return check_text(document[name], f'{what}["{name}"]')
        raise InputError(
            f'{what} has no "{TEXT_FIELDS[0]}" field; it has '
            f"{', '.join(map(str, document)) or 'none'}. A text may also be in "
            f"{' or '.join(TEXT_FIELDS[1:])}."
        )
    for name in TEXT_FIELDS:
        text = getattr(document, name, None)
        if isinstance(text, str):
            return check_text(text, f"{what}.{name}")
    raise InputError(
        f"{what} must be a string, or a mapping or object with a string as one of "
        f"{', '.join(TEXT_FIELDS)}, not {type(document).__name__}: {document!r:.80}"
    )


def as_list(values: object, what: str, of: str) -> list[Any]:
    """Return the members of any iterable but a single text.

    Args:
        values: A list, tuple, array, generator, …
        what: Name of the argument, for the message.
        of: What it should hold, for the message.

    Returns:
        Its members.

    Raises:
        InputError: If it is a single text or mapping, or cannot be iterated.
    """
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise InputError(
            f"{what} must be a list of {of}, not {type(values).__name__}; "
            "put a single one in a list"
        )
    return list(values)


def check_text(text: object, what: str) -> str:
    """Return a text that a tokenizer can read.

    Args:
        text: The value given as a text.
        what: Which value it is, for the message, as in "documents[3]".

    Returns:
        The same text.

    Raises:
        InputError: If it is not a string, or holds a lone surrogate (half of a character,
            which no encoding can represent).
    """
    if not isinstance(text, str):
        raise InputError(f"{what} must be a string, not {type(text).__name__}: {text!r:.80}")
    try:
        text.encode("utf8")
    except UnicodeEncodeError as exc:
        raise InputError(
            f"{what} holds a lone surrogate, {text[exc.start]!a}, at character {exc.start}: half "
            "of a character, usually left by text cut in the middle or decoded wrongly. Repair it "
            'with text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").'
        ) from exc
    return text


def check_texts(texts: object, what: str = "texts") -> list[str]:
    """Return texts that can be read.

    Args:
        texts: Any iterable of strings.
        what: Name of the argument, for the message.

    Returns:
        The texts.

    Raises:
        InputError: If they are not an iterable of strings.
    """
    return [
        check_text(text, f"{what}[{i}]") for i, text in enumerate(as_list(texts, what, "strings"))
    ]


def check_pairs(pairs: object, what: str = "pairs") -> list[tuple[str, str]]:
    """Return pairs of texts that can be read.

    Args:
        pairs: Any iterable of pairs of strings.
        what: Name of the argument, for the message.

    Returns:
        The pairs.

    Raises:
        InputError: If they are not an iterable of pairs of strings.
    """
    return [
        check_pair(pair, f"{what}[{i}]")
        for i, pair in enumerate(as_list(pairs, what, "(text, text) pairs"))
    ]


def check_pair(pair: object, what: str = "pair") -> tuple[str, str]:
    """Return two texts that can be read.

    Args:
        pair: Any iterable of two strings.
        what: Which pair it is, for the message.

    Returns:
        The two.

    Raises:
        InputError: If they are not two strings.
    """
    members = as_list(pair, what, "two texts")
    if len(members) != 2:
        raise InputError(f"{what} must be two texts, not {len(members)}: {pair!r:.80}")
    return check_text(members[0], f"{what}[0]"), check_text(members[1], f"{what}[1]")


def is_single_pair(pairs: object) -> bool:
    """Return whether a list or tuple is one pair of texts rather than several pairs."""
    return (
        isinstance(pairs, tuple | list)
        and len(pairs) == 2
        and all(isinstance(text, str) for text in pairs)
    )
