"""What the README shows runs as it stands, without a network."""

import os
import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"


def test_the_first_python_block_runs_offline(tmp_path: Path) -> None:
    block = re.search(r"```python\n(.*?)```", README.read_text("utf8"), re.DOTALL)
    assert block is not None
    guard = "import socket\nsocket.socket.connect = socket.create_connection = None\n"
    done = subprocess.run(
        [sys.executable, "-c", guard + block[1]],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_CACHE": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout
