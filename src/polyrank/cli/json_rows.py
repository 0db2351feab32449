"""JSON that is read whole: which values stand in a text, and which of them are rows."""

import json
from typing import Any


def json_values(content: str) -> list[Any]:
    """Return the JSON values that stand one after another in a text.

    Args:
        content: The text.

    Returns:
        The values.

    Raises:
        ValueError: If it is not JSON.
        RecursionError: If it is nested too deeply.
    """
    decoder, values, at = json.JSONDecoder(), [], 0
    while (start := _next_filled(content, at)) < len(content):
        value, at = decoder.raw_decode(content, start)
        values.append(value)
    return values


def _next_filled(content: str, at: int) -> int:
    while at < len(content) and content[at] in " \t\r\n":
        at += 1
    return at


def is_array_of_rows(value: Any) -> bool:
    """Return whether a value is an array of texts or objects alone."""
    return isinstance(value, list) and all(isinstance(member, str | dict) for member in value)
