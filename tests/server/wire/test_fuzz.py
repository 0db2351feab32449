"""Bodies drawn from the server's own OpenAPI document: none of them may make it fail."""

import json
import subprocess
import sys
import urllib.request
from pathlib import Path

SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")


def test_no_drawn_request_makes_the_server_fail(url: str, key: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [
            str(SCHEMATHESIS),
            "run",
            f"{url}/openapi.json",
            *("--header", f"Authorization: Bearer {key}"),
            *("--checks", "not_a_server_error"),
            *("--phases", "coverage,fuzzing"),
            *("--max-examples", "30"),
            *("--workers", "4"),
        ],
        cwd=tmp_path,  # it keeps its examples there
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    with urllib.request.urlopen(f"{url}/openapi.json", timeout=10) as reply:
        count = sum(len(methods) for methods in json.load(reply)["paths"].values())
    assert f"{count}/{count}" in done.stdout
    with urllib.request.urlopen(f"{url}/ready", timeout=10) as reply:
        assert reply.status == 200
