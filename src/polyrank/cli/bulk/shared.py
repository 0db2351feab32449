"""The options that the commands of `polyrank bulk` share, declared once."""

import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from functools import wraps
from typing import Annotated, Any, get_type_hints

import typer

from polyrank.cli import options
from polyrank.cli.fields import option, takes

_EMPTY = inspect.Parameter.empty


@dataclass(frozen=True, kw_only=True)
class Shared:
    """What every command of `polyrank bulk` is told."""

    output: Annotated[
        str,
        typer.Option(
            "--output", "-o", help="Folder for the output, on a disk or in an object store."
        ),
    ]
    model: options.Model = None
    text_field: Annotated[str, typer.Option(help="Column of the texts.")] = "text"
    columns: Annotated[
        str | None,
        typer.Option(
            help="Columns of the input that the output gets, parted by commas; "
            '"" for none. Left out: all.',
            show_default=False,
        ),
    ] = None
    max_length: options.MaxLength = None
    encoder: options.Encoder = "auto"
    compute_dtype: options.ComputeDtype = "auto"
    revision: options.Revision = None
    partition_rows: Annotated[
        int,
        typer.Option(
            help="Rows of a partition, at most: so much is lost when a run is stopped, and three "
            "times as much lies in memory.",
            min=1,
        ),
    ] = 8192
    max_text_bytes: Annotated[
        int, typer.Option(help="Rows with a longer text or query are refused.", min=1)
    ] = 1_000_000
    only_estimate: Annotated[
        bool,
        typer.Option("--estimate", help="Only say what it will take: time, money, storage."),
    ] = False
    price_per_hour: Annotated[
        float | None,
        typer.Option(help="Of one worker, for the estimate.", min=0, show_default=False),
    ] = None
    verify: Annotated[
        bool,
        typer.Option(
            "--verify/--no-verify",
            help="Whether a run that goes on compares the hashes of what is written already.",
        ),
    ] = True
    patience_s: Annotated[
        float,
        typer.Option(help="Seconds for which an object store that fails is asked again.", min=0),
    ] = 120.0
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Run on a Ray cluster: auto, HOST:PORT or ray://HOST:PORT; local starts one here.",
            show_default=False,
        ),
    ] = None
    workers: Annotated[
        str | None,
        typer.Option(
            metavar="[MIN:]MAX",
            help="Actors on the Ray cluster. Left out: as many as fit.",
            show_default=False,
        ),
    ] = None
    threads: options.Threads = None
    device: options.Device = "cpu"
    max_batch_tokens: options.MaxBatchTokens = options.MAX_BATCH_TOKENS
    quiet: options.Quiet = False


def sharing(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the shared options beside its own.

    Args:
        command: Takes its own options, and the others as `shared`.

    Returns:
        The command as typer reads it.
    """
    kinds = get_type_hints(Shared, include_extras=True)
    others = [
        option(each.name, kinds[each.name], _EMPTY if each.default is MISSING else each.default)
        for each in fields(Shared)
    ]
    own = [each for each in inspect.signature(command).parameters.values() if each.name != "shared"]

    @wraps(command)
    def whole(**given: Any) -> None:
        shared = Shared(**{each.name: given.pop(each.name) for each in others})
        command(**given, shared=shared)

    whole.__signature__ = inspect.Signature(own)  # type: ignore[attr-defined]  # as inspect reads it
    return takes(*others)(whole)
