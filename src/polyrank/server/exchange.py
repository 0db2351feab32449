"""One request from its first byte to its last: keys, limits, clock, body, dialect, reply, log.

Everything that all dialects share stands here once; what differs stands in the dialects.
"""

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from math import ceil
from typing import Any, ParamSpec, TypeVar

import orjson
from pydantic import ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Send

from polyrank.errors import (
    ConfigError,
    DeadlineExceededError,
    PayloadTooLargeError,
    RequestError,
    UnauthorizedError,
)
from polyrank.server.admission import Admission, Permit
from polyrank.server.bodies import check_lengths, faults, parse
from polyrank.server.context import RequestContext
from polyrank.server.dialects.base import Api, Body, Dialect, Operation, Route
from polyrank.server.failures import Failure, failure_of
from polyrank.server.health import Health
from polyrank.server.keys import Keys
from polyrank.server.logs import log
from polyrank.server.metrics import Metrics
from polyrank.server.sending import Outbox, send_in_pieces
from polyrank.server.service import Service
from polyrank.server.settings import ServerSettings
from polyrank.server.tracing import NO_TRACING, Fact, Tracing

TIMEOUT_HEADER = "x-request-timeout-ms"
ID_HEADER = "x-request-id"
CLIENT_GONE = 499  # as nginx counts them; nobody reads it
LARGE_BODY_BYTES = 200_000  # parsed in a worker thread
LARGE_REPLY_TEXTS = 64
LARGE_REPLY_TOKENS = 2_000
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

P = ParamSpec("P")
T = TypeVar("T")


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
        self.outbox = Outbox(settings.limits.max_pending_bytes)
        self.reader = ThreadPoolExecutor(1, thread_name_prefix="polyrank-reader")

    @property
    def admission(self) -> Admission:
        """Counts what is under way."""
        return self.service.admission

    @property
    def metrics(self) -> Metrics:
        """Counts what has been."""
        return self.service.metrics

    async def serve(self, route: Route, request: Request, send: Send) -> None:
        """Answer a request, whatever happens: by the operation's reply, or its dialect's error.

        Args:
            route: What is done at the request's path.
            request: The request; its body has not been read.
            send: Where the answer goes.
        """
        # the request has its place until its client has read the answer
        with ExitStack() as place:
            await send_in_pieces(await _Turn(self, route, request, place).answer(), send)

    def close(self) -> None:
        """End the thread that reads bodies."""
        self.reader.shutdown(wait=False, cancel_futures=True)

    async def in_reader(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return a call's result on a large body; there is one thread, so one body at a time."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.reader, lambda: call(*args, **kwargs))


class _Turn:
    """One request and its answer."""

    def __init__(
        self, exchange: Exchange, route: Route, request: Request, place: ExitStack
    ) -> None:
        self.exchange = exchange
        self.place = place
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
            self.place.enter_context(self.exchange.outbox.hold(len(content)))
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
        self.context.flow.must_end(time.monotonic(), timeout_s)
        permit = self.place.enter_context(self.exchange.admission.request())
        try:
            async with asyncio.timeout(timeout_s):
                return await self._unless_gone(self._run(await self._body(permit)))
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
            # an error knows this frame: if the frame knew the error's task, both would stay, with
            # all that the body was parsed into, until the garbage is next collected
            del running, gone, task

    async def _run(self, body: bytes) -> bytes:
        api = Api(self.exchange.service, self.context, self.exchange.settings)
        if self.route.method == "GET":
            return dump(await self.operation.handle(None, api))
        num_bytes = len(body)
        reading = self._read(body)
        del body  # what it is parsed into is all that is kept
        checked = await reading
        return await self._reply(await self.operation.handle(checked, api), num_bytes)

    async def _read(self, body: bytes) -> Body:
        exchange, limits = self.exchange, self.exchange.settings.limits
        is_large = len(body) > LARGE_BODY_BYTES
        fields = await exchange.in_reader(parse, body, limits) if is_large else parse(body, limits)
        # a member takes two bytes or more
        is_long = len(body) > 2 * limits.max_client_batch_size
        del body
        if self.route.choose is not None:
            registry = exchange.service.registry
            self.operation = self.route.choose(fields, self.request.headers, registry)
        schema = self.operation.schema
        assert schema is not None

        def check() -> Body:
            if is_long:
                check_lengths(fields, limits)
            return schema.model_validate(fields)

        return await exchange.in_reader(check) if is_large else check()

    async def _reply(self, reply: Any, num_bytes: int) -> bytes:
        context = self.context
        is_large = context.num_texts > LARGE_REPLY_TEXTS or num_bytes > LARGE_BODY_BYTES
        if is_large or context.num_tokens > LARGE_REPLY_TOKENS:
            return await self.exchange.service.in_worker(dump, reply)
        return dump(reply)

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
            headers["retry-after"] = str(max(1, ceil(failure.retry_after_s)))
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


def dump(reply: Any) -> bytes:
    """Return a reply as JSON; NumPy arrays become lists."""
    return orjson.dumps(reply, option=orjson.OPT_SERIALIZE_NUMPY)


def _ms(seconds: float) -> str:
    return str(round(seconds * 1000))
