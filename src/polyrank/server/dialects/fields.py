"""Fields that several dialects read: inputs of texts or ids, documents, and what replies carry."""

import base64
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, WithJsonSchema

from polyrank.errors import InputError

_TEXT = {"type": "string"}
# one text at least: under `text`, or any name
_OBJECT = {"type": "object", "properties": {"text": _TEXT}, "required": ["text"]}
_IDS = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and all(type(each) is int for each in value)


def _check_inputs(value: Any) -> Any:
    if isinstance(value, str) or _is_ids(value):
        return value
    if isinstance(value, list) and all(isinstance(each, str) or _is_ids(each) for each in value):
        return value
    raise ValueError(
        "must be a text, a list of texts, a list of token ids, or a list of such lists"
    )


# These are told in the OpenAPI document and checked later, where all dialects have the same words
# for them: a list without texts, say, is no fault of a field, but a request for nothing.
_SOME = WithJsonSchema({"type": "array", "items": _TEXT, "minItems": 1})
_ABOVE_0 = WithJsonSchema({"type": "integer", "minimum": 1})
Texts = Annotated[list[str], _SOME]
OneOrTwo = Annotated[
    list[str], WithJsonSchema({"type": "array", "items": _TEXT, "minItems": 1, "maxItems": 2})
]
Pair = Annotated[
    list[str], WithJsonSchema({"type": "array", "items": _TEXT, "minItems": 2, "maxItems": 2})
]
Name = Annotated[str, WithJsonSchema({**_TEXT, "minLength": 1})]
Off = Annotated[bool, WithJsonSchema({"type": "boolean", "enum": [False]})]
TopN = Annotated[int, _ABOVE_0]
Dimensions = Annotated[int, _ABOVE_0]

# checked by hand: a union would try, and report, every one of its members on ten thousand texts
Inputs = Annotated[
    Any,
    BeforeValidator(_check_inputs),
    WithJsonSchema(
        {
            "anyOf": [
                _TEXT,
                _IDS,
                {"type": "array", "items": {"anyOf": [_TEXT, _IDS]}, "minItems": 1},
            ]
        }
    ),
]


def _check_documents(value: Any) -> Any:
    if isinstance(value, list) and all(isinstance(each, str | dict) for each in value):
        return value
    raise ValueError("must be a list of texts, or of objects with texts")


Documents = Annotated[
    Any,
    BeforeValidator(_check_documents),
    WithJsonSchema({"type": "array", "items": {"anyOf": [_TEXT, _OBJECT]}, "minItems": 1}),
]


def document_text(
    document: str | Mapping[str, Any], at: int, rank_fields: Sequence[str] | None
) -> str:
    """Return the text of a document that is ranked.

    Args:
        document: A text, or an object.
        at: Its position, for the message.
        rank_fields: Fields that are read; None reads ``text``, or all texts where there is none.

    Returns:
        The text of one field; several are written one a line, "name: text".

    Raises:
        InputError: If a field is missing or nothing is text.
    """
    if isinstance(document, str):
        return document
    names = rank_fields or (["text"] if "text" in document else list(document))
    for name in rank_fields or ():
        if not isinstance(document.get(name), str):
            raise InputError(f"documents[{at}] has no text in its field {name!r}")
    found = {name: document[name] for name in names if isinstance(document.get(name), str)}
    if not found:
        raise InputError(f"documents[{at}] has no field that holds text")
    if len(found) == 1:
        return str(next(iter(found.values())))
    return "\n".join(f"{name}: {text}" for name, text in found.items())


def texts_of(documents: Sequence[Any], rank_fields: Sequence[str] | None = None) -> list[str]:
    """Return the texts of documents; see `document_text`."""
    rank_fields = rank_fields and list(dict.fromkeys(rank_fields))
    return [document_text(each, i, rank_fields) for i, each in enumerate(documents)]


def as_object(document: Any) -> dict[str, Any]:
    """Return a document as an object with its text."""
    return {"text": document} if isinstance(document, str) else document


def to_base64(vector: NDArray[Any]) -> str:
    """Return the bytes of a vector, or of several row by row, little-endian, in base64."""
    little = vector.astype(vector.dtype.newbyteorder("<"), copy=False)
    return base64.b64encode(np.ascontiguousarray(little).tobytes()).decode("ascii")


def new_id(prefix: str) -> str:
    """Return an id for a reply."""
    return f"{prefix}-{secrets.token_hex(12)}"


def now_s() -> int:
    """Return the time as clients expect it in `created`."""
    return int(time.time())
