"""Gathers the manual into one folder: `docs`, measured results, and pages made of the code.

`make docs` runs it before it builds. Commands, routes, settings and errors come from the code, and
are not kept in the repository, so that they cannot go stale.
"""

import dataclasses
import inspect
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

from polyrank import errors
from polyrank.cli.app import app
from polyrank.cli.compress.quantize import QuantizeSettings
from polyrank.cli.compress.trim import TrimSettings
from polyrank.cli.fields import sentences
from polyrank.cli.train.first_stage_weight import FirstStageWeightRun
from polyrank.cli.train.late_interaction import LateInteractionRun
from polyrank.cli.train.options import TrainRunSettings
from polyrank.config import EngineConfig, TruncationConfig
from polyrank.server.dialects.routes import ROUTES
from polyrank.server.failures import KINDS, STATUSES
from polyrank.server.settings import Limits, ReplicaSettings, ServerSettings
from polyrank.training.config import TrainingConfig
from polyrank.training.first_stage.settings import FirstStageWeightConfig
from polyrank.training.late_interaction.settings import LateInteractionConfig

ROOT = Path(__file__).parent.parent
RESULTS = "benchmarks/results/"
SETTINGS: dict[type, str] = {
    EngineConfig: "How sequences are batched and run: arguments of `Reranker`, `Embedder`, "
    "`Classifier`.",
    TruncationConfig: "What is cut when a text is longer than the model reads.",
    ServerSettings: "What `polyrank serve` is told.",
    Limits: "What a server takes before it refuses.",
    ReplicaSettings: "How many replicas `polyrank serve --ray` has.",
    TrainingConfig: "`polyrank train reranker`, `classifier` and `embedder`: `--config`, `--set`.",
    TrainRunSettings: "The same commands: what they read and make.",
    LateInteractionConfig: "`polyrank train late-interaction`.",
    LateInteractionRun: "The same command: what it reads and makes.",
    FirstStageWeightConfig: "`polyrank train first-stage-weight`.",
    FirstStageWeightRun: "The same command: what it reads.",
    QuantizeSettings: "`polyrank compress quantize`.",
    TrimSettings: "`polyrank compress trim`.",
}


