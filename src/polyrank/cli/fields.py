"""Settings classes as the command line shows them: names, types, defaults, sentences.

A class says once what a setting is, in its docstring. Options, configuration files and the manual
are made of that.
"""

import dataclasses
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import typer

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Setting:
    """One field of a settings class.

    Attributes:
        name: Its name.
        kind: Its type; where it may be None, the type beside that.
        default: Value where none is given; `MISSING` where one must be.
        sentence: What the class's docstring says of it.
        metadata: As the field has it. Options are made by "name" (if not the setting's), "flags"
            (if not that with hyphens), "metavar", "least", "panel" (heading in the help), "scale"
            (what one typed stands for) with "unit", and "is_argument".
    """

    name: str
    kind: Any
    default: Any
    sentence: str
    metadata: Mapping[Any, Any] = dataclasses.field(default_factory=dict)


def settings_of(*classes: type, without: Iterable[str] = ()) -> dict[str, Setting]:
    """Return the fields of settings classes by name.

    Args:
        *classes: Dataclasses with an "Attributes:" section.
        without: Names to leave out.

    Returns:
        The settings, in the order of the fields.
    """
    found: dict[str, Setting] = {}
    for cls in classes:
        kinds, said = get_type_hints(cls), sentences(cls)
        for field in dataclasses.fields(cls):
            default = field.default
            if field.default_factory is not MISSING:
                default = field.default_factory()
            kind = _without_none(kinds[field.name])
            found[field.name] = Setting(
                field.name, kind, default, said.get(field.name, ""), field.metadata
            )
    return {name: setting for name, setting in found.items() if name not in set(without)}


def _without_none(kind: Any) -> Any:
    if get_origin(kind) not in (Union, UnionType):
        return kind
    (left,) = (part for part in get_args(kind) if part is not NoneType)
    return left


def sentences(cls: type) -> dict[str, str]:
    """Return what a class's docstring says of each attribute."""
    body = inspect.cleandoc(cls.__doc__ or "").partition("Attributes:\n")[2].partition("\n\n")[0]
    matches = re.finditer(r"^    (\w+): (.*(?:\n {8}.*)*)", body, flags=re.MULTILINE)
    return {match[1]: " ".join(match[2].split()) for match in matches}


def takes(*options: inspect.Parameter) -> Callable[[Command], Command]:
    """Give a command options that its ``**`` parameter receives.

    Args:
        *options: The options as typer reads them: keyword-only, annotated with `typer.Option`.

    Returns:
        What puts them behind the command's own parameters.
    """

    def taking(command: Command) -> Command:
        own = [
            parameter
            for parameter in inspect.signature(command).parameters.values()
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        every = [*own, *options]
        every = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in every]
        command.__signature__ = inspect.Signature(every)  # type: ignore[attr-defined]  # typer reads it
        command.__annotations__ = {each.name: each.annotation for each in every}
        return command

    return taking


def option(name: str, kind: Any, default: Any = None) -> inspect.Parameter:
    """Return an option as `takes` wants it.

    Args:
        name: Name of the keyword that the command receives.
        kind: Type, annotated with `typer.Option`.
        default: Value where none is typed.

    Returns:
        The parameter.
    """
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)


def set_option(setting: Setting) -> inspect.Parameter:
    """Return the option of a setting with the setting's default.

    Args:
        setting: The setting. Its sentence is the help.

    Returns:
        The parameter.
    """
    default, scale = setting.default, setting.metadata.get("scale")
    text = setting.sentence
    if scale:
        default //= scale
        text = f"{text} In {setting.metadata['unit']}."
    is_optional = default in (None, ())
    kind = _typed_kind(setting)
    declared = declaration(setting, text, show_default=not is_optional)
    name = setting.metadata.get("name", setting.name)
    if is_optional:
        return option(name, Annotated[kind | None, declared])
    return option(name, Annotated[kind, declared], default)


def set_values(known: Iterable[Setting], typed: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the options of `set_option` received, by name of the setting.

    Args:
        known: Settings that have an option.
        typed: Values by name of the option.

    Returns:
        Values by name of the setting, scaled.
    """
    values = {}
    for setting in known:
        value = typed[setting.metadata.get("name", setting.name)]
        if setting.kind == tuple[str, ...]:
            value = tuple(value or ())
        if "scale" in setting.metadata:
            value *= setting.metadata["scale"]
        values[setting.name] = value
    return values


def unset_option(setting: Setting) -> inspect.Parameter:
    """Return the option of a setting that may stand elsewhere: None where it is not typed.

    Args:
        setting: The setting. Its sentence is the help, with its default at the end.

    Returns:
        The parameter.
    """
    text = setting.sentence
    if setting.default not in (None, (), False, MISSING):
        text += f" Default: {setting.default}."
    return option(setting.name, Annotated[_typed_kind(setting) | None, declaration(setting, text)])


def declaration(setting: Setting, text: str, **more: Any) -> Any:
    """Return what typer is told of a setting's option.

    Args:
        setting: The setting.
        text: Its help.
        **more: Further arguments of `typer.Option`.

    Returns:
        A `typer.Option`, or a `typer.Argument`.
    """
    data = setting.metadata
    if data.get("is_argument"):
        return typer.Argument(help=text, show_default=False)
    flags = data.get("flags", ())
    if setting.kind is bool and not flags and not setting.default:
        flags = (f"--{data.get('name', setting.name).replace('_', '-')}",)  # and no --no-…
    return typer.Option(
        *flags,
        help=text,
        metavar=data.get("metavar"),
        min=data.get("least"),
        rich_help_panel=data.get("panel"),
        **{"show_default": False, **more},
    )


def _typed_kind(setting: Setting) -> Any:
    """Return the type as typer takes it, which knows no tuples of any length."""
    return list[str] if setting.kind == tuple[str, ...] else setting.kind
