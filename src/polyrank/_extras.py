"""Checks for optional libraries, with a message that names the command to install them.

The command is one that works for the copy of polyrank that runs: from the checkout or the wheel it
was installed from, and into the same environment.
"""

import json
import re
import shlex
import shutil
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from polyrank.errors import MissingExtraError

_SERVER = ("starlette", "uvicorn", "httptools", "pydantic", "prometheus_client", "orjson")
_EVAL = ("bm25s", "ir_measures", "matplotlib")
EXTRAS: Mapping[str, tuple[str, ...]] = {
    "onnx": ("onnx", "onnxruntime"),
    "torch": ("torch",),
    "client": ("httpx", "tenacity"),
    "server": _SERVER,
    "otel": ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http"),
    "eval": _EVAL,
    "parquet": ("pyarrow",),
    "bulk": ("pyarrow", "fsspec"),
    "s3": ("s3fs",),
    "gcs": ("gcsfs",),
    "lance": ("lance",),
    "ray": ("ray", "pyarrow", "fsspec"),
    "ray-serve": ("ray.serve", *_SERVER),
    "spark": ("pyspark", "pyarrow"),
    "dask": ("dask", "pyarrow"),
    "index": ("markdown_it", "selectolax", "pypdfium2", "docx"),
    "langchain": ("langchain_core",),
    "llama-index": ("llama_index.core",),
    "haystack": ("haystack",),
    "dspy": ("dspy",),
    "txtai": ("txtai",),
    "mteb": ("mteb",),
    "lancedb": ("lancedb",),
    "chroma": ("chromadb",),
    "faiss": ("faiss",),
    "sqlite": ("sqlite_vec",),
    "qdrant": ("qdrant_client",),
    "milvus": ("pymilvus",),
    "pinecone": ("pinecone",),
    "weaviate": ("weaviate",),
    "pgvector": ("pgvector", "psycopg"),
    "train": ("torch", "sentence_transformers", "accelerate", "datasets", "peft", *_EVAL),
}
"""Modules that each extra brings."""

CPU_TORCH = "torch --index-url https://download.pytorch.org/whl/cpu"
CUDA_GB = 6.6  # of libraries that torch's own requirements bring on Linux


def is_installed(*modules: str) -> bool:
    """Return whether every module can be imported, without importing more than their packages."""
    return all(map(_is_found, modules))


def _is_found(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ModuleNotFoundError, ValueError):  # the package around it is not there either
        return False


def require(extra: str, *modules: str, purpose: str) -> None:
    """Raise unless the modules of an extra can be imported.

    Args:
        extra: Name of the extra, as in ``pip install 'polyrank[extra]'``.
        *modules: Modules that are needed; left out, all that the extra brings.
        purpose: What the caller needs them for, as in "Parquet input".

    Raises:
        MissingExtraError: If a module is missing.
    """
    missing = [module for module in modules or EXTRAS[extra] if not is_installed(module)]
    if missing:
        is_are = "is" if len(missing) == 1 else "are"
        raise MissingExtraError(
            f"{purpose} needs {', '.join(missing)}, which {is_are} not installed. "
            f"Install with: {install_command(extra)}{_torch_advice(missing)}"
        )


def install_command(extra: str) -> str:
    """Return a shell command that adds an extra to the polyrank that runs."""
    checkout = _checkout()
    if checkout is not None:
        if _has_install_target(checkout):
            place = "" if Path.cwd() == checkout else f"-C {shlex.quote(str(checkout))} "
            return f"make {place}install EXTRAS={extra}"
        return f"{_pip_install()} -e {_quoted(f'{checkout}[{extra}]')}"
    url = str(_direct_url().get("url", ""))
    if url.endswith(".whl") and (not url.startswith("file:") or _path(url).is_file()):
        return f"{_pip_install()} {_quoted(f'polyrank[{extra}] @ {url}')}"
    return f"{_pip_install()} {_quoted(f'polyrank[{extra}]')}"


def _quoted(requirement: str) -> str:
    return "'" + requirement.replace("'", "'\"'\"'") + "'"


def _torch_advice(missing: list[str]) -> str:
    if "torch" not in missing or sys.platform != "linux":
        return ""
    return (
        f"\nFor the CPU alone run this before, or {CUDA_GB} GB of CUDA libraries come along: "
        f"{_pip_install()} {CPU_TORCH}"
    )


def _pip_install() -> str:
    """Return what installs into the environment that runs."""
    if find_spec("pip") is None and shutil.which("uv"):
        return f"uv pip install --python {shlex.quote(sys.executable)}"
    found = shutil.which("pip")
    if found is not None and Path(found).parent == Path(sys.executable).parent:
        return "pip install"
    return f"{shlex.quote(sys.executable)} -m pip install"


def _checkout() -> Path | None:
    """Return the checkout whose source runs, or that was installed from, if it is still there."""
    url = _direct_url()
    named = [_path(str(url.get("url", "")))] if "dir_info" in url else []
    for folder in (Path(__file__).resolve().parents[2], *named):
        if (folder / "pyproject.toml").is_file() and (folder / "src" / "polyrank").is_dir():
            return folder
    return None


def _direct_url() -> Mapping[str, Any]:
    """Return what pip noted of where polyrank came from; nothing where it was an index."""
    try:
        content = json.loads(distribution("polyrank").read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _path(url: str) -> Path:
    return Path(url2pathname(urlsplit(url).path))


def _has_install_target(checkout: Path) -> bool:
    """Return whether `make install` adds extras to the environment that runs."""
    makefile = checkout / "Makefile"
    if Path(sys.prefix) != checkout / ".venv" or not makefile.is_file() or not shutil.which("make"):
        return False
    text = makefile.read_text("utf8", errors="replace")
    return "EXTRAS" in text and re.search(r"^install:", text, re.MULTILINE) is not None
