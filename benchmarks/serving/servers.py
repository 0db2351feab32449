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

from engines.machine import busy_seconds

START_S = 180


@dataclass(frozen=True)
class Server:
    """How a server is started.

    Attributes:
        name: As in the report.
        python: Interpreter of the environment that has it.
        arguments: After the interpreter; {folder} and {port} are filled in.
        environment: Variables; {folder} is filled in.
        reads_onnx: Whether it wants an int8 ONNX graph beside the checkpoint.
        in_folder: Whether it runs in the model's folder.
        is_float32: Whether its scores are to be the library's.
    """

    name: str
    python: Path
    arguments: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)
    reads_onnx: bool = False
    in_folder: bool = False
    is_float32: bool = True


# What infinity was tried with (`python -m serving.settings`): engine, options, batch size.
# BetterTransformer, which infinity still has a switch for, needs an environment of its own with
# optimum 1 and transformers 4.48.
_TORCH = ("--engine", "torch", "--no-compile", "--batch-size")
_COMPILED = ("--engine", "torch", "--compile", "--batch-size")
_BFLOAT16 = ("--dtype", "bfloat16", *_TORCH)
_ONNX = ("--engine", "optimum", "--onnx-disable-optimize", "--batch-size")  # it is fused already
INFINITY = {
    "infinity torch, batches of 8": (*_TORCH, "8"),
    "infinity torch, batches of 2": (*_TORCH, "2"),
    "infinity torch, batches of 32": (*_TORCH, "32"),
    "infinity torch, compiled, batches of 8": (*_COMPILED, "8"),
    "infinity torch int8, batches of 8": ("--dtype", "int8", *_TORCH, "8"),
    "infinity torch bfloat16, batches of 8": (*_BFLOAT16, "8"),
    "infinity torch bfloat16, batches of 2": (*_BFLOAT16, "2"),
    "infinity torch bfloat16, batches of 4": (*_BFLOAT16, "4"),
    "infinity torch bfloat16, batches of 16": (*_BFLOAT16, "16"),
    "infinity torch bfloat16, batches of 32": (*_BFLOAT16, "32"),
    "infinity ONNX int8, batches of 8": (*_ONNX, "8"),
    "infinity ONNX int8, batches of 1": (*_ONNX, "1"),
    "infinity ONNX int8, batches of 2": (*_ONNX, "2"),
    "infinity ONNX int8, batches of 32": (*_ONNX, "32"),
}
# of each kind the fastest
LOADED = (
    "infinity ONNX int8, batches of 2",
    "infinity torch bfloat16, batches of 16",
    "infinity torch, batches of 8",
)


def servers(threads: int) -> list[Server]:
    """Return polyrank and the plain server, each with so many threads."""
    own = Path(sys.executable)
    serve = ("-m", "polyrank", "serve", "--model", "model={folder}", "--port", "{port}")
    quiet = ("--log-level", "warning", "--threads", str(threads))
    return [
        Server("polyrank int8", own, (*serve, *quiet, "--compute-dtype", "int8"), is_float32=False),
        Server("polyrank float32", own, (*serve, *quiet, "--compute-dtype", "float32")),
        Server(
            "FastAPI + sentence-transformers",
            own,
            ("-m", "uvicorn", "serving.plain:app", "--port", "{port}", "--log-level", "warning"),
            {"SERVED_FOLDER": "{folder}"},
        ),
    ]


def infinity(python: Path) -> list[Server]:
    """Return infinity under each of the settings tried.

    Args:
        python: Interpreter of an environment with infinity-emb.

    Returns:
        A server each. They run in the model's folder, where alone infinity 0.0.78 finds the ONNX
        graph of a model that lies on disk.
    """
    start = ("-m", "infinity_emb.cli", "v2", "--model-id", ".", "--host", "127.0.0.1")
    options = ("--port", "{port}", "--device", "cpu", "--log-level", "warning")
    return [
        Server(
            name,
            python.absolute(),
            (*start, *options, *more),
            reads_onnx="ONNX" in name,
            in_folder=True,
            is_float32="int8" not in name and "bfloat16" not in name,
        )
        for name, more in INFINITY.items()
    ]


def with_onnx(folder: Path, graph: Path, made: Path) -> Path:
    """Link a checkpoint's files into a new folder, with an ONNX graph under infinity's name.

    Args:
        folder: The checkpoint.
        graph: The graph.
        made: Folder to make.

    Returns:
        `made`.
    """
    made.mkdir()
    for path in folder.iterdir():
        (made / path.name).symlink_to(path.resolve())
    (made / "model_quantized.onnx").symlink_to(graph.resolve())
    return made


class Running:
    """A server that answers."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int) -> None:
        self.process = process
        self.url = f"http://127.0.0.1:{port}"

    @property
    def memory_mb(self) -> float:
        """Resident memory of the process and its children."""
        return memory_mb(self.process.pid)

    def seconds_of_others(self) -> float:
        """Return the processor time, since the machine started, of all but server and client."""
        own = sum(_cpu_seconds(each) for each in (os.getpid(), *_tree(self.process.pid)))
        return busy_seconds() - own


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
            [server.python, *filled],
            env=variables,
            cwd=folder if server.in_folder else None,
            stdout=out,
            stderr=subprocess.STDOUT,
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
    return sum(_resident_kb(each) for each in _tree(pid)) / 1024


def num_open_files(pid: int) -> int:
    """Return how many files and sockets a process holds open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def _tree(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    found = [int(child) for child in path.read_text().split()] if path.is_file() else []
    return [pid, *(deeper for child in found for deeper in _tree(child))]


def _cpu_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _resident_kb(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmRSS")), 0)
