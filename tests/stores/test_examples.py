"""Each example of a store runs as it stands and finds the text that answers."""

import subprocess
import sys

import pytest

from tests.stores.test_rows import CATS, QUERY, TEXTS


@pytest.mark.parametrize(
    ("name", "module"), [("lancedb_store", "lancedb"), ("sqlite_rows", "sqlite_vec")]
)
def test_example(name: str, module: str) -> None:
    pytest.importorskip(module)
    from polyrank import Reranker

    command = [sys.executable, "-W", "ignore", CATS.with_name(f"{name}.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    best = Reranker().rank(QUERY, TEXTS, top_n=1)[0].document
    assert str(best) in done.stdout.splitlines()[0]
