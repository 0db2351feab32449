"""What HTTP adds: a ranking of 100 documents by `polyrank serve` and by the library, in pairs.

Server and library are a process each, with the same model, type and threads, and rest while the
other works. Who goes first changes from turn to turn. The server's time is the client's, from
before the body is written to after the reply is read.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from engines.checkpoints import small
from engines.report import setting

from serving import load
from serving.servers import Server, running

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
PORT = 39_875
PAUSE_S = 0.1  # threads that spin for a while after their work must not do so in the other's turn
RESAMPLES = 2000


@dataclass(frozen=True)
class Turn:
    """One request, done by both.

    Attributes:
        library_s: Seconds of the library's call.
        server_s: Seconds of the request.
    """

    library_s: float
    server_s: float

    @property
    def ratio(self) -> float:
        """How many times as long the server took."""
        return self.server_s / self.library_s


def options() -> argparse.Namespace:
    """Return the options given."""
    parser = argparse.ArgumentParser(prog="serving.overhead", description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--model", type=Path, help="a reranker instead of e5-small's shape")
    parser.add_argument("--documents", type=int, default=100, help="of a request")
    parser.add_argument("--turns", type=int, default=40)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compute-dtype", nargs="+", default=["int8", "float32"])
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the report")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


class Library:
    """The process of the library."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def rank(self, body: dict[str, Any]) -> tuple[float, list[tuple[int, float]]]:
        """Return the seconds of a call and what it found, best first."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(body), file=self._process.stdin, flush=True)
        answer = json.loads(self._process.stdout.readline())
        return answer["seconds"], [(index, score) for index, score in answer["hits"]]


@contextmanager
def library(folder: Path, threads: int, compute_dtype: str) -> Iterator[Library]:
    """Give the library in a process of its own."""
    command = [sys.executable, "-m", "serving.library", str(folder), str(threads), compute_dtype]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield Library(process)
        assert process.stdin is not None
        process.stdin.close()


def measure(
    client: httpx.Client, own: Library, requests: list[dict[str, Any]], turns: int
) -> list[Turn]:
    """Return the times of both, one turn a request; the first, which warms both, is left out.

    Args:
        client: Talks to the server.
        own: The library.
        requests: Bodies, taken in order and again.
        turns: How many.

    Returns:
        The turns.

    Raises:
        RuntimeError: If the two rank differently.
    """
    found = []
    for i in range(turns + 1):
        body = requests[i % len(requests)]
        calls = [own.rank, lambda body: _served(client, body)]
        first = i % 2
        answers: dict[int, Any] = {}
        for which in (first, 1 - first):
            time.sleep(PAUSE_S)
            answers[which] = calls[which](body)
        (library_s, wanted), (server_s, hits) = answers[0], answers[1]
        if [index for index, _ in hits] != [index for index, _ in wanted]:
            raise RuntimeError("server and library rank differently")
        if not np.allclose([s for _, s in hits], [s for _, s in wanted], rtol=0, atol=1e-6):
            raise RuntimeError("server and library give different scores")
        if i:
            found.append(Turn(library_s, server_s))
    return found


def _served(client: httpx.Client, body: dict[str, Any]) -> tuple[float, list[tuple[int, float]]]:
    begin = time.perf_counter()
    rows = client.post("/v2/rerank", json=body).raise_for_status().json()["results"]
    seconds = time.perf_counter() - begin
    return seconds, [(row["index"], row["relevance_score"]) for row in rows]


def summary(turns: list[Turn], seed: int) -> dict[str, float]:
    """Return medians, and the median ratio with its 95 % interval over resampled turns."""
    ratios = np.array([turn.ratio for turn in turns])
    draw = np.random.default_rng(seed)
    drawn = np.median(draw.choice(ratios, (RESAMPLES, len(ratios))), axis=1)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return {
        "library_s": statistics.median(turn.library_s for turn in turns),
        "server_s": statistics.median(turn.server_s for turn in turns),
        "ratio": float(np.median(ratios)),
        "ratio_low": float(low),
        "ratio_high": float(high),
    }


def told(found: dict[str, float], documents: int, turns: int) -> str:
    """Return the summary as a sentence."""
    more, low, high = (100 * (found[name] - 1) for name in ("ratio", "ratio_low", "ratio_high"))
    return (
        f"{documents} documents: {found['library_s']:.3f} s by the library, "
        f"{found['server_s']:.3f} s by the server: {more:+.1f} % (95 % interval {low:+.1f} to "
        f"{high:+.1f} %; medians of {turns} turns in pairs)."
    )


def compared(
    folder: Path, compute: str, requests: list[dict[str, Any]], given: argparse.Namespace
) -> list[Turn]:
    """Return the turns of server and library with one number type."""
    arguments = ("--model", "model={folder}", "--port", "{port}", "--log-level", "warning")
    settings = ("--threads", str(given.threads), "--compute-dtype", compute)
    command = ("-m", "polyrank", "serve", *arguments, *settings)
    server = Server("polyrank", Path(sys.executable), command)
    with (
        tempfile.TemporaryDirectory() as scratch,
        running(server, folder, PORT, given.threads, Path(scratch) / "server.log") as made,
        library(folder, given.threads, compute) as own,
        httpx.Client(base_url=made.url, timeout=load.TIMEOUT_S) as client,
    ):
        return measure(client, own, requests, given.turns)


def main() -> None:
    """Measure, and write the figures."""
    given = options()
    requests = load.bodies(given.data, 50, given.seed, {given.documents: 1.0})
    facts: dict[str, Any] = {"setting": setting(ROOT), "threads": given.threads, "computes": {}}
    with tempfile.TemporaryDirectory() as scratch:
        from polyrank.checkpoint.hub import base_model_folder

        made_here = Path(scratch) / "e5-small-reranker"
        folder = given.model or small(base_model_folder(), made_here, given.seed)
        for compute in given.compute_dtype:
            turns = compared(folder, compute, requests, given)
            facts["computes"][compute] = {
                "summary": summary(turns, given.seed),
                "turns": [(turn.library_s, turn.server_s) for turn in turns],
            }
    (given.output / "overhead.json").write_text(json.dumps(facts, indent=1) + "\n", "utf8")
    commit, machine = facts["setting"]["commit"], facts["setting"]["machine"]
    lines = [
        "# What HTTP adds to a ranking",
        "",
        f"Commit {commit}, {machine}, {given.threads} threads.",
        "",
        *(
            f"- {compute}, {told(found['summary'], given.documents, given.turns)}"
            for compute, found in facts["computes"].items()
        ),
    ]
    page = "\n".join(lines) + "\n"
    (given.output / "overhead.md").write_text(page, "utf8")
    print(page)


if __name__ == "__main__":
    main()
