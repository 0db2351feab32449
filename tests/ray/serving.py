"""An application on Ray Serve, plain calls to it, and clients that never stop asking."""

import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import ray
from ray import serve

from polyrank.server.ray.application import NAME, RayArguments, app
from tests.bulk.servers import free_port
from tests.server.running import Reply, Running

VOLATILE = ("id", "created")  # of replies, where they are no numbers of tokens


@contextmanager
def cluster(num_cpus: int) -> Iterator[int]:
    """Start a Ray cluster of this process with Ray Serve on it.

    Yields:
        The port of its proxy.
    """
    port = free_port()
    ray.init(
        address="local",
        num_cpus=num_cpus,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=100_000_000,
    )
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        yield port
    finally:
        serve.shutdown()
        ray.shutdown()


def deploy(models: Mapping[str, Path | None], **arguments: Any) -> None:
    """Run the application, in place of the one before; return when it is there."""
    named = {name: str(path) for name, path in models.items() if path is not None}
    server = {"num_threads": 1, "allowed_hosts": [], **arguments.pop("server", {})}
    given = RayArguments(models=named, server=server, log_level="warning", **arguments)
    serve.run(app(given), name=NAME, route_prefix="/")


def num_replicas(state: str = "RUNNING") -> int:
    """How many replicas are in a state."""
    deployments = serve.status().applications[NAME].deployments
    return int(deployments[NAME].replica_states.get(state, 0))


def wait_for(is_so: Any, timeout_s: float = 120) -> float:
    """Wait, and return for how many seconds."""
    begun = time.monotonic()
    while not is_so():
        assert time.monotonic() - begun < timeout_s, serve.status()
        time.sleep(0.1)
    return time.monotonic() - begun


class Both(Running):
    """A plain server, and the same models on Ray: every call goes to both, and must be alike."""

    def __init__(self, plain: Running, port: int) -> None:
        super().__init__(plain.site, port, plain.loop)
        self.plain = plain
        self.num_compared = 0

    def call(self, path: str, body: Any = None, **how: Any) -> Reply:
        found, wanted = super().call(path, body, **how), self.plain.call(path, body, **how)
        assert (found.status, steady(found.body)) == (wanted.status, steady(wanted.body)), path
        self.num_compared += 1
        return found


def steady(body: bytes) -> bytes | str:
    """Return what a reply says but for what is drawn anew each time; numbers to the last bit."""
    try:
        return json.dumps(_without_volatile(json.loads(body)))
    except ValueError:
        return body


def _without_volatile(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_volatile(each) for each in value]
    if not isinstance(value, dict):
        return value
    is_token = "special" in value
    return {
        key: _without_volatile(each)
        for key, each in value.items()
        if is_token or key not in VOLATILE
    }


@dataclass(frozen=True)
class Answer:
    """What a client was told.

    Attributes:
        begun: When it asked, on the monotonic clock.
        seconds: Until the answer was there.
        status: HTTP's; 0 where the connection broke.
        question: Which of its questions it asked.
        body: The reply, or what broke.
    """

    begun: float
    seconds: float
    status: int
    question: int
    body: Any


class Clients:
    """Threads that ask one question after the other, each in turn; nothing is asked again."""

    def __init__(self, port: int, questions: Sequence[tuple[str, Any]], count: int) -> None:
        self.answers: list[Answer] = []
        self._url = f"http://127.0.0.1:{port}"
        self._questions = questions
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(number,), daemon=True)
            for number in range(count)
        ]

    def __enter__(self) -> "Clients":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(120)
            assert not thread.is_alive()

    @property
    def failed(self) -> list[Answer]:
        """Answers that were none."""
        return [answer for answer in self.answers if answer.status != 200]

    def _ask(self, number: int) -> None:
        with httpx.Client(base_url=self._url, timeout=90) as client:
            while not self._stop.is_set():
                number = (number + 1) % len(self._questions)
                path, body = self._questions[number]
                begun = time.monotonic()
                status, said = 0, None
                try:
                    reply = client.post(path, json=body)
                    status, said = reply.status_code, reply.text
                    said = reply.json()
                except (httpx.HTTPError, ValueError) as exc:
                    said = said or repr(exc)
                seconds = time.monotonic() - begun
                self.answers.append(Answer(begun, seconds, status, number, said))
