"""Count the requests that fail while replicas come and go: `make bench-ray-serve`.

Clients ask one question after the other and never ask again what failed. Every answer is compared
with what the library gives for the same texts.
"""

import argparse
import os
import platform
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import ray

from polyrank import Embedder, Reranker
from polyrank.checkpoint.hub import default_model_folder
from tests.ray.serving import Answer, Clients, cluster, deploy, num_replicas, wait_for
from tests.texts import SENTENCES

RESULTS = Path(__file__).parents[1] / "results" / "ray-serve.md"
QUERY = "how long do cats live?"
DOCUMENTS = [f"{text} {other}" for text in SENTENCES.values() for other in SENTENCES.values()][:64]
RERANK = ("/rerank", {"query": QUERY, "texts": DOCUMENTS})
EMBED = ("/v1/embeddings", {"input": DOCUMENTS[:16]})
SETTLED_S = 5.0


def main() -> None:
    """Run all phases and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=12)
    parser.add_argument("--turns", type=int, default=3, help="how often each change is made")
    asked = parser.parse_args()
    load = os.getloadavg()[0]
    with cluster(8) as port:
        rows = [
            phase("replicas added and removed by queued tokens", port, asked, come_and_go),
            phase("a model replaced, one replica", port, asked, replaced(1)),
            phase("a model replaced, two replicas", port, asked, replaced(2)),
            phase("a replica's process killed (SIGKILL)", port, asked, killed),
        ]
    write(rows, asked, load)


class Phase:
    """What happens to the application while clients ask."""

    def __init__(self, port: int, clients: int) -> None:
        self.port, self.count = port, clients
        self.answers: list[Answer] = []
        self.num_changes = 0

    @contextmanager
    def clients(self, count: int | None = None) -> Iterator[None]:
        """Let clients ask within the block."""
        with Clients(self.port, [RERANK, EMBED], self.count if count is None else count) as asking:
            yield
        self.answers += asking.answers


Change = Callable[[Phase, int], None]


def phase(name: str, port: int, asked: argparse.Namespace, change: Change) -> dict[str, Any]:
    """Run one phase, and return its row of the table."""
    print(name, flush=True)
    now = Phase(port, asked.clients)
    change(now, asked.turns)
    failed = [answer for answer in now.answers if answer.status != 200]
    times = sorted(answer.seconds for answer in now.answers if answer.status == 200)
    row = {
        "name": name,
        "changes": now.num_changes,
        "requests": len(now.answers),
        "failed": len(failed),
        "wrong": num_wrong(now.answers),
        "median_ms": 1000 * times[len(times) // 2],
        "longest_ms": 1000 * times[-1],
    }
    print(row, [(answer.status, str(answer.body)[:200]) for answer in failed[:3]], flush=True)
    return row


def come_and_go(now: Phase, turns: int) -> None:
    """Let the queue call for a third replica, and its end take two away."""
    replicas = {
        "max_replicas": 3,
        "queued_tokens": 2000,
        "upscale_delay_s": 1,
        "downscale_delay_s": 5,
        "look_back_s": 2.5,
    }
    deploy({}, replicas=replicas)
    for _ in range(turns):
        with now.clients():
            wait_for(lambda: num_replicas() == 3)
            time.sleep(SETTLED_S)
        with now.clients(1):
            wait_for(lambda: num_replicas() == 1)
        now.num_changes += 4


def replaced(count: int) -> Change:
    """Return what replaces the model of so many replicas."""

    def change(now: Phase, turns: int) -> None:
        both = {"min_replicas": count, "max_replicas": count}
        folder = default_model_folder()
        deploy({"first": folder}, replicas=both)
        with now.clients():
            for turn in range(turns):
                time.sleep(SETTLED_S)
                deploy({f"next-{turn}": folder}, replicas=both)
                wait_for(lambda: num_replicas("STOPPING") == 0)
                now.num_changes += 1
            time.sleep(SETTLED_S)

    return change


def killed(now: Phase, turns: int) -> None:
    """Kill one of two replicas outright, again and again."""
    deploy({}, replicas={"min_replicas": 2, "max_replicas": 2})
    with now.clients():
        for _ in range(turns):
            time.sleep(SETTLED_S)
            os.kill(replica_pids()[0], signal.SIGKILL)
            now.num_changes += 1
            wait_for(lambda: num_replicas() < 2)
            wait_for(lambda: num_replicas() == 2)
        time.sleep(SETTLED_S)


def replica_pids() -> Sequence[int]:
    """Return the processes of replicas."""
    found = []
    for path in Path("/proc").iterdir():
        try:
            if path.name.isdigit() and b"ServeReplica:polyrank" in (path / "cmdline").read_bytes():
                found.append(int(path.name))
        except OSError:
            continue
    return found


def num_wrong(answers: Sequence[Answer]) -> int:
    """Count answers that are not the library's, to the last bit."""
    scores = [(hit.index, np.float32(hit.score)) for hit in Reranker().rank(QUERY, DOCUMENTS)]
    vectors = Embedder().encode(DOCUMENTS[:16])
    wrong = 0
    for answer in answers:
        if answer.status != 200:
            continue
        if answer.question == 0:
            is_right = [(row["index"], np.float32(row["score"])) for row in answer.body] == scores
        else:
            rows = [row["embedding"] for row in answer.body["data"]]
            is_right = np.asarray(rows, np.float32).tobytes() == vectors.tobytes()
        wrong += not is_right
    return wrong


def write(rows: Sequence[dict[str, Any]], asked: argparse.Namespace, load: float) -> None:
    """Write the page."""
    shown = [
        f"| {row['name']} | {row['changes']} | {row['requests']:,} | **{row['failed']}** | "
        f"{row['wrong']} | {row['median_ms']:,.0f} | {row['longest_ms']:,.0f} |"
        for row in rows
    ]
    lines = [
        "# Ray Serve under load\n",
        f"`make bench-ray-serve`: Ray {ray.__version__} on {os.cpu_count()} cores of "
        f"{platform.machine()}, the model that ships, {asked.clients} clients that ask one "
        "question after the other (64 documents to rank, 16 to embed) and repeat nothing. A "
        "request has failed if its answer was not 200, or the connection broke. An answer is "
        "wrong if a bit of it differs from the library's.\n",
        "| meanwhile | changes | requests | failed | wrong | median, ms | longest, ms |",
        "|---|---|---|---|---|---|---|",
        *shown,
        "",
        "A change is a replica that was added or removed, a model that was replaced in all "
        "replicas, or a process that was killed. A killed process takes with it what it was "
        "computing: those requests get 500. Times say how "
        "long a closed loop of clients waits on few cores that replicas share, not how fast the "
        f"server is. Load of the machine by other work when it began: {load:.1f}.",
        "",
    ]
    RESULTS.write_text("\n".join(lines), "utf8")


if __name__ == "__main__":
    main()
