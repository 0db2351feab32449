"""One request from its first byte to its last: keys, limits, clock, body, dialect, reply, log.

Everything that all dialects share stands here once; what differs stands in the dialects.
"""

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

import orjson
from pydantic import ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from polyrank.errors import (
    ConfigError,
    DeadlineExceededError,
    PayloadTooLargeError,
    RequestError,
    UnauthorizedError,
)
from polyrank.server.admission import Admission, Permit
from polyrank.server.context import RequestContext
from polyrank.server.dialects.base import Api, Dialect, Operation, Route
from polyrank.server.failures import Failure, failure_of
from polyrank.server.health import Health
from polyrank.server.keys import Keys
from polyrank.server.logs import log
from polyrank.server.metrics import Metrics
from polyrank.server.service import Service
from polyrank.server.settings import ServerSettings
from polyrank.server.tracing import NO_TRACING, Fact, Tracing

TIMEOUT_HEADER = "x-request-timeout-ms"
ID_HEADER = "x-request-id"
CLIENT_GONE = 499  # as nginx counts them; nobody reads it
LARGE_BODY_BYTES = 200_000  # parsed in a worker thread
LARGE_REPLY_TEXTS = 64
MOST_FAULTS_TOLD = 5
_GOOD_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)
# kinds of failures under the labels of TEI's te_request_failure
TEI_LABELS = {
    "too_large": "batch_size",
    "overloaded": "overloaded",
    "timeout": "dropped",
    "backend": "inference",
    "incapable": "model_type",
    "empty": "missing_values",
}


class Exchange:
    """Serves requests of any dialect."""

    def __init__(
        self,
        service: Service,
        settings: ServerSettings,
        keys: Keys,
        health: Health,
        tracing: Tracing = NO_TRACING,
    ) -> None:
        self.service = service
        self.settings = settings
        self.keys = keys
        self.health = health
        self.tracing = tracing

    @property
    def admission(self) -> Admission:
        """Counts what is under way."""
        return self.service.admission

    @property
    def metrics(self) -> Metrics:
        """Counts what has been."""
        return self.service.metrics

    async def serve(self, route: Route, request: Request) -> Response:
        """Return the answer to a request, whatever happens.

        Args:
            route: What is done at the request's path.
            request: The request; its body has not been read.

        Returns:
            The answer: the operation's reply, or its dialect's error.
        """
        return await _Turn(self, route, request).answer()


