"""Whether the server lives, and whether it is ready: told by forward passes, not by hope."""

import asyncio

from polyrank.errors import PolyrankError, UnavailableError
from polyrank.server.models import ServedModel
from polyrank.server.service import Service

FRESH_S = 5.0  # a batch that ended so lately is proof enough
PROBE_TIMEOUT_S = 10.0
STUCK_S = 300.0


class Health:
    """Asks the scheduler and the models."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._probes: dict[str, asyncio.Task[None]] = {}
        self.is_draining = False

    def check_live(self) -> None:
        """Raise unless the scheduler's thread runs and no batch hangs.

        Raises:
            UnavailableError: If the process had better be started anew.
        """
        scheduler = self._service.scheduler
        if not scheduler.is_alive:
            raise UnavailableError("the scheduler's thread has ended; restart the server")
        if (running_s := scheduler.running_s()) > STUCK_S:
            raise UnavailableError(f"a batch has been running for {running_s:.0f} s; restart me")

    async def check_ready(self) -> None:
        """Raise unless every loaded model answers.

        A model that ran a batch in the last seconds does. Any other gets a forward pass of its
        own now, ahead of all that waits.

        Raises:
            UnavailableError: If the server is stopping, or a model does not answer in time.
        """
        self.check_live()
        if self.is_draining:
            raise UnavailableError("the server is stopping")
        for served in self._service.registry.loaded:
            if self._service.scheduler.since_success_s(served.engine) > FRESH_S:
                await self._probe(served)

    async def _probe(self, served: ServedModel) -> None:
        # all who ask at once wait for the same probe
        task = self._probes.get(served.name)
        if task is None or task.done():
            task = asyncio.create_task(self._service.probe(served))
            self._probes[served.name] = task
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                await asyncio.shield(task)
        except TimeoutError as exc:
            raise UnavailableError(
                f"model {served.name!r} gave no result within {PROBE_TIMEOUT_S:.0f} s"
            ) from exc
        except PolyrankError as exc:
            raise UnavailableError(f"model {served.name!r} fails: {exc}") from exc
