"""Traces of requests: what the server tells them, and what stands there while tracing is off.

Imports nothing of OpenTelemetry: `polyrank.server.otel` does, and only where tracing is asked for.
"""

from collections.abc import Mapping
from typing import Literal, Protocol

Step = Literal["tokenize", "queue", "encode"]
Fact = str | int | float


class Trace(Protocol):
    """One request on its way. Times are of the monotonic clock, in seconds."""

    @property
    def trace_id(self) -> str:
        """The trace that it belongs to, 32 hexadecimal digits; "" where nothing is recorded."""
        ...

    def add(self, step: Step, begin: float, end: float, facts: Mapping[str, Fact]) -> None:
        """Record a step of its work that has ended."""
        ...

    def end(self, status: int, error: str | None, facts: Mapping[str, Fact]) -> None:
        """Record its end: HTTP status, kind of failure if there was one, and what is known."""
        ...


class Tracing(Protocol):
    """Begins traces, and sees to it that they get away."""

    def begin(self, method: str, path: str, headers: Mapping[str, str]) -> Trace:
        """Return the trace of a request, a part of the caller's if the headers name one."""
        ...

    def close(self) -> None:
        """Send what is left. May block for some seconds."""
        ...


class NoTrace:
    """Records nothing."""

    trace_id = ""

    def add(self, step: Step, begin: float, end: float, facts: Mapping[str, Fact]) -> None:
        """Do nothing."""

    def end(self, status: int, error: str | None, facts: Mapping[str, Fact]) -> None:
        """Do nothing."""


NO_TRACE = NoTrace()


class NoTracing:
    """Tracing that is off."""

    def begin(self, method: str, path: str, headers: Mapping[str, str]) -> Trace:
        """Return a trace that records nothing."""
        return NO_TRACE

    def close(self) -> None:
        """Do nothing."""


NO_TRACING = NoTracing()
