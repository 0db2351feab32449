"""The parts for frameworks, as far as they can be tested where no framework is installed."""

import ast
import io
import subprocess
import sys
import tokenize
from importlib import import_module
from pathlib import Path

import pytest

import polyrank
from polyrank._extras import EXTRAS, is_installed
from polyrank.errors import MissingExtraError

SOURCE = Path(polyrank.__file__).parent
ROOT = SOURCE.parents[1]
PARTS = sorted(path.stem for path in (SOURCE / "integrations").glob("*.py") if path.stem[0] != "_")
FRAMEWORKS = [name for name in PARTS if name != "loading"]


def code_lines(path: Path) -> int:
    """Lines of a file without blank ones, comments and docstrings."""
    source = path.read_text(encoding="utf8")
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    documents = {
        line
        for node in ast.walk(ast.parse(source))
        if isinstance(node, kinds) and ast.get_docstring(node)
        for line in range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1)
    }
    blank = {
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    }
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    lines = {
        line
        for token in tokens
        if token.type not in blank
        for line in range(token.start[0], token.end[0] + 1)
    }
    return len(lines - documents)


@pytest.mark.parametrize("name", PARTS)
def test_parts_are_short(name: str) -> None:
    assert code_lines(SOURCE / "integrations" / f"{name}.py") <= 62


def test_examples_are_short() -> None:
    for path in (ROOT / "examples").glob("*.py"):
        assert len(path.read_text(encoding="utf8").splitlines()) < 40, path


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_a_missing_framework_is_named_with_its_extra(name: str) -> None:
    extra = name.replace("_", "-")
    if is_installed(*EXTRAS[extra]):
        pytest.skip(f"{extra} is installed")
    with pytest.raises(MissingExtraError, match=rf"polyrank.integrations.{name} .*{extra}"):
        import_module(f"polyrank.integrations.{name}")


def test_nothing_else_loads_a_framework() -> None:
    code = (
        "import sys, polyrank.integrations, polyrank.compat\n"
        "from polyrank import Reranker, Embedder, Classifier\n"
        f"names = {[modules[0] for extra, modules in EXTRAS.items() if extra in FRAMEWORKS]}\n"
        "print([name for name in names if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
