"""Run Python with another build of polyrank._native, such as one with sanitizers.

python tests/native/with_extension.py BUILD.so -m pytest tests/unit/encoder/test_native.py
"""

import importlib.util
import runpy
import sys


def take(path: str) -> None:
    """Load a file as polyrank._native, before the package finds its own."""
    spec = importlib.util.spec_from_file_location("polyrank._native", path)
    assert spec is not None, path
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules["polyrank._native"] = module


if __name__ == "__main__":
    take(sys.argv[1])
    sys.argv = sys.argv[2:]
    sys.path[0] = ""  # as `python -m` has it
    if sys.argv[0] == "-m":
        sys.argv = sys.argv[1:]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(sys.argv[0], run_name="__main__")
