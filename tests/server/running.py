"""A server in a thread of this process, on a port of its own, and plain calls to it."""

import asyncio
import gc
import http.client
import json
import resource
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from polyrank.engine.engine import Engine
from polyrank.server.app import Site
from polyrank.server.keys import Keys
from polyrank.server.models import Registry
from polyrank.server.run import bind, make_server
from polyrank.server.settings import Limits, ModelSource, ServerSettings
from polyrank.server.tracing import NO_TRACING, Tracing


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Running:
    """A server that runs."""

    def __init__(self, site: Site, port: int, loop: asyncio.AbstractEventLoop) -> None:
        self.site = site
        self.port = port
        self.loop = loop

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def call(
        self,
        path: str,
        body: Any = None,
        *,
        method: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        how = method or ("GET" if body is None else "POST")
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)) as connection:
            connection.request(how, path, data, dict(headers or {}))
            answer = connection.getresponse()
            names = {name.lower(): value for name, value in answer.getheaders()}
            return Reply(answer.status, names, answer.read())

    def post(self, path: str, body: Any, **headers: str) -> Any:
        reply = self.call(path, body, headers=headers)
        assert reply.status == 200, reply.body
        return reply.json


@contextmanager
def running(
    models: Mapping[str, Path],
    *,
    keys: tuple[str, ...] = (),
    admin_keys: tuple[str, ...] = (),
    on_demand: Mapping[str, Path] | None = None,
    limits: Limits | None = None,
    tracing: Tracing = NO_TRACING,
    **settings: Any,
) -> Iterator[Running]:
    sources = [ModelSource(name, str(folder)) for name, folder in models.items()]
    sources += [ModelSource(name, str(path), False) for name, path in (on_demand or {}).items()]
    made = ServerSettings(tuple(sources), port=0, limits=limits or Limits(), **settings)
    registry = Registry(made)
    registry.load_all()
    site = Site(made, registry, keys=Keys(keys), admin_keys=Keys(admin_keys), tracing=tracing)
    listening = bind(made)
    port = listening.getsockname()[1]
    server = make_server(site)
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    wait_until(partial(getattr, server, "started"))
    try:
        assert server._loop is not None
        yield Running(site, port, server._loop)
    finally:
        server.drain()
        thread.join(20)
        assert not thread.is_alive()
        site = server = registry = None  # type: ignore[assignment]
        gc.collect()  # the models of this server, before the next one loads its own


def resident_bytes(process: int | str = "self") -> int:
    """Memory that a process holds; 0 where the system has no /proc."""
    try:
        pages = Path(f"/proc/{process}/statm").read_text().split()[1]
    except OSError:
        return 0
    return int(pages) * resource.getpagesize()


class Watch:
    """How long a server's event loop was held, and how much the process grew, in a block."""

    EVERY_S = 0.01

    def __init__(self, server: Running) -> None:
        self.loop = server.loop
        self.delay_s = 0.0
        self.growth = 0

    def __enter__(self) -> "Watch":
        self._ends = threading.Event()
        self._begin = resident_bytes()
        self._due = self.loop.time() + self.EVERY_S
        self.loop.call_soon_threadsafe(self.loop.call_at, self._due, self._tick)
        self._thread = threading.Thread(target=self._weigh, daemon=True)
        self._thread.start()
        return self

    def _tick(self) -> None:
        now = self.loop.time()
        self.delay_s = max(self.delay_s, now - self._due)
        self._due = now + self.EVERY_S
        if not self._ends.is_set():
            self.loop.call_at(self._due, self._tick)

    def _weigh(self) -> None:
        while not self._ends.wait(0.005):
            self.growth = max(self.growth, resident_bytes() - self._begin)

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()


@contextmanager
def unharmed(server: Running, *, growth: int = 300_000_000, delay_s: float = 0.5) -> Iterator[None]:
    """Assert that a block neither holds the server's event loop nor swells its process."""
    with Watch(server) as watch:
        yield
    assert watch.growth < growth, f"{watch.growth:,} bytes more"
    assert watch.delay_s < delay_s, f"the event loop was held for {watch.delay_s:.2f} s"
    assert server.call("/live").status == 200


def wait_until(is_so: Any, timeout_s: float = 10) -> None:
    end = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < end, "not so in time"
        time.sleep(0.005)


class Held:
    """An encoder that waits for leave before each batch: for some steps, or for good."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.inner = engine.encoder
        self.go = threading.Event()
        self.steps = 0
        self.num_begun = 0

    @property
    def capabilities(self) -> Any:
        return self.inner.capabilities

    def run(self, batch: Any, pooling: Any) -> Any:
        self.num_begun += 1
        wait_until(lambda: self.go.is_set() or self.steps, 20)
        self.steps = max(0, self.steps - 1)
        return self.inner.run(batch, pooling)

    def close(self) -> None:
        self.inner.close()


@contextmanager
def held(server: Running, name: str) -> Iterator[Held]:
    """Hold up a model's encoder within the block, or until `go` is set."""
    (served,) = [model for model in server.site.registry.loaded if model.name == name]
    holding = Held(served.engine)
    served.engine.encoder = holding
    try:
        yield holding
    finally:
        holding.go.set()
        served.engine.encoder = holding.inner
