"""What a tokenizer.json may hold, looked at before the tokenizers library acts on it.

That library trusts its file: a table of replacements that lies about its size makes it reserve
gigabytes or abort, and a chain of forty replacements that each double a text is a hundred bytes
long. All but the model is read here, which takes a hundredth of the time of the vocabulary.
"""

import base64
import binascii
import itertools
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from polyrank.checkpoint.files import parse_json, read_plain
from polyrank.errors import CheckpointError

MAX_GROWTH = 1024  # times a text may grow by replacements; NFKC alone makes 18 characters of one
MAX_PARTS = 20_000  # values outside the model; published files have a few hundred
MAX_TEXT = 4096  # characters of a pattern or a replacement
MAX_REPEATS = 4096  # of a regular expression's counted parts, multiplied
MAX_CHARSMAP_PIECE = 256  # bytes that one match may become; NFKC's longest are 33
MAX_ADDED_TOKENS = 1 << 16

_CHARSMAP = "precompiled_charsmap"
_MODEL = re.compile(rb',\s*"model"\s*:\s*\{')
_PARTS = ("added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder", "model")
# a piece of a vocabulary may be called so, but is then followed by its number
_NO_NUMBER = re.compile(rb"\s*:\s*[^\s\d]")
# ASCII letters written as escapes: how a key can be hidden from a search for it
_HIDDEN = re.compile(rb"\\u00[4-7]")
_COUNTED = re.compile(r"\{(\d+)?(?:,(\d+)?)?\}")
_TRIE_WORD = 4


def read_tokenizer_file(path: Path) -> bytes:
    """Return a tokenizer.json that is safe to be handed to the tokenizers library.

    Args:
        path: The file; gzip data where its name ends in .gz.

    Returns:
        Its bytes, decompressed.

    Raises:
        CheckpointError: If it is no such file, or holds what no tokenizer needs.
    """
    data = read_plain(path)
    try:
        parts = _without_model(data)
        added = parts.pop("added_tokens", None) or ()
        if len(added) > MAX_ADDED_TOKENS:
            raise ValueError(f"it adds {len(added):,} tokens; the limit is {MAX_ADDED_TOKENS:,}")
        for key in ("normalizer", "pre_tokenizer", "decoder"):
            _check_replacements(parts.get(key), key)
        _check_values(parts)
    except (ValueError, TypeError) as exc:
        raise CheckpointError(
            f"{path} is not a tokenizer.json of the tokenizers library: {exc}. Download it again."
        ) from exc
    return data


def _without_model(data: bytes) -> dict[str, Any]:
    """Return what the file holds but for its model, whose vocabulary is nearly all of it."""
    found = _MODEL.search(data)
    # written by the library itself, the model comes last
    if found and not _HIDDEN.search(data) and not _has_parts(data, found.end()):
        with suppress(ValueError):  # the model is not where it seemed to be
            return _object(parse_json(data[: found.start()] + b"}", is_strict=True))
    content = _object(parse_json(data, is_strict=True))
    content.pop("model", None)
    return content


def _has_parts(data: bytes, start: int) -> bool:
    """Return whether another part of the file may begin behind a place."""
    for key in _PARTS:
        quoted = f'"{key}"'.encode()  # found at the speed of memory; an expression takes 40 ms
        at = data.find(quoted, start)
        while at >= 0:
            if _NO_NUMBER.match(data, at + len(quoted)):
                return True
            at = data.find(quoted, at + 1)
    return False


def _object(content: Any) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__}, not a JSON object")
    return content


def _check_replacements(content: Any, key: str) -> None:
    """Raise where a chain of replacements makes texts much longer."""
    growth = 1.0
    for part in _objects(content):
        if _CHARSMAP in part:
            check_charsmap(part[_CHARSMAP])
        if part.get("type") == "Replace":
            growth *= _growth(part)
    if growth > MAX_GROWTH:
        raise ValueError(
            f"the replacements of its {key} make a text up to {growth:.3g} times as long; the "
            f"limit is {MAX_GROWTH:,}"
        )


