"""One replica: a whole server with its models and its queue, behind Ray's proxy."""

import time
from dataclasses import dataclass

from starlette.applications import Starlette

from polyrank._extras import require
from polyrank.server import logs
from polyrank.server.app import Site
from polyrank.server.keys import Keys
from polyrank.server.models import Registry
from polyrank.server.ray.policy import BUSY_SHARE, QUEUED_TOKENS
from polyrank.server.settings import ServerSettings
from polyrank.server.tracing import NO_TRACING, Tracing


@dataclass(frozen=True, slots=True)
class ReplicaPlan:
    """What a replica is made of. Travels through Ray; of keys it has hashes alone.

    Attributes:
        settings: What the server was told.
        keys: Keys that requests need.
        is_traced: Whether spans are sent by OpenTelemetry.
        is_json_logged: Whether lines of the log are JSON.
        log_level: "debug", "info", "warning" or "error".
    """

    settings: ServerSettings
    keys: Keys
    is_traced: bool = False
    is_json_logged: bool = False
    log_level: str = "info"


class Replica:
    """A server without sockets. Ray calls its methods by these names."""

    def __init__(self, plan: ReplicaPlan) -> None:
        """Load the models.

        Args:
            plan: What to serve.
        """
        logs.set_up(is_json=plan.is_json_logged, level=plan.log_level)
        registry = Registry(plan.settings)
        registry.load_all()
        self.site = Site(
            plan.settings, registry, keys=plan.keys, tracing=_tracing(is_on=plan.is_traced)
        )
        self._seen_at, self._seen_computing_s = time.monotonic(), 0.0

    def __serve_build_asgi_app__(self) -> Starlette:
        """Return the application that answers; its start probes every model."""
        return self.site.app

    async def check_health(self) -> None:
        """Raise where the server is not ready, so that Ray replaces the replica.

        Raises:
            UnavailableError: If a model does not answer.
        """
        await self.site.health.check_ready()

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Return what `QueuedTokensPolicy` goes by: tokens that wait, and how busy this is."""
        now, computing_s = time.monotonic(), self.site.metrics.computing_s
        passed_s = max(now - self._seen_at, 1e-3)
        share = min((computing_s - self._seen_computing_s) / passed_s, 1.0)
        self._seen_at, self._seen_computing_s = now, computing_s
        waiting = self.site.scheduler.num_waiting_tokens
        return {QUEUED_TOKENS: float(waiting), BUSY_SHARE: share}


def _tracing(*, is_on: bool) -> Tracing:
    if not is_on:
        return NO_TRACING
    require("otel", purpose="tracing")
    from polyrank.server import otel

    return otel.from_environment()
