"""Memory of `polyrank serve` over many small requests of all kinds.

Every few thousand requests, the resident memory of the server and the number of files that it
holds open are written down. Without --pid, a server with three small seeded checkpoints is
started; its own memory, not that of large weights, is what may grow.
"""

import argparse
import asyncio
import itertools
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from engines.report import setting

from serving.servers import Server, memory_mb, num_open_files, running
from tests import checkpoints
from tests.texts import SENTENCES

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
PORT = 39_873
WORKERS = 16
TIMEOUT_S = 60.0
MODELS = {
    "reranker": "bge-reranker-base",
    "embedder": "multilingual-e5-small",
    "classifier": "three-way-classifier",
}
TEXTS = list(SENTENCES.values())


@dataclass(frozen=True)
class Call:
    """A request.

    Attributes:
        path: Where it goes.
        body: What it holds.
        statuses: Statuses that may answer it.
        headers: What it sends beside the body.
    """

    path: str
    body: dict[str, Any]
    statuses: tuple[int, ...] = (200,)
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Row:
    """The server after some requests.

    Attributes:
        requests: How many it has answered.
        seconds: Since the first.
        memory_mb: Its resident memory.
        open_files: Files and sockets that it holds open.
    """

    requests: int
    seconds: float
    memory_mb: float
    open_files: int


def options() -> argparse.Namespace:
    """Return the options given."""
    parser = argparse.ArgumentParser(prog="serving.soak", description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--every", type=int, default=5_000, help="requests between two rows")
    parser.add_argument("--cache-mb", type=int, default=0, help="of the server that is started")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pid", type=int, help="process of a server that runs already")
    parser.add_argument("--url", default="http://127.0.0.1:3000", help="address of that server")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the report")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def calls(seed: int) -> Iterator[Call]:
    """Give requests without end: every task, several protocols, one to eight texts, some wrong."""
    draw = random.Random(seed)
    kinds = (_tei, _cohere, _jina, _openai, _classes, _tokens, _late, _wrong)
    shares = (5, 3, 3, 4, 3, 1, 1, 1)
    while True:
        (kind,) = draw.choices(kinds, shares)
        made = kind(draw)
        # a client in ten opens a connection for each request
        closes = (("connection", "close"),) if draw.random() < 0.1 else ()
        yield Call(made.path, made.body, made.statuses, (*made.headers, *closes))


def _text(draw: random.Random) -> str:
    text = draw.choice(TEXTS)
    return f"{draw.randrange(10**6)} {text[: draw.randint(1, len(text))]}"


def _texts(draw: random.Random, most: int) -> list[str]:
    return [_text(draw) for _ in range(draw.randint(1, most))]


def _tei(draw: random.Random) -> Call:
    return Call("/rerank", {"query": _text(draw), "texts": _texts(draw, 8)})


def _cohere(draw: random.Random) -> Call:
    return Call("/v2/rerank", {"query": _text(draw), "documents": _texts(draw, 8), "top_n": 3})


def _jina(draw: random.Random) -> Call:
    body = {"query": _text(draw), "documents": _texts(draw, 4), "return_documents": True}
    return Call("/jina/v1/rerank", body)


def _openai(draw: random.Random) -> Call:
    return Call("/v1/embeddings", {"input": _texts(draw, 4), "encoding_format": "base64"})


def _classes(draw: random.Random) -> Call:
    return Call("/classify", {"input": _texts(draw, 4)})


def _tokens(draw: random.Random) -> Call:
    return Call("/tokenize", {"inputs": _texts(draw, 4)})


def _late(draw: random.Random) -> Call:
    headers = (("x-request-timeout-ms", "1"),)
    return Call("/rerank", {"query": _text(draw), "texts": _texts(draw, 8)}, (200, 504), headers)


def _wrong(draw: random.Random) -> Call:
    return Call("/rerank", {"query": draw.randrange(10), "texts": _texts(draw, 2)}, (422,))


async def soak(url: str, pid: int, count: int, every: int, seed: int) -> tuple[list[Row], Counter]:
    """Send requests, sixteen at a time.

    Args:
        url: Address of the server.
        pid: Its process.
        count: How many to send.
        every: After how many to look.
        seed: Of the requests.

    Returns:
        A row before the first, one after each `every`, one at the end; and how many requests
        had each path and status.

    Raises:
        RuntimeError: If an answer has a status that it should not have.
    """
    answers: Counter[str] = Counter()
    left = itertools.islice(calls(seed), count)
    begin, rows = time.perf_counter(), []

    def look() -> None:
        seconds = time.perf_counter() - begin
        rows.append(Row(answers.total(), seconds, memory_mb(pid), num_open_files(pid)))
        print(line(rows[-1]), file=sys.stderr, flush=True)

    async def worker(client: httpx.AsyncClient) -> None:
        for call in left:
            headers = dict(call.headers)
            reply = await client.post(call.path, json=call.body, headers=headers)
            if reply.status_code not in call.statuses:
                raise RuntimeError(f"{call.path}: {reply.status_code} {reply.text[:300]}")
            answers[f"{call.path} {reply.status_code}"] += 1
            if answers.total() % every == 0:
                look()

    look()
    limits = httpx.Limits(max_connections=WORKERS)
    async with (
        httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S, limits=limits) as client,
        asyncio.TaskGroup() as group,
    ):
        for _ in range(WORKERS):
            group.create_task(worker(client))
    if rows[-1].requests < count:
        look()
    return rows, answers


