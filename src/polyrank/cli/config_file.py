"""Settings from a TOML file and from ``--set``, checked by the types of the settings classes.

What is typed as an option overrules ``--set``, which overrules the file.
"""

import difflib
import inspect
import json
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_args, get_origin

import typer

from polyrank.cli import options
from polyrank.cli.fields import Setting, option, unset_option
from polyrank.errors import ConfigError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Settings = TypeVar("Settings", bound="DataclassInstance")

WIDTH = 96

Assignments = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Any other setting, as in the file; may be given several times.",
        show_default=False,
    ),
]


def settings_options(
    known: Mapping[str, Setting], names: Iterable[str], command: str
) -> list[inspect.Parameter]:
    """Return a command's options: some of its settings, the file, and what all commands share.

    Args:
        known: The settings.
        names: Those that are options.
        command: The command, without the program's name.

    Returns:
        Options as `takes` wants them. Those that stand for settings are None where they are not
        typed.
    """
    return [
        *(unset_option(known[name]) for name in names),
        option("config", _config_file(command)),
        option("assignments", Assignments),
        option("quiet", options.Quiet, False),
    ]


def _config_file(command: str) -> Any:
    text = (
        f"File of settings (TOML); options overrule it. `polyrank settings {command}` prints one "
        "with all of them."
    )
    return Annotated[Path | None, typer.Option(metavar="FILE", help=text, show_default=False)]


def read_settings(
    known: Mapping[str, Setting], typed: Mapping[str, Any], command: str
) -> dict[str, Any]:
    """Return the settings that a file, ``--set`` and options give, each of the right type.

    Args:
        known: Settings that there are.
        typed: What `settings_options` received; other keywords are left alone.
        command: The command, without the program's name.

    Returns:
        Values by name; what nobody gave is not among them.

    Raises:
        ConfigError: If the file cannot be read, or a key or value is not what is allowed.
    """
    values: dict[str, Any] = {}
    path = typed["config"]
    if path is not None:
        for key, value in _table(path).items():
            values[key] = checked(known, key, value, str(path), command)
    for text in typed["assignments"] or ():
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set wants KEY=VALUE, not {text!r}")
        values[key.strip()] = checked(known, key.strip(), _value(value), "--set", command)
    for name, value in typed.items():
        if name in known and value not in (None, ()):
            values[name] = tuple(value) if isinstance(value, list | tuple) else value
    return values


def split(values: Mapping[str, Any], *classes: type[Settings]) -> Iterator[Settings]:
    """Give each settings class its fields.

    Args:
        values: Settings by name.
        *classes: Dataclasses without a field of the same name.

    Yields:
        An object of each class.
    """
    for cls in classes:
        names = {field.name for field in fields(cls)} & values.keys()
        yield cls(**{name: values[name] for name in names})


def _table(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf8"))
    except OSError as exc:
        raise ConfigError(f"{path}: {exc.strerror or exc}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path} is no TOML: {exc}") from exc


def _value(text: str) -> Any:
    """Return what TOML reads in a value; what it cannot read is a text without quotes."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text.strip()


def checked(known: Mapping[str, Setting], key: str, value: Any, where: str, command: str) -> Any:
    """Return a value in the type of its setting.

    Args:
        known: Settings that there are.
        key: Name of one.
        value: A value as TOML has it.
        where: Where it stands, for messages.
        command: What was called, for messages.

    Returns:
        The value.

    Raises:
        ConfigError: If there is no such setting, or the value is of another type.
    """
    if key not in known:
        close = difflib.get_close_matches(key, known, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise ConfigError(
            f"{where}: {command} has no setting {key!r}.{hint} `polyrank settings {command}` "
            "prints all."
        )
    words, read = _reading(known[key].kind)
    try:
        return read(value)
    except (TypeError, ValueError) as exc:
        raise ConfigError(f"{where}: {key} must be {words}, not {value!r}") from exc


def _reading(kind: Any) -> tuple[str, Callable[[Any], Any]]:
    """Return what a type is called, and what turns TOML's values into it."""
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        return f"one of {', '.join(choices)}", lambda value: choices[choices.index(value)]
    if get_origin(kind) is tuple:
        return "a list of texts", _texts
    return _PLAIN[kind]


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(_of_type(str)(each) for each in ([value] if isinstance(value, str) else value))


def _of_type(kind: type) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        if type(value) is not kind:
            raise TypeError(kind)
        return value

    return read


def _number(value: Any) -> float:
    return float(value if type(value) is int else _of_type(float)(value))


_PLAIN: Mapping[Any, tuple[str, Callable[[Any], Any]]] = {
    bool: ("true or false", _of_type(bool)),
    int: ("a whole number", _of_type(int)),
    float: ("a number", _number),
    str: ("a text", _of_type(str)),
    Path: ("a path", lambda value: Path(_of_type(str)(value))),
}


def commented(
    known: Iterable[Setting], command: str, stand_ins: Mapping[str, Any] | None = None
) -> str:
    """Return a file of every setting with its default, all of it comments.

    Args:
        known: The settings.
        command: Whose they are.
        stand_ins: What a command takes for settings whose default is None.

    Returns:
        TOML.
    """
    parts = [
        f"# Settings of `polyrank {command} --config FILE`. Take the # away before what you "
        "change.\n# Paths are relative to where the command is called.\n"
    ]
    parts += ["\n".join(_lines(setting, stand_ins or {})) + "\n" for setting in known]
    return "\n".join(parts)


def _lines(setting: Setting, stand_ins: Mapping[str, Any]) -> Iterator[str]:
    default = stand_ins.get(setting.name, setting.default)
    words, _ = _reading(setting.kind)
    text = f"{setting.sentence} ({words[0].upper()}{words[1:]}.)"
    yield from (f"# {line}" for line in wrap(text, WIDTH))
    yield f"#{setting.name} = {'' if default in (None, MISSING) else _toml(default)}".rstrip()


def _toml(value: Any) -> str:
    """Return a value as TOML; its texts and lists of them are written as JSON's are."""
    if isinstance(value, tuple):
        return json.dumps(list(value), ensure_ascii=False)
    return json.dumps(str(value) if isinstance(value, Path) else value, ensure_ascii=False)
