"""Errors as answers: one table from error classes to kinds and HTTP statuses.

Dialects give kinds their own words and, where their protocol has it, another status.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from polyrank import errors

Kind = Literal[
    "malformed",
    "invalid",
    "empty",
    "too_large",
    "unauthorized",
    "forbidden",
    "unknown_model",
    "not_found",
    "method",
    "incapable",
    "overloaded",
    "timeout",
    "unavailable",
    "backend",
    "internal",
]

STATUSES: Mapping[Kind, int] = {
    "malformed": 400,
    "invalid": 422,
    "empty": 400,
    "too_large": 413,
    "unauthorized": 401,
    "forbidden": 403,
    "unknown_model": 404,
    "not_found": 404,
    "method": 405,
    "incapable": 400,
    "overloaded": 429,
    "timeout": 504,
    "unavailable": 503,
    "backend": 500,
    "internal": 500,
}

KINDS: Mapping[type[BaseException], Kind] = {
    errors.EmptyRequestError: "empty",
    errors.PayloadTooLargeError: "too_large",
    errors.UnauthorizedError: "unauthorized",
    errors.UnknownModelError: "unknown_model",
    errors.RequestError: "malformed",
    errors.InputError: "invalid",
    errors.ConfigError: "invalid",
    errors.DataError: "invalid",
    errors.CapabilityError: "incapable",
    errors.OverloadedError: "overloaded",
    errors.DeadlineExceededError: "timeout",
    errors.UnavailableError: "unavailable",
    errors.ServingError: "unavailable",
    errors.EncoderError: "backend",
    errors.CheckpointError: "backend",
    errors.PolyrankError: "internal",
}
"""The class nearest to an error's own decides."""

LONGEST_MESSAGE = 2_000
INTERNAL_MESSAGE = "the server failed at this request; its log tells more under the request's id"


@dataclass(frozen=True, slots=True)
class Failure:
    """An error, ready to be told in a dialect.

    Attributes:
        kind: What sort of error it is.
        message: What was wrong, for the client.
        retry_after_s: Seconds to wait before another try, where that helps.
        class_name: Class of `polyrank.errors` that the library would raise.
    """

    kind: Kind
    message: str
    retry_after_s: float | None = None
    class_name: str = "PolyrankError"


def failure_of(error: Exception) -> Failure:
    """Return what a client is told of an error.

    Args:
        error: Any error. Only those that polyrank raises on purpose tell their message: others
            could show what is nobody's business.

    Returns:
        The failure.
    """
    nearest = next((cls for cls in type(error).__mro__ if cls in KINDS), None)
    if nearest is None:
        return Failure("internal", INTERNAL_MESSAGE)
    kind, name = KINDS[nearest], nearest.__name__
    if isinstance(error, errors.CheckpointError):
        return Failure(kind, INTERNAL_MESSAGE, class_name=name)
    retry_after_s = error.retry_after_s if isinstance(error, errors.OverloadedError) else None
    if kind == "unavailable":
        retry_after_s = 1.0
    # a message may quote what a client sent, which may be megabytes
    return Failure(kind, str(error)[:LONGEST_MESSAGE], retry_after_s, name)
