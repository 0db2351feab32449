"""A request's body on its way to fields: counted before it is parsed, bounded, checked.

Parsing makes many times a body's bytes: sixteen megabytes of `[],` are half a gigabyte of lists.
So values and depth are counted on the bytes first, in blocks that hold neither memory nor the
interpreter for long. Knows nothing of dialects.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray
from pydantic import ValidationError

from polyrank.errors import PayloadTooLargeError, RequestError
from polyrank.server.settings import Limits

MOST_FAULTS_TOLD = 5
_BLOCK = 1 << 20
_QUOTE, _BACKSLASH = ord('"'), ord("\\")
_OPENS, _CLOSES, _PARTS = b"[{", b"]}", b",:"


def _table(*weights: tuple[bytes, int]) -> NDArray[np.int8]:
    table = np.zeros(256, np.int8)
    for members, weight in weights:
        table[list(members)] = weight
    return table


_VALUES = _table((_OPENS + _PARTS, 1))
_STEPS = _table((_OPENS, 1), (_CLOSES, -1))


def survey(body: bytes) -> tuple[int, int]:
    """Return how many values a JSON text holds, and how deep its lists and objects lie.

    Args:
        body: The text. What comes after a fault in it, no parser reads.

    Returns:
        Commas, colons and openings outside of strings; and the most open at once.
    """
    num_values = depth = deepest = 0
    is_inside = is_escaped = False
    for begin in range(0, len(body), _BLOCK):
        block = np.frombuffer(body, np.uint8, min(_BLOCK, len(body) - begin), begin)
        quotes = block == _QUOTE
        escaped, is_escaped = _escaped(block, is_escaped)
        quotes[escaped] = False
        quotes[0] ^= is_inside
        inside = np.logical_xor.accumulate(quotes)
        is_inside = bool(inside[-1])
        outside = block[~inside]
        num_values += int(np.count_nonzero(_VALUES[outside]))
        levels = depth + np.cumsum(_STEPS[outside], dtype=np.int32)
        if len(levels):
            depth, deepest = int(levels[-1]), max(deepest, int(levels.max()))
    return num_values, deepest


def _escaped(block: NDArray[np.uint8], is_first: bool) -> tuple[NDArray[np.intp], bool]:
    """Return the places after a backslash that counts, and whether the next block's first is one.

    Of backslashes in a row, every other one is itself escaped.
    """
    found = np.flatnonzero(block == _BACKSLASH)
    if is_first:
        found = np.insert(found, 0, -1)
    order = np.arange(len(found))
    begins = np.diff(found, prepend=-3) > 1
    in_run = order - np.maximum.accumulate(np.where(begins, order, 0))
    places = found[in_run % 2 == 0] + 1
    goes_on = bool(len(places)) and int(places[-1]) == len(block)
    return places[: len(places) - goes_on], goes_on


def parse(body: bytes, limits: Limits) -> dict[str, Any]:
    """Return the fields of a body.

    Args:
        body: JSON in UTF-8.
        limits: Most lists and objects within each other, and most values.

    Returns:
        The object that it holds.

    Raises:
        RequestError: If it is not JSON, not an object, or too deep.
        PayloadTooLargeError: If it holds too many values.
    """
    num_opened = body.count(b"[") + body.count(b"{")
    if num_opened > limits.max_json_depth or len(body) > limits.max_json_values:
        num_values, depth = survey(body)
        if depth > limits.max_json_depth:
            raise RequestError(
                f"the body's lists and objects lie more than {limits.max_json_depth} deep"
            )
        if num_values > limits.max_json_values:
            raise PayloadTooLargeError(
                f"the body holds {num_values:,} values; this server takes "
                f"{limits.max_json_values:,}. Split it, or raise --max-client-batch-size."
            )
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise RequestError(f"the body is not JSON: {exc}") from exc
    if not isinstance(fields, dict):
        raise RequestError(f"the body must be a JSON object, not {type(fields).__name__}")
    return fields


def check_lengths(fields: dict[str, Any], limits: Limits) -> None:
    """Raise if a list of a body has more members than a request may hold texts.

    Args:
        fields: The body. Lists of numbers may be longer: they are token ids, or scores.
        limits: Most texts of a request.

    Raises:
        PayloadTooLargeError: If a list is too long.
    """
    most = limits.max_client_batch_size
    level: list[Any] = [fields]
    while level:
        for each in level:
            if isinstance(each, list) and len(each) > most and not _is_number(each[0]):
                raise PayloadTooLargeError(
                    f"a request may hold {most:,} texts or documents, not {len(each):,}. Split "
                    "it, or raise --max-client-batch-size."
                )
        level = [
            member for each in level for member in _members(each) if isinstance(member, dict | list)
        ]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _members(container: Any) -> Iterable[Any]:
    return container.values() if isinstance(container, dict) else container


def faults(error: ValidationError) -> str:
    """Return what is wrong with a body, field by field, without what it held.

    Schemas stop at a list's first fault, so there are never many more than fields.
    """
    found = error.errors(include_url=False, include_context=False, include_input=False)
    told = [
        f"`{'.'.join(map(str, fault['loc'])) or 'body'}`: {fault['msg']}"
        for fault in found[:MOST_FAULTS_TOLD]
    ]
    more = len(found) - len(told)
    return "; ".join(told) + (f"; and {more} more" if more else "")
