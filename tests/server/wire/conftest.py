"""A server in a process of its own, run by the Python in POLYRANK_PYTHON, which has polyrank.

The clients live in another environment: some pin old versions of libraries that polyrank uses.
"""

import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
KEY = "a-key-for-the-wire-tests"


@pytest.fixture(scope="session")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a server with a reranker, an embedder and a classifier, which asks for a key."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    python = os.environ.get("POLYRANK_PYTHON", str(ROOT / ".venv/bin/python"))
    process = subprocess.Popen(
        [python, "-m", "tests.server.wire.serve", tmp_path_factory.mktemp("models"), str(port)],
        cwd=ROOT,
        env={**os.environ, "POLYRANK_API_KEYS": KEY},
    )
    address = f"http://127.0.0.1:{port}"
    try:
        _wait(process, f"{address}/ready")
        yield address
    finally:
        process.terminate()
        assert process.wait(30) == 0


def _wait(process: "subprocess.Popen[bytes]", ready: str) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        try:
            urllib.request.urlopen(ready, timeout=5)
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise RuntimeError(f"the server did not start (exit code {process.poll()})")


@pytest.fixture(scope="session")
def key() -> str:
    return KEY
