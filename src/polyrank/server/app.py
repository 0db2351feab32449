"""The application: the dialects' routes, health, metrics and the administration of models."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as Path
from starlette.types import Receive, Scope, Send

from polyrank.engine.scheduler import Scheduler
from polyrank.errors import PolyrankError, UnauthorizedError
from polyrank.server.admission import Admission
from polyrank.server.cache import ResultCache
from polyrank.server.dialects.base import Route
from polyrank.server.dialects.openai import OPENAI
from polyrank.server.dialects.routes import ROUTES
from polyrank.server.exchange import ID_HEADER, Exchange, dump, request_id
from polyrank.server.failures import Failure, Kind, failure_of
from polyrank.server.health import Health
from polyrank.server.keys import Keys
from polyrank.server.metrics import Metrics
from polyrank.server.models import Registry
from polyrank.server.openapi import describe
from polyrank.server.origins import OriginGate
from polyrank.server.playground import load_page
from polyrank.server.playground.reference import load_reference
from polyrank.server.service import Service
from polyrank.server.settings import ServerSettings
from polyrank.server.tracing import NO_TRACING, Tracing

JSON = "application/json"
_WEAVIATE = ("", "/weaviate")
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Site:
    """A server's parts, and the application made of them.

    Args:
        settings: What the server was told.
        registry: Its models, loaded.
        keys: Keys that requests need; none asks for none.
        admin_keys: Keys of the admin routes; without any there are no such routes.
        tracing: What traces of requests are given to.
    """

    def __init__(
        self,
        settings: ServerSettings,
        registry: Registry,
        *,
        keys: Keys | None = None,
        admin_keys: Keys | None = None,
        tracing: Tracing = NO_TRACING,
    ) -> None:
        self.settings = settings
        self.registry = registry
        self.admin_keys = admin_keys or Keys()
        self.metrics = Metrics()
        self.scheduler = Scheduler(
            on_batch=self.metrics.count_batch, on_drop=self.metrics.drops.inc
        )
        self.admission = Admission(settings.limits, self.scheduler, self.metrics.count_refusal)
        self.cache = ResultCache(settings.cache_bytes) if settings.cache_bytes else None
        self.service = Service(
            registry,
            self.scheduler,
            self.admission,
            self.metrics,
            cache=self.cache,
            num_workers=settings.num_workers,
        )
        self.health = Health(self.service)
        self.exchange = Exchange(self.service, settings, keys or Keys(), self.health, tracing)
        self.metrics.watch(self.scheduler, lambda: self.admission.num_requests)
        if self.cache is not None:
            cache = self.cache
            self.metrics.gauge("polyrank_cache_bytes", "Bytes kept.", lambda: cache.num_bytes)
        if settings.row_cache_bytes:
            self.metrics.gauge(
                "polyrank_row_cache_bytes", "Bytes of token rows kept.", registry.row_cache_bytes
            )
        document = describe(ROUTES)
        self._document = dump(document)
        self._pages = {"/": load_page(), "/docs": load_reference(document)}
        self.app = self._app()

    def _app(self) -> Starlette:
        settings = self.settings
        gate = Middleware(OriginGate, settings.host, settings.allowed_hosts, settings.cors_origins)
        cors = Middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type", "x-api-key", ID_HEADER],
        )
        return Starlette(
            routes=[*self._dialect_paths(), *self._health_paths(), *self._own_paths()],
            middleware=[gate, cors] if settings.cors_origins else [gate],
            exception_handlers={HTTPException: _http_error},
            lifespan=self._lifespan,
        )

    def _dialect_paths(self) -> list[Path]:
        return [
            Path(route.path, _Endpoint(self.exchange, route), methods=[route.method])
            for route in ROUTES
        ]

    def _health_paths(self) -> list[Path]:
        ready, live = self.health.check_ready, self._check_live
        return [
            *(Path(path, _probe(ready, 200)) for path in ("/health", "/ping", "/ready")),
            Path("/live", _probe(live, 200)),
            # KServe's
            Path("/v2/health/ready", _probe(ready, 200)),
            Path("/v2/health/live", _probe(live, 200)),
            # Weaviate wants 204
            *(Path(f"{start}/.well-known/ready", _probe(ready, 204)) for start in _WEAVIATE),
            *(Path(f"{start}/.well-known/live", _probe(live, 204)) for start in _WEAVIATE),
        ]

    def _own_paths(self) -> list[Path]:
        paths = [
            *(Path(path, self._show_page) for path in self._pages),
            Path("/metrics", self._metrics),
            Path("/openapi.json", self._openapi),
            Path("/api-doc/openapi.json", self._openapi),  # TEI's place for it
        ]
        if self.admin_keys:
            paths += [
                Path("/admin/models", self._models),
                Path("/admin/models/{name:path}/load", self._load, methods=["POST"]),
                Path("/admin/models/{name:path}/unload", self._unload, methods=["POST"]),
            ]
        return paths

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        await self._probe_all()
        yield
        self.scheduler.close()
        self.service.close()
        self.exchange.close()
        await asyncio.to_thread(self.exchange.tracing.close)

    async def _probe_all(self) -> None:
        # the first request must not be the one that finds out
        for served in self.registry.loaded:
            await self.service.probe(served)

    async def _check_live(self) -> None:
        self.health.check_live()

    async def _metrics(self, request: Request) -> Response:
        return Response(self.metrics.page(), media_type=METRICS_TYPE)

    async def _show_page(self, request: Request) -> Response:
        page = self._pages[request.url.path]
        headers = {
            "content-security-policy": page.policy,
            "x-content-type-options": "nosniff",
            "referrer-policy": "no-referrer",
        }
        return Response(page.content, headers=headers, media_type="text/html")

    async def _openapi(self, request: Request) -> Response:
        return Response(self._document, media_type=JSON)

    async def _models(self, request: Request) -> Response:
        return await self._as_admin(request, self._states)

    async def _load(self, request: Request) -> Response:
        name = request.path_params["name"]

        async def load() -> Any:
            with self.registry.loading(name) as source:
                served = await asyncio.to_thread(self.registry.make, source)
                # a model that loads and cannot run must not take the place of one that can
                await self.service.probe(served)
                before = self.registry.publish(served)
            if before is not None:
                self.scheduler.forget_engine(before.engine)
            return await self._states()

        return await self._as_admin(request, load)

    async def _unload(self, request: Request) -> Response:
        name = request.path_params["name"]

        async def unload() -> Any:
            self.scheduler.forget_engine(self.registry.unload(name).engine)
            return await self._states()

        return await self._as_admin(request, unload)

    async def _states(self) -> Any:
        return {"models": [asdict(state) for state in self.registry.states()]}

    async def _as_admin(self, request: Request, act: Callable[[], Awaitable[Any]]) -> Response:
        try:
            if not self.admin_keys.accept(request.headers):
                raise UnauthorizedError("this route wants an admin key")
            return Response(dump(await act()), media_type=JSON)
        except PolyrankError as exc:
            failure = failure_of(exc)
            if failure.kind == "backend":
                # an administrator may know what is wrong with a folder
                failure = Failure(failure.kind, str(exc))
            return _error(request, failure, OPENAI.status(failure))


class _Endpoint:
    """A route as an application of its own: it sees when its answer has been sent."""

    def __init__(self, exchange: Exchange, route: Route) -> None:
        self._exchange = exchange
        self._route = route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await self._exchange.serve(self._route, Request(scope, receive), send)


def _probe(
    check: Callable[[], Awaitable[None]], status: int
) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        try:
            await check()
        except PolyrankError as exc:
            return _error(request, failure_of(exc), 503)
        return Response(status_code=status)

    return answer


def _error(request: Request, failure: Failure, status: int) -> Response:
    headers = {ID_HEADER: request_id(request)}
    return Response(dump(OPENAI.encode_error(failure, status)), status, headers, JSON)


async def _http_error(request: Request, error: Exception) -> Response:
    """Return a path or method that is not there as an error in the commonest shape."""
    assert isinstance(error, HTTPException)
    kind: Kind = "method" if error.status_code == 405 else "not_found"
    path = request.url.path[:200]
    message = f"{request.method} {path} is not served here; /openapi.json lists what is"
    response = _error(request, Failure(kind, message), error.status_code)
    response.headers.update(error.headers or {})
    return response
