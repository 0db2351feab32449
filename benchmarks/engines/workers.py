"""The parent's end: one long-lived process an engine, stopped while another has its turn."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engines import isa
from engines.adapter import THREADS
from engines.batching import Batching


@dataclass(frozen=True, slots=True)
class Bench:
    """What all engines of a run share.

    Attributes:
        folder: The checkpoint.
        converted: Conversions of it.
        jobs: File with the pickled jobs.
        isa: What may be used of the processor (see `isa.CHOICES`).
        logs: Folder for what engines print.
    """

    folder: Path
    converted: Path
    jobs: Path
    isa: str
    logs: Path

    def start(self, how: str, key: str, *rest: int) -> "subprocess.Popen[str]":
        """Start a process for an engine."""
        command = [sys.executable, "-m", "engines.worker", how, key, str(self.folder)]
        command += [str(self.converted), str(self.jobs), self.isa, *map(str, rest)]
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(THREADS))
        quiet = {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
        path = {"PYTHONPATH": str(Path(__file__).parents[1])}
        with self.log(key).open("a") as log:
            return subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
                env={**os.environ, **threads, **quiet, **path, **isa.variables(self.isa)},
            )  # fmt: skip

    def log(self, key: str) -> Path:
        """Return the file that holds what an engine printed."""
        return self.logs / f"{key}.log"

    def reason(self, key: str) -> str:
        """Return the last line that an engine printed, which says why it ended."""
        lines = self.log(key).read_text("utf8", errors="replace").strip().splitlines()
        return lines[-1] if lines else "it ended without a word"


class StoppedError(Exception):
    """An engine's process has ended; the message is the last line it printed."""


@dataclass(slots=True)
class Worker:
    """A served engine."""

    key: str
    bench: Bench
    process: "subprocess.Popen[str]" = field(init=False)

    def __post_init__(self) -> None:
        self.process = self.bench.start("serve", self.key)
        self._read()
        self.process.send_signal(signal.SIGSTOP)

    def ask(self, **command: Any) -> dict[str, Any]:
        """Let the engine carry out one command while all others stand still.

        Raises:
            StoppedError: If its process has ended.
        """
        assert self.process.stdin is not None
        self.process.send_signal(signal.SIGCONT)
        try:
            self.process.stdin.write(json.dumps(command) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError as exc:
            raise StoppedError(self.bench.reason(self.key)) from exc
        answer = self._read()
        self.process.send_signal(signal.SIGSTOP)
        return answer

    def run(self, job: str, batching: Batching) -> dict[str, Any]:
        """Run a job; return seconds and logits."""
        return self.ask(do="run", job=job, budget=batching.budget, lanes=batching.lanes)

    def close(self) -> None:
        """End the process."""
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            raise StoppedError(self.bench.reason(self.key))
        return json.loads(line)


def first_score(bench: Bench, key: str) -> float:
    """Return seconds from process start to the first score.

    Raises:
        StoppedError: If the process ended before.
    """
    start = time.perf_counter()
    with bench.start("first", key) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        seconds = time.perf_counter() - start
    if not line:
        raise StoppedError(bench.reason(key))
    return seconds


def memory(bench: Bench, key: str, batching: Batching) -> dict[str, dict[str, int]]:
    """Return memory of a fresh process in MiB, by "loaded" and "run", as the system names it.

    Raises:
        StoppedError: If the process ended before.
    """
    with bench.start("memory", key, batching.budget, batching.lanes) as process:
        line = process.communicate()[0]
    if not line:
        raise StoppedError(bench.reason(key))
    return json.loads(line)
