"""What users import: names, and how little that loads."""

import inspect
import subprocess
import sys

import pytest

import polyrank
from polyrank import errors

# modules that may be loaded by `import polyrank`: the standard library and polyrank's own root
HEAVY = ("numpy", "tokenizers", "onnx", "onnxruntime", "torch", "typer", "rich", "huggingface_hub")


def test_every_public_name_resolves() -> None:
    assert polyrank.__all__ == sorted(polyrank.__all__)
    for name in polyrank.__all__:
        assert getattr(polyrank, name).__name__ == name
        assert name in dir(polyrank)
    with pytest.raises(AttributeError, match="no attribute 'Ranker'"):
        polyrank.Ranker  # noqa: B018


def test_import_loads_nothing_heavy() -> None:
    code = f"import sys, polyrank; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_loads_no_model_library() -> None:
    code = (
        "import sys\nsys.argv = ['polyrank', '--help']\n"
        "from polyrank.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = ('onnx', 'onnxruntime', 'torch', 'tokenizers', 'matplotlib', 'bm25s', 'pyarrow')\n"
        "print([m for m in heavy if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert "rerank" in done.stdout


def test_error_tree_is_the_one_drawn_at_the_top() -> None:
    drawn = inspect.getdoc(errors) or ""
    classes = [cls for _, cls in inspect.getmembers(errors, inspect.isclass)]
    for cls in classes:
        assert issubclass(cls, errors.PolyrankError)
        assert cls.__name__ in drawn
    lines = [line for line in drawn.splitlines() if "──" in line]
    assert len(lines) == len(classes) - 1
