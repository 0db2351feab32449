"""Each example runs as it stands and finds the text that answers."""

import subprocess
import sys

import pytest

from tests.integrations import cats

NEEDS = {
    "chroma": "chromadb",
    "dspy": "dspy",
    "haystack": "haystack",
    "lancedb": "lancedb",
    "langchain": "langchain_core",
    "llama": "llama_index.core",
    "mteb": "mteb",
    "sqlite": "sqlite_vec",
    "txtai": "txtai",
}
EXAMPLES = [path for path in sorted(cats.EXAMPLES.glob("*.py")) if path.stem != "local_task"]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example(path: "cats.Path") -> None:
    library = NEEDS.get(path.stem.partition("_")[0])
    if library is not None:
        pytest.importorskip(library)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", path], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    first = done.stdout.splitlines()[0]
    assert cats.BEST[0] in first or "nDCG@10" in first