class _Turn:
    """One request and its answer."""

    def __init__(self, exchange: Exchange, route: Route, request: Request) -> None:
        self.exchange = exchange
        self.route = route
        self.request = request
        self.operation: Operation = route.operations[0]
        self.context = RequestContext(
            request_id=request_id(request),
            trace=exchange.tracing.begin(route.method, route.path, request.headers),
        )
        self.failure: Failure | None = None

    @property
    def dialect(self) -> Dialect:
        return self.operation.dialect

    async def answer(self) -> Response:
        try:
            content = await self._within_limits()
            response = Response(content, 200, self._headers(), "application/json")
        except ClientDisconnect:
            response = Response(status_code=CLIENT_GONE)
        except Exception as exc:  # noqa: BLE001 - an error of our own becomes a 500, and a log line
            response = self._refuse(exc)
        self._account(response.status_code)
        return response

    async def _within_limits(self) -> bytes:
        if self.exchange.keys and not self.exchange.keys.accept(self.request.headers):
            raise UnauthorizedError(
                "this server wants an API key: send it as `Authorization: Bearer KEY`"
            )
        timeout_s = self._timeout_s()
        with self.exchange.admission.request() as permit:
            try:
                async with asyncio.timeout(timeout_s):
                    body = await self._body(permit)
                    return await self._unless_gone(self._run(body))
            except TimeoutError as exc:
                raise DeadlineExceededError(
                    f"the result was not there within {timeout_s:g} s; what waited was dropped"
                ) from exc

    def _timeout_s(self) -> float:
        longest = self.exchange.settings.limits.request_timeout_s
        asked = self.request.headers.get(TIMEOUT_HEADER)
        if asked is None:
            return longest
        if not (asked.isascii() and asked.isdigit() and 0 < len(asked) < 10 and int(asked) > 0):
            raise RequestError(
                f"the header {TIMEOUT_HEADER} must be a whole number of milliseconds, above 0"
            )
        return min(int(asked) / 1000, longest)

    async def _body(self, permit: Permit) -> bytes:
        if self.route.method == "GET":
            return b""
        announced = self.request.headers.get("content-length", "")
        limit = self.exchange.settings.limits.max_payload_bytes
        if announced.isdigit() and int(announced) > limit:
            raise PayloadTooLargeError(
                f"the body has {int(announced):,} bytes; this server takes {limit:,}. Split it, "
                "or raise --payload-limit."
            )
        chunks: list[bytes] = []
        try:
            async with asyncio.timeout(self.exchange.settings.limits.body_timeout_s):
                async for chunk in self.request.stream():
                    permit.add_bytes(len(chunk))
                    chunks.append(chunk)
        except TimeoutError as exc:
            raise DeadlineExceededError("the body did not come in time") from exc
        return b"".join(chunks)

    async def _unless_gone(self, work: Coroutine[Any, Any, bytes]) -> bytes:
        """Return the result of work, or end it when the client has hung up."""
        running = asyncio.ensure_future(work)
        gone = asyncio.ensure_future(self.request.receive())
        try:
            await asyncio.wait({running, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not running.done():
                raise ClientDisconnect
            return running.result()
        finally:
            for task in (running, gone):
                task.cancel()
            if not running.done():
                with suppress(asyncio.CancelledError):
                    await running

    async def _run(self, body: bytes) -> bytes:
        service = self.exchange.service
        if self.route.method == "GET":
            reply = await self.operation.handle(None, self._api())
            return dump(reply)
        is_large = len(body) > LARGE_BODY_BYTES
        depth = self.exchange.settings.limits.max_json_depth
        fields = await service.in_worker(parse, body, depth) if is_large else parse(body, depth)
        if self.route.choose is not None:
            self.operation = self.route.choose(fields, self.request.headers, service.registry)
        schema = self.operation.schema
        assert schema is not None
        if is_large:
            checked = await service.in_worker(schema.model_validate, fields)
        else:
            checked = schema.model_validate(fields)
        del fields, body
        reply = await self.operation.handle(checked, self._api())
        if self.context.num_texts > LARGE_REPLY_TEXTS:
            return await service.in_worker(dump, reply)
        return dump(reply)

    def _api(self) -> Api:
        return Api(self.exchange.service, self.context, self.exchange.settings)

    def _refuse(self, error: Exception) -> Response:
        if isinstance(error, ValidationError):
            error = ConfigError(faults(error))
        failure = self.failure = failure_of(error)
        status = self.dialect.status(failure)
        if status >= 500 and failure.kind not in ("timeout", "unavailable"):
            logger = logging.getLogger("polyrank.server")
            logger.error("request %s failed", self.context.request_id, exc_info=error)
        headers = self._headers()
        if failure.retry_after_s is not None:
            headers["retry-after"] = str(max(1, round(failure.retry_after_s)))
        if failure.kind == "unauthorized":
            headers["www-authenticate"] = "Bearer"
        if failure.kind in ("too_large", "unauthorized", "overloaded"):
            headers["connection"] = "close"  # the rest of the body will not be read
        body = orjson.dumps(self.dialect.encode_error(failure, status))
        return Response(body, status, headers, "application/json")

    def _headers(self) -> dict[str, str]:
        context = self.context
        headers = {
            ID_HEADER: context.request_id,
            "x-compute-type": "cpu",
            "x-compute-time": _ms(time.monotonic() - context.begun),
            "x-compute-characters": str(context.num_characters),
            "x-compute-tokens": str(context.num_tokens),
            "x-total-time": _ms(time.monotonic() - context.begun),
            "x-tokenization-time": _ms(context.tokenization_s),
            "x-queue-time": _ms(context.queue_s),
            "x-inference-time": _ms(context.inference_s),
        }
        if self.exchange.settings.device != "cpu":
            headers["x-compute-type"] = self.exchange.settings.device
        if self.exchange.health.is_draining:
            headers["connection"] = "close"
        return headers

    def _account(self, status: int) -> None:
        context, metrics = self.context, self.exchange.metrics
        total_s = time.monotonic() - context.begun
        metrics.count_request(context, self.failure_label(status), total_s)
        metrics.answers.labels(self.dialect.name, str(status)).inc()
        facts: dict[str, Fact] = {
            "request_id": context.request_id,
            "dialect": self.dialect.name,
            "model": context.model,
            "texts": context.num_texts,
            "tokens": context.num_tokens,
            "truncated": context.num_truncated,
        }
        gone = "dropped" if status == CLIENT_GONE else None
        context.trace.end(status, self.failure.kind if self.failure else gone, facts)
        log(
            logging.INFO if status < 500 else logging.WARNING,
            "request",
            method=self.route.method,
            path=self.route.path,
            status=status,
            **facts,
            total_ms=round(total_s * 1000, 1),
            queue_ms=round(context.queue_s * 1000, 1),
            inference_ms=round(context.inference_s * 1000, 1),
            **({"error": self.failure.kind} if self.failure else {}),
            **({"trace_id": context.trace.trace_id} if context.trace.trace_id else {}),
        )

    def failure_label(self, status: int) -> str | None:
        if self.failure is not None:
            return TEI_LABELS.get(self.failure.kind, "validation")
        return "dropped" if status == CLIENT_GONE else None


def request_id(request: Request) -> str:
    """Return the id that the client gave, if it is a plain one, or a new one."""
    given = request.headers.get(ID_HEADER, "")
    return given if _GOOD_ID.fullmatch(given) else secrets.token_hex(8)


def parse(body: bytes, max_depth: int) -> dict[str, Any]:
    """Return the fields of a body.

    Args:
        body: JSON in UTF-8.
        max_depth: Most lists and objects within each other.

    Returns:
        The object that it holds.

    Raises:
        RequestError: If it is not JSON, not an object, or too deep.
    """
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise RequestError(f"the body is not JSON: {exc}") from exc
    if not isinstance(fields, dict):
        raise RequestError(f"the body must be a JSON object, not {type(fields).__name__}")
    level: list[Any] = [fields]
    for _ in range(max_depth):
        inner = (member for each in level for member in _members(each))
        level = [member for member in inner if isinstance(member, dict | list)]
        if not level:
            return fields
    raise RequestError(f"the body's lists and objects lie more than {max_depth} deep")


def _members(container: Any) -> Any:
    return container.values() if isinstance(container, dict) else container


def dump(reply: Any) -> bytes:
    """Return a reply as JSON; NumPy arrays become lists."""
    return orjson.dumps(reply, option=orjson.OPT_SERIALIZE_NUMPY)


def faults(error: ValidationError) -> str:
    """Return what is wrong with a body, field by field, without what it held."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    told = [
        f"`{'.'.join(map(str, fault['loc'])) or 'body'}`: {fault['msg']}"
        for fault in found[:MOST_FAULTS_TOLD]
    ]
    more = len(found) - len(told)
    return "; ".join(told) + (f"; and {more} more" if more else "")


def _ms(seconds: float) -> str:
    return str(round(seconds * 1000))
