"""One engine in a process of its own: answers commands, a line of JSON each, until told to stop.

``python -m engines.worker serve|first|memory ENGINE FOLDER CONVERTED JOBS ISA [BUDGET LANES]``
"""

import json
import os
import pickle
import sys
import time
from functools import cached_property
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from engines.adapter import Logits, Peer
from engines.batching import Batching
from engines.isa import has_asked_for_amx, restrict
from engines.machine import busy_seconds
from engines.registry import PEERS
from engines.work import Job

FIRST_PAIR = (
    "How long do cats live?",
    "Indoor cats usually live 12 to 18 years; some reach their twenties.",
)


def memory_mib() -> dict[str, int]:
    """Return peak and anonymous memory of this process."""
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return {name: int(fields[name].split()[0]) // 1024 for name in ("VmHWM", "RssAnon")}


class Served:
    """An engine with the jobs it can be asked to run."""

    def __init__(self, key: str, folder: Path, converted: Path, jobs: Path) -> None:
        self.kind = PEERS[key]
        self.folder = folder
        self.converted = converted
        self.jobs_file = jobs
        self.by_lanes: dict[int, Peer] = {}

    @cached_property
    def jobs(self) -> dict[str, Job]:
        """The jobs, read when first needed: a first score needs none."""
        return pickle.loads(self.jobs_file.read_bytes())

    def peer(self, lanes: int) -> Peer:
        """Return the engine set up for so many lanes, loading it when first asked."""
        if lanes not in self.by_lanes:
            peer = self.kind(lanes)
            peer.prepare(self.folder, self.converted)
            self.by_lanes[lanes] = peer
        return self.by_lanes[lanes]

    def run(self, name: str, batching: Batching) -> Logits:
        """Run a job."""
        job = self.jobs[name]
        peer = self.peer(batching.lanes)
        if self.kind.takes_texts:
            return peer.run_texts(job.pairs)
        return peer.run(job.sequences, batching)

    def answer(self, command: dict[str, Any]) -> dict[str, Any]:
        """Carry out one command."""
        if command["do"] == "run":
            batching = Batching(command["budget"], command["lanes"])
            self.run("wake", batching)  # threads and caches have slept since the last turn
            busy, own, start = busy_seconds(), time.process_time(), time.perf_counter()
            logits = self.run(command["job"], batching)
            seconds = time.perf_counter() - start
            others = busy_seconds() - busy - (time.process_time() - own)
            return {"seconds": seconds, "others": max(others, 0.0), "logits": logits.tolist()}
        if command["do"] == "tokenize":
            start = time.perf_counter()
            self.peer(1).tokenize(self.jobs[command["job"]].pairs)
            return {"seconds": time.perf_counter() - start}
        return {"has_asked_for_amx": has_asked_for_amx()}


def serve(served: Served, out: TextIO) -> None:
    """Answer commands from standard input until it ends."""
    served.peer(1)
    print(json.dumps({"is_ready": True}), file=out, flush=True)
    for line in sys.stdin:
        print(json.dumps(served.answer(json.loads(line))), file=out, flush=True)


def first(served: Served, out: TextIO) -> None:
    """Score one pair from nothing."""
    logit = served.kind(1).first_score(served.folder, served.converted, FIRST_PAIR)
    print(json.dumps({"logit": logit}), file=out, flush=True)


def memory(served: Served, batching: Batching, out: TextIO) -> None:
    """Load and run the XQuAD job as fast as the engine can, and report memory."""
    served.peer(batching.lanes)
    loaded = memory_mib()
    served.run("natural", batching)
    print(json.dumps({"loaded": loaded, "run": memory_mib()}), file=out, flush=True)


def main() -> None:
    """Serve, or score one pair, or measure memory."""
    how, key, folder, converted, jobs, isa, *rest = sys.argv[1:]
    restrict(isa)
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print; only answers may reach the parent
    np.seterr(all="ignore")
    served = Served(key, Path(folder), Path(converted), Path(jobs))
    if how == "first":
        first(served, out)
    elif how == "memory":
        memory(served, Batching(*map(int, rest)), out)
    else:
        serve(served, out)


if __name__ == "__main__":
    main()
