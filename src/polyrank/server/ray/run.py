"""`polyrank serve --ray`: the application on a cluster, for as long as the command runs."""

import logging
import signal
import threading
from dataclasses import replace
from pathlib import Path
from types import FrameType

import ray
from ray import serve
from ray.serve.config import HTTPOptions

from polyrank._clusters import LOCAL, connect, last_line
from polyrank.errors import ClusterError
from polyrank.server.logs import log
from polyrank.server.ray.application import NAME, build
from polyrank.server.ray.replica import ReplicaPlan
from polyrank.server.run import KEEP_ALIVE_S
from polyrank.server.settings import ReplicaSettings

INTERRUPTED = 130  # by Ctrl-C, as shells count


def serve_on_ray(plan: ReplicaPlan, replicas: ReplicaSettings, address: str) -> None:
    """Serve on a Ray cluster until SIGTERM or Ctrl-C comes.

    Args:
        plan: What each replica is made of. Its host, port and certificate are those of the proxy
            on every node, unless Ray Serve runs on the cluster already and has its own.
        replicas: How many there are.
        address: "auto" or HOST:PORT of a cluster; "local" starts one on this machine.

    Raises:
        ClusterError: If the cluster cannot be reached, or the application does not start.
    """
    is_ours = connect(address)
    settings = plan.settings
    started, stop = threading.Event(), threading.Event()

    def begin_to_stop(number: int, frame: FrameType | None) -> None:
        if not started.is_set():
            raise SystemExit(0 if number == signal.SIGTERM else INTERRUPTED)
        stop.set()

    try:
        for each in (signal.SIGTERM, signal.SIGINT):  # Ray's own handler would abort
            signal.signal(each, begin_to_stop)
        serve.start(http_options=_http_options(plan))
        serve.run(
            build(_seen_from_anywhere(plan), replicas),
            name=NAME,
            route_prefix="/",
            logging_config=None,
        )
        started.set()
        log(
            logging.INFO,
            "listening",
            url=f"{'https' if settings.certificate else 'http'}://{settings.host}:{settings.port}",
            cluster=address,
            models=[source.name for source in settings.models],
            asks_for_key=bool(plan.keys),
        )
        stop.wait()
        log(logging.INFO, "stopping")
        serve.delete(NAME)
    except (RuntimeError, ray.exceptions.RayError) as exc:
        raise ClusterError(
            f"the application did not start: {last_line(exc)}. The replicas' logs say more: "
            "`ray logs` lists them."
        ) from exc
    finally:
        if address == LOCAL:
            serve.shutdown()
        if is_ours:
            ray.shutdown()


def _seen_from_anywhere(plan: ReplicaPlan) -> ReplicaPlan:
    """Return a plan whose folders do not depend on where a process was started."""
    sources = tuple(
        replace(source, model=str(Path(source.model).resolve()))
        if source.model is not None and Path(source.model).is_dir()
        else source
        for source in plan.settings.models
    )
    return replace(plan, settings=replace(plan.settings, models=sources))


def _http_options(plan: ReplicaPlan) -> HTTPOptions:
    settings = plan.settings
    return HTTPOptions(
        host=settings.host,
        port=settings.port,
        keep_alive_timeout_s=KEEP_ALIVE_S,
        ssl_certfile=None if settings.certificate is None else str(settings.certificate),
        ssl_keyfile=None if settings.private_key is None else str(settings.private_key),
    )
