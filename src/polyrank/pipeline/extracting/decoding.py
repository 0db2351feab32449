"""Bytes of text files as text: UTF-8, or what a byte order mark names."""

import codecs

from polyrank.errors import DataError

_SNIFFED = 8_192  # bytes in which a file of text has no zero
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def is_binary(data: bytes) -> bool:
    """Return whether bytes are no text in any encoding that is read here."""
    return encoding_by_mark(data) is None and b"\0" in data[:_SNIFFED]


def encoding_by_mark(data: bytes) -> str | None:
    """Return the encoding that a byte order mark names; None where there is none."""
    return next((name for mark, name in _MARKS if data.startswith(mark)), None)


def decode(data: bytes, encoding: str | None = None) -> str:
    """Return the text of bytes, line ends as line feeds.

    Args:
        data: The bytes.
        encoding: What they claim to be in; None takes UTF-8. A byte order mark comes first.

    Returns:
        The text.

    Raises:
        DataError: If they are in no such encoding.
    """
    named = encoding_by_mark(data) or encoding or "utf-8"
    try:
        text = data.decode(named)
    except UnicodeDecodeError as exc:
        raise DataError(
            f"not {named}: {exc.reason} at byte {exc.start:,}. Convert it, for instance with: "
            "iconv -f ENCODING -t utf-8"
        ) from exc
    except LookupError as exc:
        raise DataError(f"names an encoding that there is not: {named!r:.40}") from exc
    return text.replace("\r\n", "\n").replace("\r", "\n")
