"""Which command needs which extra, checked before a command does anything."""

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

import typer

from polyrank._extras import require

EXTRA_OF_COMMAND: Mapping[str, str] = {
    "bulk": "bulk",
    "eval": "eval",
    "serve": "server",
    "compress": "eval",
    "compress distill": "train",
    "compress onnx": "onnx",
    "train": "train",
    "train first-stage-weight": "eval",
}
"""Extras by command or group of commands; those not named need none."""


def needing(app: typer.Typer, extras: Mapping[str, str], group: str = "") -> None:
    """Let commands check their extras first.

    Args:
        app: What holds the commands.
        extras: Extra by command, or by group where a command is not named itself.
        group: Name of the group that `app` is, "" for the program itself.
    """
    for entry in app.registered_commands:
        assert entry.callback is not None
        command = f"{group} {entry.name or entry.callback.__name__}".strip()
        extra = extras.get(command, extras.get(group))
        if extra is not None:
            entry.callback = _checked(entry.callback, extra, f"polyrank {command}")
    for part in app.registered_groups:
        assert part.typer_instance is not None
        needing(part.typer_instance, extras, str(part.typer_instance.info.name))


def _checked(command: Callable[..., Any], extra: str, purpose: str) -> Callable[..., Any]:
    @wraps(command)
    def checked(*arguments: Any, **options: Any) -> Any:
        require(extra, purpose=purpose)
        return command(*arguments, **options)

    return checked
