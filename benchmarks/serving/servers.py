"""The servers that are compared: how each is started, watched and stopped."""

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

START_S = 180


@dataclass(frozen=True)
class Server:
    """How a server is started.

    Attributes:
        name: As in the report.
        python: Interpreter of the environment that has it.
        arguments: After the interpreter; {folder} and {port} are filled in.
        environment: Variables; {folder} is filled in.
    """

    name: str
    python: Path
    arguments: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)


def servers(threads: int, infinity: Path | None) -> list[Server]:
    """Return the servers to compare.

    Args:
        threads: Threads of each.
        infinity: Interpreter of an environment with infinity-emb, or None to leave it out.

    Returns:
        polyrank first.
    """
    own = Path(sys.executable)
    serve = ("-m", "polyrank", "serve", "--model", "model={folder}", "--port", "{port}")
    quiet = ("--log-level", "warning", "--threads", str(threads))
    found = [
        Server("polyrank float32", own, (*serve, *quiet, "--compute", "float32")),
        Server("polyrank int8", own, (*serve, *quiet, "--compute", "int8")),
        Server(
            "FastAPI + sentence-transformers",
            own,
            ("-m", "uvicorn", "serving.plain:app", "--port", "{port}", "--log-level", "warning"),
            {"SERVED_FOLDER": "{folder}"},
        ),
    ]
    if infinity is not None:
        start = ("-m", "infinity_emb", "v2")
        options = ("--model-id", "{folder}", "--port", "{port}", "--device", "cpu")
        quiet = ("--log-level", "warning")
        found += [
            Server("infinity torch", infinity, (*start, *options, *quiet, "--engine", "torch")),
            Server("infinity ONNX", infinity, (*start, *options, *quiet, "--engine", "optimum")),
        ]
    return found


class Running:
    """A server that answers."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int) -> None:
        self.process = process
        self.url = f"http://127.0.0.1:{port}"

    @property
    def memory_mb(self) -> float:
        """Resident memory of the process and its children."""
        return memory_mb(self.process.pid)


@contextmanager
def running(server: Server, folder: Path, port: int, threads: int, log: Path) -> Iterator[Running]:
    """Give a started server, and stop it at the end.

    Yields:
        The server, once it answers.

    Raises:
        RuntimeError: If it does not come up.
    """
    filled = [part.format(folder=folder, port=port) for part in server.arguments]
    environment = {key: value.format(folder=folder) for key, value in server.environment.items()}
    limits = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    variables = {**os.environ, **limits, **environment, "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
    with log.open("wb") as out:
        process = subprocess.Popen(
            [server.python, *filled], env=variables, stdout=out, stderr=subprocess.STDOUT
        )
        try:
            made = Running(process, port)
            _wait(made, log)
            yield made
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(made: Running, log: Path) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end and made.process.poll() is None:
        try:
            urllib.request.urlopen(f"{made.url}/health", timeout=5)
        except (OSError, urllib.error.URLError):
            time.sleep(0.2)
        else:
            return
    tail = log.read_text("utf8", errors="replace")[-2000:]
    raise RuntimeError(f"it did not come up within {START_S} s: {tail}")


def memory_mb(pid: int) -> float:
    """Return the resident memory of a process and its children; 0 where it has ended."""
    return sum(_resident_kb(each) for each in (pid, *_children(pid))) / 1024


def num_open_files(pid: int) -> int:
    """Return how many files and sockets a process holds open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def _children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    found = [int(child) for child in path.read_text().split()] if path.is_file() else []
    return [*found, *(deeper for child in found for deeper in _children(child))]


def _resident_kb(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmRSS")), 0)
