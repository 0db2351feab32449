"""The application: the dialects' routes, health, metrics and the administration of models."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

import polyrank
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
from polyrank.server.service import Service
from polyrank.server.settings import ServerSettings

JSON = "application/json"
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Site:
    """A server's parts, and the application made of them.

    Args:
        settings: What the server was told.
        registry: Its models, loaded.
        keys: Keys that requests need; none asks for none.
        admin_keys: Keys of the admin routes; without any there are no such routes.
    """

    def __init__(
        self,
        settings: ServerSettings,
        registry: Registry,
        *,
        keys: Keys | None = None,
        admin_keys: Keys | None = None,
    ) -> None:
        self.settings = settings
        self.registry = registry
        self.admin_keys = admin_keys or Keys()
        self.metrics = Metrics()
        self.scheduler = Scheduler(on_batch=self.metrics.count_batch)
        self.admission = Admission(settings.limits, self.scheduler)
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
        self.exchange = Exchange(self.service, settings, keys or Keys(), self.health)
        self.metrics.watch(self.scheduler, lambda: self.admission.num_requests)
        if self.cache is not None:
            cache = self.cache
            self.metrics.gauge("polyrank_cache_bytes", "Bytes kept.", lambda: cache.num_bytes)
        self.app = self._app()

    def _app(self) -> FastAPI:
        app = FastAPI(
            title="polyrank",
            version=polyrank.__version__,
            docs_url=None,  # its page would fetch scripts from elsewhere
            redoc_url=None,
            lifespan=self._lifespan,
            exception_handlers={HTTPException: _http_error},
        )
        for route in ROUTES:
            self._add(app, route.path, _endpoint(self.exchange, route), route.method, route)
        for path in ("/health", "/ping", "/ready", "/.well-known/ready"):
            for prefix in ("", "/weaviate") if path.startswith("/.") else ("",):
                status = 204 if path.startswith("/.") else 200
                self._add_probe(app, prefix + path, status, self.health.check_ready)
        for path in ("/live", "/.well-known/live", "/weaviate/.well-known/live"):
            self._add_probe(app, path, 204 if "/." in path else 200, self._check_live)
        self._add(app, "/metrics", self._metrics, "GET")
        self._add(app, "/api-doc/openapi.json", self._openapi, "GET")
        if self.admin_keys:
            self._add(app, "/admin/models", self._models, "GET")
            self._add(app, "/admin/models/{name:path}/load", self._load, "POST")
            self._add(app, "/admin/models/{name:path}/unload", self._unload, "POST")
        document = describe(ROUTES)
        app.openapi = lambda: document  # type: ignore[method-assign] # as FastAPI's pages tell
        if self.settings.cors_origins:
            app.add_middleware(
                CORSMiddleware,
                allow_origins=list(self.settings.cors_origins),
                allow_methods=["GET", "POST"],
                allow_headers=["authorization", "content-type", "x-api-key", ID_HEADER],
            )
        return app

    def _add(
        self,
        app: FastAPI,
        path: str,
        endpoint: Callable[..., Any],
        method: str,
        route: Route | None = None,
    ) -> None:
        methods = [method, "HEAD"] if method == "GET" else [method]
        app.add_api_route(path, endpoint, methods=methods, include_in_schema=False)

    def _add_probe(
        self, app: FastAPI, path: str, status: int, check: Callable[[], Awaitable[None]]
    ) -> None:
        async def answer(request: Request) -> Response:
            try:
                await check()
            except PolyrankError as exc:
                return _error(request, failure_of(exc), 503)
            return Response(status_code=status)

        self._add(app, path, answer, "GET")

    @asynccontextmanager
    async def _lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        # the first request must not be the one that finds out
        for served in self.registry.loaded:
            await self.service.probe(served)
        yield
        self.scheduler.close()
        self.service.close()

    async def _check_live(self) -> None:
        self.health.check_live()

    async def _metrics(self, request: Request) -> Response:
        return Response(self.metrics.page(), media_type=METRICS_TYPE)

    async def _openapi(self, request: Request) -> Response:
        return Response(dump(request.app.openapi()), media_type=JSON)

    async def _models(self, request: Request) -> Response:
        return await self._as_admin(request, self._states)

    async def _load(self, request: Request, name: str) -> Response:
        async def load() -> Any:
            before = {served.name: served for served in self.registry.loaded}.get(name)
            served = await self.service.in_worker(self.registry.load, name)
            await self.service.probe(served)
            if before is not None:
                self.scheduler.forget_engine(before.engine)
            return await self._states()

        return await self._as_admin(request, load)

    async def _unload(self, request: Request, name: str) -> Response:
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


def _endpoint(exchange: Exchange, route: Route) -> Callable[[Request], Awaitable[Response]]:
    async def serve(request: Request) -> Response:
        return await exchange.serve(route, request)

    return serve


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
