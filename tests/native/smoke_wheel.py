"""What an installed wheel must do in a fresh environment: `make test-wheel`, cibuildwheel."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import polyrank
from polyrank import _native

EXAMPLES = Path(__file__).resolve().parents[2] / "examples/cats.jsonl"
# one library of each extra, which the first command must do without
EXTRAS = ("bm25s", "datasets", "onnxruntime", "opentelemetry", "pyarrow", "starlette", "torch")


def main() -> None:
    paths = _native.compiled_paths()
    assert "portable" in paths, paths
    assert set(map(type, _native.cpu_features().values())) == {bool}
    assert not list(filter(find_spec, EXTRAS)), "not a fresh environment"
    shown = run("--version")
    assert polyrank.__version__ in shown, shown
    hits = run("rerank", "How long do cats live?", str(EXAMPLES)).splitlines()
    best = json.loads(hits[0])
    assert best["text"].startswith("Indoor cats usually live"), best
    sys.stdout.write(f"{shown.strip()}, paths: {', '.join(paths)}\n")
    sys.stdout.write(f"{len(hits)} documents ranked, {best['score']:.4f} {best['text']}\n")


def run(*arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "polyrank", *arguments],
        check=True,
        capture_output=True,
        encoding="utf-8",
    ).stdout


if __name__ == "__main__":
    main()
