"""`polyrank compress drop-layers`: a checkpoint without some of its layers."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from polyrank.checkpoint.hub import resolve_float
from polyrank.checkpoint.reader import Checkpoint, read_checkpoint
from polyrank.cli import options, screen
from polyrank.cli.outputs import check_folder
from polyrank.errors import ConfigError

Layers = Annotated[
    int | None,
    typer.Option(
        help="How many to keep, spread evenly, the first and the last among them.",
        min=1,
        show_default=False,
    ),
]
Keep = Annotated[
    str | None,
    typer.Option(help="Or: which, counted from 0, as in 0,2,4,6,8,11.", show_default=False),
]


def drop_layers(
    model: Annotated[str, typer.Argument(help="Folder or Hub id.")],
    output: Annotated[Path, typer.Argument(help="Folder to make.")],
    layers: Layers = None,
    keep: Keep = None,
    revision: options.Revision = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Leave out layers of a checkpoint: half of them take half of the time.

    Everything else, heads and tokenizer too, is copied as it is. Such a folder ranks worse until
    it is trained again, by `polyrank train`, for which it is the start; `polyrank compress report`
    says how much worse.

    For example:

        polyrank compress drop-layers intfloat/multilingual-e5-small six-layers --layers 6
        polyrank compress report intfloat/multilingual-e5-small six-layers --data data/xquad
    """
    check_folder(output)
    from polyrank.compress.layers.drop import drop_layers as drop

    folder, name = resolve_float(model, revision=revision)
    checkpoint = read_checkpoint(folder, name)
    kept = chosen_layers(checkpoint, layers, keep)
    made = drop(checkpoint, output, kept)
    if not screen.is_table_wanted(as_json, None):
        found = {"folder": str(output), "layers": made.spec.body.num_layers, "kept": list(kept)}
        sys.stdout.write(json.dumps(found) + "\n")
    words = ", ".join(map(str, kept))
    whole = checkpoint.spec.body.num_layers
    screen.remark(f"wrote {output}: layers {words} of {whole}", quiet=quiet)


def chosen_layers(checkpoint: Checkpoint, layers: int | None, keep: str | None) -> tuple[int, ...]:
    """Return the numbers of the layers that stay.

    Args:
        checkpoint: Whose layers.
        layers: How many.
        keep: Or which, as they were typed.

    Returns:
        The numbers.

    Raises:
        ConfigError: If both or neither are given, or they are no such numbers.
    """
    if (layers is None) == (keep is None):
        raise ConfigError("say either --layers, how many to keep, or --keep, which")
    from polyrank.compress.layers.drop import spread_layers

    if keep is not None:
        return _numbers(keep)
    return spread_layers(checkpoint.spec.body.num_layers, layers or 0)


def _numbers(listed: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in listed.split(","))
    except ValueError:
        raise ConfigError(
            f"--keep lists layers by number, as in 0,2,4,6,8,11; not {listed!r:.80}"
        ) from None