def main(folder: Path) -> None:
    """Gather the manual in a folder, which is made anew."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "docs", folder)
    shutil.copytree(ROOT / "examples", folder / "examples")
    shutil.copytree(ROOT / RESULTS, folder / "results", ignore=shutil.ignore_patterns("*.json"))
    for page in folder.rglob("*.md"):
        text = page.read_text("utf8")
        up = "../" * len(page.relative_to(folder).parents[:-1])
        text = text.replace(f"]({up}../{RESULTS}", f"]({up}results/")
        page.write_text(text.replace(f"]({up}../examples/", f"]({up}examples/"), "utf8")
    made = {
        "command-line": command_line(),
        "http": http(),
        "settings": settings(),
        "errors": error_tree(),
    }
    for name, content in made.items():
        (folder / "reference" / f"{name}.md").write_text(content, "utf8")


def command_line() -> str:
    """Return a section for each command, with its options as a table."""
    root: Any = typer.main.get_command(app)
    parts = [
        "# Command line\n",
        "Exit codes: 0 done, 1 something failed, 2 the call was wrong, 3 a quality gate refused, "
        "130 stopped by Ctrl-C.\n",
    ]
    for path, command in commands(root, ("polyrank",)):
        parts.append(f"## {' '.join(path)}\n")
        parts.append(_help(command.help or "") + "\n")
        parts += _options(command)
    return "\n".join(parts)


def commands(group: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every command with its path, groups taken apart."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        elif not command.hidden:
            yield (*path, name), command


def _help(text: str) -> str:
    """Return a help text whose indented lines are code."""
    lines, is_code = [], False
    for line in inspect.cleandoc(text.replace("\b", "")).splitlines():
        indented = line.startswith("    ")
        if indented != is_code and line.strip():
            lines.append("```" if indented or is_code else "")
            is_code = indented
        lines.append(line[4:] if indented else line)
    return "\n".join([*lines, "```"] if is_code else lines)


def _options(command: Any) -> list[str]:
    rows = ["| option | |", "|---|---|"]
    for parameter in command.params:
        is_argument = parameter.param_type_name == "argument"
        if getattr(parameter, "hidden", False) or parameter.name == "help":
            continue
        names = parameter.name.upper() if is_argument else ", ".join(parameter.opts)
        text = _cell(getattr(parameter, "help", "") or "")
        default = parameter.default
        if default not in (None, False, ()) and not callable(default) and not is_argument:
            text += f" Default: {_cell(str(getattr(default, 'value', default)))}."
        rows.append(f"| `{names}` | {text.strip()} |")
    return [*rows, ""] if len(rows) > 2 else []


def http() -> str:
    """Return the routes by protocol, with the fields of their bodies."""
    parts = [
        "# HTTP routes\n",
        "A path that several protocols share is read by the body's own fields. A protocol's "
        "prefix, such as `/cohere`, leaves nothing to guess. `GET /openapi.json` has the schemas, "
        "`GET /docs` shows them.\n",
    ]
    by_dialect: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        for operation in route.operations:
            routes = by_dialect.setdefault(operation.dialect.name, {})
            routes.setdefault(f"{route.method} {route.path}", operation)
    for dialect, routes in by_dialect.items():
        parts += [f"## {dialect}\n", "| route | | fields |", "|---|---|---|"]
        for path, operation in routes.items():
            fields = operation.schema.model_fields if operation.schema else {}
            names = ", ".join(f"`{name}`" for name in fields)
            parts.append(f"| `{path}` | {_cell(operation.summary)} | {names} |")
        parts.append("")
    return "\n".join(parts)


def settings() -> str:
    """Return the fields of the settings classes."""
    parts = ["# Settings\n"]
    for cls, text in SETTINGS.items():
        described = sentences(cls)
        parts += [f"## {cls.__name__}\n", f"{text}\n", "| field | default | |", "|---|---|---|"]
        for field in dataclasses.fields(cls):
            has_default = field.default is not dataclasses.MISSING
            default = f"`{field.default}`" if has_default else ""
            parts.append(f"| `{field.name}` | {default} | {_cell(described.get(field.name, ''))} |")
        parts.append("")
    parts += [
        "## Environment variables\n",
        "| variable | |",
        "|---|---|",
        "| `POLYRANK_ISA` | kernels to run, one of those that `polyrank doctor` lists |",
        "| `POLYRANK_SERVE_…` | an option of `polyrank serve`: `POLYRANK_SERVE_PORT=8080` |",
        "| `POLYRANK_API_KEYS`, `POLYRANK_ADMIN_KEYS` | keys of the server, comma-separated |",
        "| `HF_HOME`, `HF_HUB_OFFLINE`, `HF_TOKEN` | the Hub's own: cache, no network, token |",
        "| `OTEL_…` | OpenTelemetry's own, read with `polyrank serve --trace` alone |",
        "",
    ]
    return "\n".join(parts)


def error_tree() -> str:
    """Return the errors with what they mean and their HTTP status."""
    parts = [
        "# Errors and statuses\n",
        "Every error that polyrank raises on purpose is a `PolyrankError`. A protocol may have "
        "another status of its own.\n",
        "| error | | HTTP status |",
        "|---|---|---|",
    ]
    for cls, depth in _tree(errors.PolyrankError, 0):
        nearest = next(base for base in cls.__mro__ if base in KINDS)
        text = inspect.getdoc(cls) or ""
        name = "&nbsp;" * 4 * depth + f"`{cls.__name__}`"
        parts.append(f"| {name} | {_cell(text.splitlines()[0])} | {STATUSES[KINDS[nearest]]} |")
    return "\n".join([*parts, ""])


def _tree(cls: type[BaseException], depth: int) -> Iterator[tuple[type[BaseException], int]]:
    yield cls, depth
    for child in cls.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from _tree(child, depth + 1)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
