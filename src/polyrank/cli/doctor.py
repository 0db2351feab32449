"""`polyrank doctor`: what this machine has, and what polyrank will use of it."""

import json
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

import polyrank
from polyrank._extras import EXTRAS, install_command, is_installed
from polyrank.checkpoint.hub import cache_folder, default_model_folder
from polyrank.checkpoint.spec import LinearType
from polyrank.cli import options
from polyrank.cli.storage import plan_storage, storage_lines
from polyrank.encoder.choose import available_encoders
from polyrank.encoder.paths import is_int8_quicker, running_path
from polyrank.encoder.threads import usable_threads
from polyrank.errors import CheckpointNotFoundError

# processor flags that decide how fast int8 and float32 products can be
FEATURES = (
    "avx2",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_int8",
    "neon",
    "asimd",
    "asimddp",
    "i8mm",
)
LIBRARIES = (
    "numpy",
    "tokenizers",
    "safetensors",
    "huggingface-hub",
    "onnx",
    "onnxruntime",
    "torch",
)


Passages = Annotated[
    int | None,
    typer.Option(
        min=1, help="Show too what so many passages cost in each form of storage.", metavar="N"
    ),
]


def doctor(passages: Passages = None, as_json: options.Json = False) -> None:
    """Show processor, threads, encoders, extras, libraries and folders.

    Of extras that are not there it names the command that installs them. With --passages it adds
    bytes, memory, time and money of storing so many, at the rates measured here.

    Paste the output of `polyrank doctor --json` into bug reports; it names folders on this
    machine, but no secrets.
    """
    facts = examine()
    if passages is not None:
        facts["storage"] = plan_storage(passages, facts["native"].get("tokens_per_second", {}))
    if as_json or not sys.stdout.isatty():
        sys.stdout.write(json.dumps(facts, ensure_ascii=False) + "\n")
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    storage = facts.pop("storage", None)
    for key, value in facts.items():
        table.add_row(key.replace("_", " "), Text(_shown(value)))
    Console().print(table)
    if storage is not None:
        _show_storage(storage)


def _show_storage(plan: dict[str, Any]) -> None:
    console, table = Console(), Table(box=None, pad_edge=False)
    headings, *rows = storage_lines(plan)
    for at, heading in enumerate(headings):
        table.add_column(heading, justify="right" if at else "left")
    for row in rows:
        table.add_row(*row)
    console.print(f"\n{plan['passages']:,} passages", style="bold")
    console.print(table)
    for key in ("embedding", "measured", "assumed"):
        console.print(Text(f"{key}: {_shown(plan.get(key, {}))}".replace("\n", ", "), style="dim"))


def examine() -> dict[str, Any]:
    """Return the facts as plain values."""
    return {
        "polyrank": polyrank.__version__,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": _processor(),
        "features": _features(),
        "cores": os.cpu_count(),
        "usable_threads": usable_threads(),
        "memory_bytes": _memory_bytes(),
        "native": _native(),
        "encoders": {
            status.name: "available" if status.is_available else status.reason
            for status in available_encoders()
        },
        "extras": {
            extra: "installed" if is_installed(*modules) else install_command(extra)
            for extra, modules in EXTRAS.items()
        },
        "libraries": {name: _version(name) for name in LIBRARIES},
        "default_model": _default_model(),
        "cache_folder": str(cache_folder()),
        "hub_cache_folder": _hub_cache(),
        "hub_offline": os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0"),
    }


def _cpuinfo() -> dict[str, str]:
    """First processor of /proc/cpuinfo; empty on systems without it."""
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return {}
    first = path.read_text("utf8", errors="replace").split("\n\n", 1)[0]
    pairs = (line.split(":", 1) for line in first.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def _processor() -> str:
    return _cpuinfo().get("model name") or platform.processor() or platform.machine()


def _features() -> list[str]:
    facts = _cpuinfo()
    flags = set((facts.get("flags") or facts.get("Features") or "").split())
    return [feature for feature in FEATURES if feature in flags]


def _memory_bytes() -> int | None:
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _native() -> dict[str, Any]:
    """Return the kernels that run, how quick they are now and which compute dtype "auto" takes."""
    path = running_path()
    if not path:
        return {}
    from polyrank.encoder.speed import measure_speed

    try:
        speeds = measure_speed(usable_threads())
    except ValueError as exc:
        return {"path": path, "error": str(exc)}
    quicker = {kind: is_int8_quicker(path, kind) for kind in get_args(LinearType)}
    return {
        "path": path,
        "tokens_per_second": speeds,
        "auto": {
            f"{kind} folder": "int8" if is_quicker else "float32"
            for kind, is_quicker in quicker.items()
        },
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _default_model() -> str:
    try:
        return str(default_model_folder())
    except CheckpointNotFoundError as exc:
        return f"missing: {exc}"


def _hub_cache() -> str:
    from huggingface_hub.constants import HF_HUB_CACHE

    return str(HF_HUB_CACHE)


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{key}: {entry}" for key, entry in value.items())
    if isinstance(value, list):
        return ", ".join(value) or "none known"
    return f"{value:,}" if type(value) is int else str(value)
