"""The server process: sockets, TLS, signals, and connections that do not keep to the rules."""

import asyncio
import logging
import signal
import socket
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from polyrank.errors import ConfigError
from polyrank.server.app import Site
from polyrank.server.logs import log
from polyrank.server.settings import ServerSettings

MAX_HEAD_BYTES = 65_536
KEEP_ALIVE_S = 75
BACKLOG = 2048
_HEAD_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-length: 0\r\nconnection: close\r\n\r\n"
)


class GuardedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with bounds that it lacks: on the size and the time of a head."""

    head_timeout_s = 30.0
    _head_bytes = 0
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        """Begin to wait for the first head."""
        super().connection_made(transport)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read what came, and hang up if a head has no end."""
        if self._head_timer is not None:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._head_timer is not None and self._head_bytes > MAX_HEAD_BYTES:
            self._stop_waiting()
            self.transport.write(_HEAD_TOO_LARGE)
            self.transport.close()

    def on_message_begin(self) -> None:
        """Begin to wait for the head of a further request."""
        super().on_message_begin()
        if self._head_timer is None:
            self._wait_for_head()

    def on_headers_complete(self) -> None:
        """Stop waiting: the head is there."""
        self._stop_waiting()
        super().on_headers_complete()

    def _wait_for_head(self) -> None:
        self._head_bytes = 0
        self._head_timer = self.loop.call_later(self.head_timeout_s, self._give_up)

    def _stop_waiting(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _give_up(self) -> None:
        self._head_timer = None
        self.transport.close()


class DrainingServer(uvicorn.Server):
    """Stops on SIGTERM and Ctrl-C without losing what it has begun.

    The first signal takes readiness away, and asks clients to hang up after their answer. After
    the drain delay no new connection is taken, and requests under way have the drain time to
    end. A second Ctrl-C ends at once.
    """

    def __init__(self, config: uvicorn.Config, site: Site) -> None:
        super().__init__(config)
        self.site = site
        self._loop: asyncio.AbstractEventLoop | None = None

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until a signal comes."""
        self._loop = asyncio.get_running_loop()
        await super().serve(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen, and say so."""
        await super().startup(sockets)
        settings = self.site.settings
        if not self.started:
            return
        port = sockets[0].getsockname()[1] if sockets else settings.port
        log(
            logging.INFO,
            "listening",
            url=f"{'https' if settings.certificate else 'http'}://{settings.host}:{port}",
            models={served.name: served.tasks for served in self.site.registry.loaded},
            asks_for_key=bool(self.site.exchange.keys),
        )

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop. Runs in the main thread, between any two steps of the event loop."""
        if self.site.health.is_draining:
            self.force_exit = sig == signal.SIGINT
            self.should_exit = True
            return
        self.drain()

    def drain(self) -> None:
        """Begin to stop; safe to call from any thread."""
        self.site.health.is_draining = True
        limits = self.site.settings.limits
        log(logging.INFO, "stopping", under_way=self.site.admission.num_requests)
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._loop.call_later, limits.drain_delay_s, self._stop)

    def _stop(self) -> None:
        self.should_exit = True


def make_server(site: Site) -> DrainingServer:
    """Return the server of a site, ready to serve.

    Args:
        site: The application and its settings.

    Returns:
        The server.

    Raises:
        ConfigError: If the TLS files cannot be read.
    """
    settings = site.settings
    tls: dict[str, Any] = {}
    if settings.certificate is not None:
        for path in (settings.certificate, settings.private_key):
            if path is None or not path.is_file():
                raise ConfigError(f"the TLS file {path} is not there")
        tls = {
            "ssl_certfile": str(settings.certificate),
            "ssl_keyfile": str(settings.private_key),
        }
    config = uvicorn.Config(
        site.app,
        host=settings.host,
        port=settings.port,
        http=type(
            "Guarded", (GuardedProtocol,), {"head_timeout_s": settings.limits.body_timeout_s}
        ),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, round(settings.limits.drain_s)),
        **tls,
    )
    try:
        config.load()
    except OSError as exc:  # ssl.SSLError is one
        raise ConfigError(f"the TLS certificate or its key cannot be used: {exc}") from exc
    return DrainingServer(config, site)


def bind(settings: ServerSettings) -> socket.socket:
    """Return a socket that listens where the settings say.

    Args:
        settings: Host and port; port 0 takes a free one.

    Returns:
        The socket.

    Raises:
        ConfigError: If the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((settings.host, settings.port))
    except (OSError, OverflowError) as exc:
        listening.close()
        raise ConfigError(
            f"cannot listen on {settings.host} port {settings.port}: {exc}. Another program may "
            "have the port; choose one with --port."
        ) from exc
    listening.set_inheritable(True)
    return listening
