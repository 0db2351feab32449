"""The server process: sockets, TLS and signals."""

import asyncio
import logging
import signal
import socket
from types import FrameType
from typing import Any

import uvicorn

from polyrank.errors import ConfigError
from polyrank.server.app import Site
from polyrank.server.connections import GuardedProtocol
from polyrank.server.logs import log
from polyrank.server.settings import Limits, ServerSettings

KEEP_ALIVE_S = 75
BACKLOG = 2048


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
        http=type("Guarded", (GuardedProtocol,), _bounds(settings.limits)),
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


def _bounds(limits: Limits) -> dict[str, Any]:
    return {
        "head_timeout_s": limits.body_timeout_s,
        "write_timeout_s": limits.write_timeout_s,
        "max_connections": limits.max_connections,
    }


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