def line(row: Row) -> str:
    """Return a row of the table."""
    return f"| {row.requests:,} | {row.seconds:.0f} | {row.memory_mb:.1f} | {row.open_files} |"


def growth_mb(rows: list[Row]) -> float:
    """Return by how much memory grew in 10,000 requests, over the second half of the rows."""
    late = rows[len(rows) // 2 :]
    if len(late) < 3:
        return float("nan")
    counts, sizes = [row.requests for row in late], [row.memory_mb for row in late]
    return float(np.polyfit(counts, sizes, 1)[0] * 10_000)


def report(found: dict[str, Any], rows: list[Row]) -> str:
    """Return the report in Markdown."""
    facts = found["setting"]
    lines = [
        "# Memory of `polyrank serve` over many requests",
        "",
        f"Commit {facts['commit']}, {facts['machine']}. {WORKERS} requests at a time, of every "
        f"task and several protocols, with one to eight texts; {found['server']}.",
        "",
        "| requests | seconds | resident MB | open files |",
        "|---|---|---|---|",
        *map(line, rows),
        "",
        f"Over the second half: {found['growth_mb']:+.2f} MB in 10,000 requests (fitted line).",
        "",
        "Answers: " + "; ".join(f"{name} {n:,}" for name, n in sorted(found["answers"].items())),
    ]
    return "\n".join(lines) + "\n"


@contextmanager
def server(given: argparse.Namespace, scratch: Path) -> Iterator[tuple[str, int, str]]:
    """Give a server's address, its process and what to call it in the report."""
    if given.pid is not None:
        yield given.url, given.pid, "a server that ran already"
        return
    models = [f"{name}={checkpoints.make(kind, scratch)}" for name, kind in MODELS.items()]
    named = [part for model in models for part in ("--model", model)]
    settings = ("--threads", str(given.threads), "--cache-mb", str(given.cache_mb))
    command = ("-m", "polyrank", "serve", "--port", "{port}", "--log-level", "warning", *settings)
    started = Server("polyrank", Path(sys.executable), (*command, *named))
    with running(started, scratch, PORT, given.threads, scratch / "server.log") as made:
        told = f"seeded checkpoints ({', '.join(MODELS.values())}), cache {given.cache_mb} MB"
        yield made.url, made.process.pid, told


def main() -> None:
    """Measure, and write the table and the figures."""
    given = options()
    with tempfile.TemporaryDirectory() as scratch, server(given, Path(scratch)) as (url, pid, told):
        run = soak(url, pid, given.requests, given.every, given.seed)
        rows, answers = asyncio.run(run)
    found = {
        "setting": setting(ROOT), "server": told, "rows": [asdict(row) for row in rows],
        "growth_mb": growth_mb(rows), "answers": dict(answers),
    }  # fmt: skip
    (given.output / "soak.json").write_text(json.dumps(found, indent=1) + "\n", "utf8")
    text = report(found, rows)
    (given.output / "soak.md").write_text(text, "utf8")
    print(text)


if __name__ == "__main__":
    main()
