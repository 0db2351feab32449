"""Every kind of heavy body to every route of a server process, one after another.

Usage: python -m tests.server.attack [--size BYTES] [--output REPORT.md]. Each has to be answered or
refused within 2 s while /live answers within 0.5 s and the process grows by less than 500 MB.
"""

import argparse
import http.client
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from polyrank.server.dialects.routes import ROUTES
from tests import checkpoints
from tests.server.heavy import bodies
from tests.server.running import resident_bytes
from tests.server.test_process import Process, process

LONGEST_S, LIVE_S, MOST_BYTES = 2.0, 0.5, 500_000_000
DEADLINE_MS = "1500"  # what is not malformed may compute until then
FOLDERS = ("bge-reranker-base", "multilingual-e5-small", "three-way-classifier")


@dataclass
class Watch:
    """The worst of a server while it is attacked: a thread asks /live and the system."""

    server: Process
    live_s: float = 0.0
    peak_bytes: int = 0
    _ends: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> "Watch":
        self.first_bytes = self.peak_bytes = resident_bytes(self.server.popen.pid)
        self._threads = [threading.Thread(target=each) for each in (self._ask, self._weigh)]
        for thread in self._threads:
            thread.start()
        return self

    def _ask(self) -> None:
        while not self._ends.wait(0.02):
            begin = time.monotonic()
            assert self.server.call("/live")[0] == 200
            self.live_s = max(self.live_s, time.monotonic() - begin)

    def _weigh(self) -> None:
        while not self._ends.wait(0.005):
            self.peak_bytes = max(self.peak_bytes, resident_bytes(self.server.popen.pid))

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        for thread in self._threads:
            thread.join()

    @property
    def growth(self) -> int:
        return self.peak_bytes - self.first_bytes


def post(port: int, path: str, body: bytes) -> int:
    """Return the status of a body's answer; 0 where the server hung up before all was sent."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=120)) as connection:
        try:
            headers = {"X-Request-Timeout-Ms": DEADLINE_MS}
            connection.request("POST", path, body, headers)
            answer = connection.getresponse()
            answer.read()
        except (BrokenPipeError, ConnectionResetError):
            return 0
        return answer.status


@dataclass
class Found:
    """What one kind of body came to, over all routes."""

    name: str
    statuses: Counter[int]
    longest_s: float
    at: str
    live_s: float
    growth: int

    @property
    def is_held(self) -> bool:
        return (
            self.longest_s < LONGEST_S
            and self.live_s < LIVE_S
            and self.growth < MOST_BYTES
            and not any(500 <= status != 504 for status in self.statuses)
        )

    def row(self) -> str:
        counts = ", ".join(f"{status}: {count}" for status, count in sorted(self.statuses.items()))
        return (
            f"| {self.name} | {counts} | {self.longest_s:.2f} ({self.at}) | {self.live_s:.2f} "
            f"| {self.growth / 1e6:.0f} | {'held' if self.is_held else '**NOT HELD**'} |"
        )


def attack(server: Process, paths: list[str], name: str, body: bytes) -> Found:
    """Return what one body comes to at all paths."""
    statuses: Counter[int] = Counter()
    longest_s, at = 0.0, ""
    with Watch(server) as watch:
        for path in paths:
            begin = time.monotonic()
            statuses[post(server.port, path, body)] += 1
            if (taken := time.monotonic() - begin) > longest_s:
                longest_s, at = taken, path
        time.sleep(0.05)
    return Found(name, statuses, longest_s, at, watch.live_s, watch.growth)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=16_000_000)
    parser.add_argument("--only", default="", help="kinds whose names hold this")
    parser.add_argument("--output", type=Path)
    asked = parser.parse_args()
    paths = sorted({route.path for route in ROUTES if route.method == "POST"})
    with tempfile.TemporaryDirectory() as folder:
        models = [checkpoints.make(name, Path(folder)) for name in FOLDERS]
        options = [part for model in models for part in ("--model", str(model))]
        with process(*options) as server:
            found = []
            for name, body in bodies(asked.size):
                if asked.only in name:
                    found.append(attack(server, paths, name, body))
                    sys.stdout.write(found[-1].row() + "\n")
                    sys.stdout.flush()
            code = server.popen.poll()
    held = sum(each.is_held for each in found)
    summary = f"{len(found)} kinds of bodies to {len(paths)} routes, {asked.size:,} bytes each: "
    summary += f"{len(found) * len(paths):,} requests, {held} kinds held."
    sys.stdout.write(summary + "\n")
    if asked.output is not None:
        asked.output.write_text(report(summary, found))
    sys.exit(0 if held == len(found) and code is None else 1)


def report(summary: str, found: list[Found]) -> str:
    """Return the run as a page."""
    head = (
        "# The server under heavy bodies\n\n`make attack-server` writes this page. "
        f"{summary} Each has to be answered or refused within {LONGEST_S:g} s "
        f"(`X-Request-Timeout-Ms: {DEADLINE_MS}` is sent, so a well-formed one ends with 504 "
        f"by then), with `/live` below {LIVE_S:g} s meanwhile and less than "
        f"{MOST_BYTES / 1e6:.0f} MB more memory over all routes. Status 0: the server hung up "
        "before all was sent.\n\n"
    )
    table = "| body | statuses | slowest, s | /live, s | MB more | |\n|---|---|---|---|---|---|\n"
    return head + table + "\n".join(each.row() for each in found) + "\n"


if __name__ == "__main__":
    main()
