"""What `polyrank serve` answers in time when more is asked of it than it can do.

Requests with a deadline come at random times, at several times the capacity, from this process
over the loopback. The capacity is measured just before and just after each level, by as many
clients as keep the server busy. Where the machine has other work beside, its speed changes from
one to the other. So the share is told in a second way that asks for no speed: of the seconds that
the server could compute in, how many went into answers that came in time. After each level one
client asks again and again, until it waits as little as before.
"""

import argparse
import asyncio
import itertools
import json
import random
import resource
import shlex
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from engines.report import setting

from serving import load
from serving.servers import Running, Server, running

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
PORT = 39_881
CLIENTS = 8  # keep the server busy while its capacity is measured
PROBE_DOCUMENTS = 10
NUM_PROBES = 12
NUM_COUNTED = 40
RECOVERY_S = 12.0
CALM_S = 3.0
GOAL = 0.85


@dataclass(frozen=True)
class Answer:
    """What became of a request.

    Attributes:
        documents: How many it held.
        status: HTTP status; 0 where there was none.
        due_s: When it was due, in seconds from the first.
        wait_s: Seconds from then on.
        tokens: Tokens that the server told.
        retry_after_s: What the server asked for, or None.
    """

    documents: int
    status: int
    due_s: float
    wait_s: float
    tokens: int = 0
    retry_after_s: int | None = None


@dataclass(frozen=True)
class Work:
    """What the server has computed, or did between two times.

    Attributes:
        tokens: Tokens of all batches.
        batch_s: Seconds of computing.
        wall_s: Seconds.
    """

    tokens: float
    batch_s: float
    wall_s: float

    @classmethod
    def read(cls, made: Running) -> "Work":
        """Return what the server has computed up to now."""
        lines = httpx.get(f"{made.url}/metrics").text.splitlines()
        told = dict(line.rsplit(" ", 1) for line in lines if line.startswith("polyrank_"))
        tokens, batch_s = told["polyrank_tokens_total"], told["polyrank_batch_seconds_total"]
        return cls(float(tokens), float(batch_s), time.perf_counter())

    def since(self, before: "Work") -> "Work":
        """Return what was computed from then on."""
        return Work(
            self.tokens - before.tokens, self.batch_s - before.batch_s, self.wall_s - before.wall_s
        )

    @property
    def speed(self) -> float:
        """Tokens a second."""
        return self.tokens / self.wall_s

    @property
    def busy(self) -> float:
        """Share of the time that went into batches."""
        return self.batch_s / self.wall_s


class Bodies:
    """Requests as bytes, so that sending them costs this machine little."""

    def __init__(self, given: argparse.Namespace) -> None:
        made = load.bodies(given.data, 400, given.seed)
        self.mixed = [_encoded(body, given.deadline) for body in made]
        sample = load.bodies(given.data, NUM_PROBES, given.seed, {PROBE_DOCUMENTS: 1.0})
        self.probes = [_encoded(body, given.deadline) for body in sample]
        self.documents = float(np.mean([count for count, _ in self.mixed]))
        self.tokens = float("nan")  # of a request on average, once the server has told

    async def count_tokens(self) -> None:
        """Ask for some of each size, one at a time, and count."""
        some = self.mixed[:NUM_COUNTED]
        answers = [await ask(PORT, each, time.perf_counter()) for each in some]
        a_document = sum(each.tokens for each in answers) / sum(each.documents for each in answers)
        self.tokens = a_document * self.documents