def _growth(part: Mapping[str, Any]) -> float:
    pattern, content = part.get("pattern"), part.get("content")
    if not isinstance(content, str) or not isinstance(pattern, dict):
        raise ValueError("a Replace needs a pattern and a content")
    literal = pattern.get("String")
    if isinstance(literal, str) and literal:
        return max(1.0, len(content) / len(literal))
    # an expression may match one character, or the nothing between two
    return max(1.0, float(len(content)) if _needs_text(pattern) else 1.0 + len(content))


def _needs_text(pattern: Mapping[str, Any]) -> bool:
    """Return whether an expression is one of the few known to match a character or more."""
    return pattern.get("Regex") in (" {2,}", r"\s+", " +", "\n", r"[\n\r\t]")


def _check_values(parts: Mapping[str, Any]) -> None:
    """Raise where there are more values, or longer ones, than a tokenizer has use for."""
    values = itertools.islice(_values(parts), MAX_PARTS + 1)
    for number, (key, value) in enumerate(values):
        if number == MAX_PARTS:
            raise ValueError(f"it holds more than {MAX_PARTS:,} values outside its model")
        if isinstance(value, str) and len(value) > MAX_TEXT and key != _CHARSMAP:
            raise ValueError(f"its {key} of {len(value):,} characters is beyond {MAX_TEXT:,}")
        if isinstance(value, float | int) and abs(value) > 2**32:
            raise ValueError(f"its {key} is {value!r:.100}")
        if key == "Regex" and isinstance(value, str):
            _check_repeats(value)


def _check_repeats(pattern: str) -> None:
    repeats = 1
    for low, high in _COUNTED.findall(pattern):
        counts = [int(number[:6]) for number in (low, high) if number]
        repeats *= max([1, *counts])
    if repeats > MAX_REPEATS:
        raise ValueError(
            f"its expression {pattern!r:.100} repeats a part {repeats:.3g} times; the limit is "
            f"{MAX_REPEATS:,}"
        )


def _values(content: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value with its key, or that of the list it is in; JSON is bounded in depth."""
    yield key, content
    if isinstance(content, dict):
        for name, value in content.items():
            yield from _values(value, name)
    elif isinstance(content, list):
        for value in content:
            yield from _values(value, key)


def _objects(content: Any) -> Iterator[dict[str, Any]]:
    return (value for _, value in _values(content) if isinstance(value, dict))


def check_charsmap(encoded: Any) -> None:
    """Raise unless a table of replacements is what its header says, and each is short.

    The table is a size in bytes, a trie of that size in 32-bit words, and the replacements that it
    points into, each ended by a zero byte. The library reserves memory by the size alone, and
    copies from wherever a word of the trie points to up to the next zero.

    Args:
        encoded: The table in base64.

    Raises:
        ValueError: If it is anything else.
    """
    if not isinstance(encoded, str):
        raise ValueError(f"its {_CHARSMAP} is a {type(encoded).__name__}, not a text")
    try:
        table = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise ValueError(f"its {_CHARSMAP} is not base64: {exc}") from exc
    trie_bytes = int.from_bytes(table[:_TRIE_WORD], "little")
    room = len(table) - _TRIE_WORD
    if room < _TRIE_WORD or not 0 < trie_bytes <= room or trie_bytes % _TRIE_WORD:
        raise ValueError(
            f"its {_CHARSMAP} says that its trie takes {trie_bytes:,} bytes; it holds "
            f"{max(room, 0):,}"
        )
    replacements = table[_TRIE_WORD + trie_bytes :]
    try:
        replacements.decode("utf8")
    except UnicodeDecodeError as exc:
        raise ValueError(f"the replacements of its {_CHARSMAP} are no UTF-8: {exc}") from exc
    longest = max(map(len, replacements.split(b"\0")))
    if longest > MAX_CHARSMAP_PIECE:
        raise ValueError(
            f"its {_CHARSMAP} makes {longest:,} bytes of one match; the limit is "
            f"{MAX_CHARSMAP_PIECE}"
        )
