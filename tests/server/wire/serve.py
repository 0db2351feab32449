"""Runs where polyrank is installed: writes seeded checkpoints and serves them for the wire tests.

Usage: serve.py FOLDER PORT. Prints nothing; `/ready` tells when it can be used.
"""

import os
import sys
from pathlib import Path

from tests import checkpoints

MODELS = {
    "reranker": "bge-reranker-base",
    "embedder": "multilingual-e5-small",
    "classifier": "three-way-classifier",
}


def main() -> None:
    folder, port = Path(sys.argv[1]), sys.argv[2]
    options = []
    for name, kind in MODELS.items():
        if not (folder / kind).is_dir():
            checkpoints.make(kind, folder)
        options += ["--model", f"{name}={folder / kind}"]
    command = [sys.executable, "-m", "polyrank", "serve", "--port", port, *options]
    os.execv(sys.executable, [*command, "--log-level", "warning"])


if __name__ == "__main__":
    main()