def _encoded(body: dict[str, Any], deadline_s: float) -> tuple[int, bytes]:
    content = json.dumps(body).encode()
    head = (
        "POST /v2/rerank HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"X-Request-Timeout-Ms: {round(1000 * deadline_s)}\r\nConnection: close\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    return len(body["documents"]), head.encode() + content


def options() -> argparse.Namespace:
    """Return the options given."""
    parser = argparse.ArgumentParser(prog="serving.goodput", description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--serve", default="--compute-dtype int8", help="options of polyrank serve")
    parser.add_argument("--loads", type=float, nargs="+", default=[1.2, 2, 5])
    parser.add_argument("--seconds", type=float, default=30, help="of a level")
    parser.add_argument("--capacity-seconds", type=float, default=10)
    parser.add_argument("--repeats", type=int, default=1, help="of every level")
    parser.add_argument(
        "--calm", type=float, default=2.0, help="wait a while for others to use fewer cores"
    )
    parser.add_argument("--calm-seconds", type=float, default=90, help="how long to wait")
    parser.add_argument("--deadline", type=float, default=5, help="seconds of a request")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the report")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


async def ask(port: int, request: tuple[int, bytes], begin: float, due: float = 0.0) -> Answer:
    """Send a request that was due some seconds after the first, and return what became of it."""
    documents, content = request
    status, tokens, retry = 0, 0, None
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
        try:
            writer.write(content)
            reply = await asyncio.wait_for(reader.read(), load.TIMEOUT_S)
        finally:
            writer.close()
        head = reply.partition(b"\r\n\r\n")[0].decode("latin-1").lower().split("\r\n")
        status = int(head[0].split()[1])
        told = dict(line.split(": ", 1) for line in head[1:])
        retry = int(told["retry-after"]) if "retry-after" in told else None
        tokens = int(told["x-compute-tokens"])
    except (OSError, IndexError, KeyError, ValueError, TimeoutError):
        status = 0
    return Answer(documents, status, due, time.perf_counter() - begin - due, tokens, retry)


async def keep_busy(port: int, requests: Sequence[tuple[int, bytes]], seconds: float) -> None:
    """Let some clients ask, each as soon as it was answered."""
    end, coming = time.perf_counter() + seconds, itertools.cycle(requests)

    async def client() -> None:
        while time.perf_counter() < end:
            await ask(port, next(coming), time.perf_counter())

    async with asyncio.TaskGroup() as group:
        for _ in range(CLIENTS):
            group.create_task(client())


async def offer(
    port: int, requests: Sequence[tuple[int, bytes]], rate: float, seconds: float, seed: int
) -> list[asyncio.Task[Answer]]:
    """Send requests at random times, so many a second, and return who waits for the answers."""
    draw, begin = random.Random(seed), time.perf_counter()
    under_way, due = [], draw.expovariate(rate)
    while due < seconds:
        await asyncio.sleep(max(0.0, begin + due - time.perf_counter()))
        request = requests[len(under_way) % len(requests)]
        under_way.append(asyncio.create_task(ask(port, request, begin, due)))
        due += draw.expovariate(rate)
    await asyncio.sleep(max(0.0, begin + seconds - time.perf_counter()))
    return under_way


async def recovery(
    port: int, requests: Sequence[tuple[int, bytes]], usual_s: float
) -> tuple[float, int]:
    """Return after how many seconds one client waits as usual and goes on to, and its tokens."""
    begin, last, at, tokens = time.perf_counter(), 0.0, 0, 0
    while (now := time.perf_counter() - begin) < RECOVERY_S:
        answer = await ask(port, requests[at % len(requests)], time.perf_counter())
        at += 1
        tokens += answer.tokens if answer.status == 200 else 0
        if answer.status != 200 or answer.wait_s > usual_s:
            last = now + answer.wait_s
        await asyncio.sleep(0.1)
    return last, tokens


async def level(
    made: Running, bodies: Bodies, times: float, given: argparse.Namespace
) -> dict[str, Any]:
    """Return what the server did at some times its capacity."""
    waits = [(await ask(PORT, each, time.perf_counter())).wait_s for each in bodies.probes]
    usual_s = 2 * float(np.quantile(waits, 0.95)) + 0.1
    before = await capacity(made, bodies, given)
    busy_s, own_s, begun = made.seconds_of_others(), _own_seconds(), Work.read(made)
    rate = times * before.speed / bodies.tokens
    tasks = await offer(PORT, bodies.mixed, rate, given.seconds, given.seed)
    work = Work.read(made).since(begun)
    recovery_s, probe_tokens = await recovery(PORT, bodies.probes, usual_s)
    answers = await asyncio.gather(*tasks)
    num_computed = Work.read(made).since(begun).tokens - probe_tokens
    found = {
        "rate": rate,
        "other_cores": max((made.seconds_of_others() - busy_s) / work.wall_s, 0.0),
        "client_cores": (_own_seconds() - own_s) / work.wall_s,
        "usual_s": usual_s,
        "recovery_s": recovery_s,
    }
    after = await capacity(made, bodies, given)
    row = _row(times, answers, (before, after), given)
    useful = min(row.pop("tokens_in_time") / num_computed, 1.0)
    busy_share = work.busy / max(before.busy, after.busy)
    return row | {"useful": useful, "share_of_computing": useful * busy_share} | found


async def _calm(made: Running, given: argparse.Namespace) -> None:
    """Wait until others leave the machine alone, but not for ever."""
    for _ in range(round(given.calm_seconds / CALM_S)):
        before = made.seconds_of_others()
        await asyncio.sleep(CALM_S)
        if (made.seconds_of_others() - before) / CALM_S < given.calm:
            return


async def capacity(made: Running, bodies: Bodies, given: argparse.Namespace) -> Work:
    """Return what the server computes while it is kept busy."""
    begun = Work.read(made)
    busy = asyncio.create_task(keep_busy(PORT, bodies.mixed, given.capacity_seconds))
    await asyncio.sleep(given.capacity_seconds)
    work = Work.read(made).since(begun)
    await busy
    return work


def _own_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _row(
    times: float,
    answers: list[Answer],
    capacities: tuple[Work, Work],
    given: argparse.Namespace,
) -> dict[str, Any]:
    good = [each for each in answers if each.status == 200]
    in_time = [each for each in good if each.wait_s <= given.deadline]
    # of what was answered after the last arrival, none counts
    within = [each for each in in_time if each.due_s + each.wait_s <= given.seconds]
    waits = [each.wait_s for each in good] or [float("nan")]
    retries = [each.retry_after_s for each in answers if each.retry_after_s is not None]
    mean_speed = np.mean([each.speed for each in capacities])
    return {
        "times": times,
        "capacity_before": capacities[0].speed,
        "capacity_after": capacities[1].speed,
        "share": sum(each.tokens for each in within) / given.seconds / mean_speed,
        "tokens_in_time": sum(each.tokens for each in in_time),
        "sent": len(answers),
        "statuses": dict(sorted(Counter(str(each.status) for each in answers).items())),
        "late": len(good) - len(in_time),
        "p50_s": float(np.quantile(waits, 0.5)),
        "p95_s": float(np.quantile(waits, 0.95)),
        "retry_after_s": [min(retries, default=0), max(retries, default=0)],
        "answered_by_size": {
            str(size): sum(each.documents == size for each in in_time)
            / max(1, sum(each.documents == size for each in answers))
            for size in load.MIX
        },
    }


def page(found: dict[str, Any]) -> str:
    """Return the report in Markdown."""
    facts, rows = found["setting"], found["levels"]
    lines = [
        "# What is answered in time under overload",
        "",
        f"`polyrank serve {found['serve']}`, the default model; commit {facts['commit']}, "
        f"{facts['machine']}, {found['threads']} threads, the client on the same cores. Open-loop "
        f"arrivals, {found['seconds']:g} s a level, of requests with "
        f"{', '.join(map(str, load.MIX))} documents ({found['documents']:.1f} on average; XQuAD "
        f"passages, 12 languages), each with a deadline of {found['deadline']:g} s. The capacity "
        f"is what is computed for {CLIENTS} clients that ask as soon as they are answered, just "
        f"before and just after. Goal: {GOAL:.0%}, and recovery within 10 s.",
        "",
        "| times capacity | capacity before, after (tokens/s) | share of it answered in time "
        "| share of computing | 200 | 429 | 504 | late | p50 s | p95 s | recovery s "
        "| cores of others, of the client |",
        "|---" * 12 + "|",
        *map(_line, rows),
        "",
        "- Share of it: tokens answered in time, and before the last arrival, by the mean of "
        "both capacities.",
        "- Share of computing: all tokens answered in time, of all that were computed, times the "
        "share of the time in which batches ran, by the same share while the capacity was "
        "measured. It does not change with the speed that others leave to the server.",
        "- Late: answered, but later than the deadline by the client's clock.",
        "- Recovery: seconds after the last arrival until a client of 10 documents waits no "
        "longer than twice what it waited before (p95) and 0.1 s, and goes on so.",
        *map(_sizes, rows),
    ]
    return "\n".join(lines) + "\n"


def _line(row: dict[str, Any]) -> str:
    counts = row["statuses"]
    told = " | ".join(str(counts.get(status, 0)) for status in ("200", "429", "504"))
    return (
        f"| {row['times']:g} | {row['capacity_before']:,.0f}, {row['capacity_after']:,.0f} | "
        f"{row['share']:.0%} | {row['share_of_computing']:.0%} | {told} | {row['late']} | "
        f"{row['p50_s']:.2f} | {row['p95_s']:.2f} | {row['recovery_s']:.1f} | "
        f"{row['other_cores']:.2f}, {row['client_cores']:.2f} |"
    )


def _sizes(row: dict[str, Any]) -> str:
    told = ", ".join(f"{size}: {share:.0%}" for size, share in row["answered_by_size"].items())
    return f"- At {row['times']:g} times, answered in time by documents: {told}."


async def measure(made: Running, given: argparse.Namespace) -> tuple[Bodies, list[dict[str, Any]]]:
    """Return the requests and the figures of every level."""
    bodies = Bodies(given)
    await bodies.count_tokens()  # and warm up
    rows: list[dict[str, Any]] = []
    for times in [each for _ in range(given.repeats) for each in given.loads]:
        await _calm(made, given)
        rows.append(await level(made, bodies, times, given))
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    return bodies, rows


def main() -> None:
    """Measure, and write the figures."""
    given = options()
    command = ("-m", "polyrank", "serve", "--port", "{port}", "--log-level", "error")
    more = (*shlex.split(given.serve), "--threads", str(given.threads))
    server = Server("polyrank", Path(sys.executable), (*command, *more))
    with (
        tempfile.TemporaryDirectory() as scratch,
        running(server, ROOT, PORT, given.threads, Path(scratch) / "server.log") as made,
    ):
        bodies, rows = asyncio.run(measure(made, given))
    found = {
        "setting": setting(ROOT), "serve": given.serve, "threads": given.threads,
        "seconds": given.seconds, "deadline": given.deadline, "documents": bodies.documents,
        "levels": rows,
    }  # fmt: skip
    given.output.mkdir(parents=True, exist_ok=True)
    (given.output / "goodput.json").write_text(json.dumps(found, indent=1) + "\n", "utf8")
    text = page(found)
    (given.output / "goodput.md").write_text(text, "utf8")
    print(text)
    if min(row["share_of_computing"] for row in rows) < GOAL:
        raise SystemExit(f"less than {GOAL:.0%} of the capacity was answered in time")


if __name__ == "__main__":
    main()
