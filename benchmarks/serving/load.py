"""Requests that come when they come: open-loop arrivals, whatever the server's answers."""

import asyncio
import gzip
import json
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np

# documents of a request, and how often: most are small, a few are what rerankers are for
MIX = {1: 0.35, 10: 0.35, 30: 0.2, 100: 0.1}
TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Sent:
    """One request and what became of it.

    Attributes:
        documents: How many it held.
        latency_s: Seconds from its due time to its answer.
        status: HTTP status; 0 where there was none.
    """

    documents: int
    latency_s: float
    status: int


@dataclass(frozen=True)
class Level:
    """What a server did at one rate.

    Attributes:
        rate: Requests a second that were offered.
        sent: All of them.
        seconds: From the first due time to the last answer.
        memory_mb: Memory over time.
        other_cores: Cores that neither the server nor the client kept busy, on average.
    """

    rate: float
    sent: list[Sent]
    seconds: float
    memory_mb: list[float]
    other_cores: float = 0.0

    @property
    def answered(self) -> list[Sent]:
        """Those that were answered well."""
        return [each for each in self.sent if each.status == 200]

    @property
    def throughput(self) -> float:
        """Documents ranked a second."""
        return sum(each.documents for each in self.answered) / self.seconds

    def percentile_s(self, share: float) -> float:
        """Return the latency that a share of the answered requests stayed below."""
        waits = [each.latency_s for each in self.answered]
        return float(np.quantile(waits, share)) if waits else float("nan")


def bodies(
    data: Path, count: int, seed: int, mix: Mapping[int, float] = MIX
) -> list[dict[str, Any]]:
    """Return requests of real questions and passages, in twelve languages, of mixed sizes."""
    draw = random.Random(seed)
    folder = data / "eval" / "xquad"
    texts = {name: _texts(folder / f"{name}.jsonl.gz") for name in ("queries", "corpus")}
    sizes = draw.choices(list(mix), list(mix.values()), k=count)
    return [
        {"query": draw.choice(texts["queries"]), "documents": draw.sample(texts["corpus"], size)}
        for size in sizes
    ]


def _texts(path: Path) -> list[str]:
    with gzip.open(path, "rt", encoding="utf8") as file:
        return [json.loads(line)["text"] for line in file]


async def offer(
    url: str,
    requests: list[dict[str, Any]],
    *,
    rate: float,
    seconds: float,
    seed: int,
    memory: Callable[[], float],
    busy: Callable[[], float] = lambda: 0.0,
) -> Level:
    """Send requests at random times, so many a second on average, and wait for all answers.

    Args:
        url: Address of the server.
        requests: Bodies, taken in order and again.
        rate: Requests a second.
        seconds: For how long they come.
        seed: Of the times.
        memory: Tells the server's memory in MB.
        busy: Tells for how many seconds others have kept the machine's cores busy.

    Returns:
        What became of them.
    """
    draw = random.Random(seed)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=100)
    begin, busy_before = time.perf_counter(), busy()
    kept: list[float] = []
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=TIMEOUT_S) as client:
        watching = asyncio.create_task(_watch(memory, kept))
        under_way, due = [], 0.0
        while due < seconds:
            body = requests[len(under_way) % len(requests)]
            under_way.append(asyncio.create_task(_send(client, body, begin + due)))
            due += draw.expovariate(rate)
            await asyncio.sleep(max(0.0, begin + due - time.perf_counter()))
        sent = await asyncio.gather(*under_way)
        watching.cancel()
    lasted = time.perf_counter() - begin
    return Level(rate, list(sent), lasted, kept, (busy() - busy_before) / lasted)


async def _send(client: httpx.AsyncClient, body: dict[str, Any], due: float) -> Sent:
    status = 0
    try:
        status = (await client.post("/rerank", json=body)).status_code
    except httpx.HTTPError:
        status = 0
    return Sent(len(body["documents"]), time.perf_counter() - due, status)


async def _watch(memory: Callable[[], float], kept: list[float]) -> None:
    while True:
        kept.append(memory())
        await asyncio.sleep(0.5)
