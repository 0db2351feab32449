"""What is missing is said first, with a command that installs it."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from polyrank import _extras
from polyrank._extras import EXTRAS, install_command, require
from polyrank.cli.needs import EXTRA_OF_COMMAND
from polyrank.errors import MissingExtraError

# arguments that let each command begin
ARGUMENTS = {
    "bulk classify": ["nowhere", "--output", "nowhere"],
    "bulk embed": ["nowhere", "--output", "nowhere"],
    "bulk rerank": ["nowhere", "--output", "nowhere"],
    "compress distill": ["nowhere", "nowhere", "--layers", "1", "--data", "nowhere"],
    "compress drop-layers": ["nowhere", "nowhere", "--layers", "1"],
    "compress onnx": ["nowhere", "nowhere"],
    "compress quantize": ["--data", "nowhere", "--output", "nowhere"],
    "compress report": ["nowhere"],
    "compress table": ["nowhere", "nowhere", "--text", "nowhere"],
    "compress trim": ["nowhere", "nowhere", "--text", "nowhere"],
    "eval": ["nowhere"],
    "serve": ["--model", "nowhere"],
    "train first-stage-weight": ["--data", "nowhere"],
    "train classifier": ["--data", "nowhere", "--output", "nowhere"],
    "train embedder": ["--data", "nowhere", "--output", "nowhere"],
    "train late-interaction": ["--data", "nowhere", "--output", "nowhere"],
    "train pruning": ["--data", "nowhere", "--output", "nowhere"],
    "train reranker": ["--data", "nowhere", "--output", "nowhere"],
}
WITHOUT = {
    "calibrate",
    "classify",
    "compress export",
    "doctor",
    "embed",
    "index",
    "info",
    "rerank",
    "search",
    "settings",
}

PLAIN_INSTALL = """
import contextlib, io, json, sys
from polyrank._extras import EXTRAS
absent = {name.partition(".")[0] for modules in EXTRAS.values() for name in modules}
absent -= {"pydantic", "httpx", "fsspec", "markdown_it"}  # of other parts
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
from polyrank.cli.app import app
from polyrank.cli.main import main
from typer.main import get_command
found = {}
def names(command, before=""):
    for name, one in getattr(command, "commands", {}).items():
        yield from names(one, f"{before} {name}".strip())
    if not hasattr(command, "commands"):
        yield before
arguments = json.loads(sys.argv[1])
for name in names(get_command(app)):
    if name not in arguments:
        found[name] = None
        continue
    sys.argv = ["polyrank", *name.split(), *arguments[name]]
    told, code = io.StringIO(), 0
    with contextlib.redirect_stderr(told):
        try:
            main()
        except SystemExit as exc:
            code = exc.code
    found[name] = [code, told.getvalue()]
heavy = [m for m in ("polyrank.inference.model", "tokenizers", "numpy.linalg") if m in sys.modules]
print(json.dumps([found, heavy]))
"""


def test_every_command_checks_its_extra_first() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PLAIN_INSTALL, json.dumps(ARGUMENTS)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found, heavy = json.loads(done.stdout)
    assert {name for name, told in found.items() if told is None} == WITHOUT
    assert set(found) - WITHOUT == set(ARGUMENTS)
    assert set(EXTRA_OF_COMMAND) <= {*found, *(name.partition(" ")[0] for name in found)}
    for name in ARGUMENTS:
        code, told = found[name]
        assert code == 1, name
        assert told.startswith(f"error: polyrank {name} needs "), told
        assert "not installed. Install with: " in told
        group = name.partition(" ")[0]
        extra = EXTRA_OF_COMMAND.get(name, EXTRA_OF_COMMAND.get(group))
        assert ("torch --index-url" in told) == (extra == "train")
    assert "polyrank.inference.model" not in heavy


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place from which no source runs."""
    monkeypatch.setattr(_extras, "__file__", str(tmp_path / "lib" / "polyrank" / "_extras.py"))
    return tmp_path


def installed_from(monkeypatch: pytest.MonkeyPatch, direct_url: dict[str, object] | None) -> None:
    monkeypatch.setattr(_extras, "_direct_url", lambda: direct_url or {})


def checkout(folder: Path, makefile: str | None) -> Path:
    (folder / "src" / "polyrank").mkdir(parents=True)
    (folder / "pyproject.toml").touch()
    if makefile is not None:
        (folder / "Makefile").write_text(makefile)
    return folder


def test_a_checkout_is_named(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = checkout(elsewhere / "my source", None)
    installed_from(monkeypatch, {"url": source.as_uri(), "dir_info": {"editable": True}})
    *_, last = shlex.split(install_command("server"))
    assert last == f"{source}[server]"
    assert " install -e " in install_command("server")


def test_make_is_named_where_it_installs_extras(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = checkout(elsewhere / "src", "install: x\n\techo $(EXTRAS)\n")
    installed_from(monkeypatch, {"url": source.as_uri(), "dir_info": {}})
    assert not install_command("server").startswith("make")  # another environment runs than make's
    monkeypatch.setattr(sys, "prefix", str(source / ".venv"))
    assert install_command("server") == f"make -C {source} install EXTRAS=server"
    monkeypatch.chdir(source)
    assert install_command("server") == "make install EXTRAS=server"


def test_a_wheel_is_named_while_it_is_there(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = elsewhere / "polyrank-0.1.0-cp312-abi3-linux_x86_64.whl"
    installed_from(monkeypatch, {"url": wheel.as_uri(), "archive_info": {}})
    assert install_command("eval").endswith(" install 'polyrank[eval]'")
    wheel.touch()
    assert install_command("eval").endswith(f" install 'polyrank[eval] @ {wheel.as_uri()}'")


def test_an_index_needs_the_name_alone(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed_from(monkeypatch, None)
    assert install_command("onnx").endswith(" install 'polyrank[onnx]'")


def test_pip_is_that_of_the_environment(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed_from(monkeypatch, None)
    monkeypatch.setattr(_extras.shutil, "which", lambda name: f"/somewhere/else/{name}")
    assert install_command("onnx").startswith(f"{shlex.quote(sys.executable)} -m pip install ")
    own = Path(sys.executable).with_name("pip")
    monkeypatch.setattr(_extras.shutil, "which", lambda name: str(own))
    assert install_command("onnx").startswith("pip install ")
    monkeypatch.setattr(_extras, "find_spec", lambda name: None)
    monkeypatch.setattr(_extras.shutil, "which", lambda name: f"/bin/{name}")
    assert install_command("onnx").startswith(f"uv pip install --python {sys.executable} ")


# tested in environments of their own, by make test-integrations, test-stores and test-bulk
FRAMEWORKS = {"langchain", "llama-index", "haystack", "dspy", "txtai", "mteb", "lancedb", "chroma"}
FRAMEWORKS |= {"faiss", "qdrant", "milvus", "pgvector", "pinecone", "weaviate"}
FRAMEWORKS |= {"s3", "gcs", "lance", "ray", "ray-serve", "spark", "dask"}


def test_the_modules_of_extras_are_those_of_pyproject() -> None:
    for extra in EXTRAS.keys() - FRAMEWORKS:
        require(extra, purpose="the tests")
    with pytest.raises(MissingExtraError, match=r"needs nothing\.at\.all, which is not installed"):
        require("eval", "nothing.at.all", purpose="a test")
