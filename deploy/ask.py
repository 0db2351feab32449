"""What a running container must do: given on standard input to the Python inside it."""

import json
import os
import shutil
import time
import urllib.request
from urllib.error import URLError

ADDRESS = "http://127.0.0.1:3000"
DOCUMENTS = ["Paris is in France.", "Indoor cats usually live 12 to 18 years.", "Dogs bark."]


def main() -> None:
    """Wait until it is ready, look at its rights, ask it for a ranking."""
    seconds = wait()
    assert os.getuid() != 0, "runs as root"
    for folder in ("/opt/polyrank", "/tmp", "/var/cache/polyrank"):
        assert not is_writable(folder), folder
    assert not list(filter(shutil.which, ("cc", "gcc", "pip", "curl"))), "more than it needs"
    body = json.dumps({"query": "How long do cats live?", "texts": DOCUMENTS}).encode()
    request = urllib.request.Request(
        f"{ADDRESS}/rerank", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as reply:
        hits = json.load(reply)
    assert hits[0]["index"] == 1, hits
    print(f"user {os.getuid()}, root read-only, ready after {seconds:.1f} s, ranked: {hits}")


def wait() -> float:
    """Return the seconds until the server was ready."""
    began = time.monotonic()
    while time.monotonic() - began < 60:
        try:
            urllib.request.urlopen(f"{ADDRESS}/ready", timeout=10).close()
            return time.monotonic() - began
        except URLError:
            time.sleep(0.1)
    raise TimeoutError("not ready in 60 s")


def is_writable(folder: str) -> bool:
    """Return whether a file can be made in a folder.

    Args:
        folder: The folder.
    """
    try:
        with open(f"{folder}/written", "w"):
            return True
    except OSError:
        return False


main()
