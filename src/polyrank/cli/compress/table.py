"""`polyrank compress table`: word embeddings in fewer bytes, before a model is trained on them."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from polyrank.checkpoint.formats.quantization import WORD_TABLE
from polyrank.checkpoint.hub import resolve
from polyrank.checkpoint.reader import read_checkpoint
from polyrank.cli import measuring, options, screen
from polyrank.cli.outputs import check_folder
from polyrank.cli.progress import steps
from polyrank.errors import ConfigError

if TYPE_CHECKING:
    from polyrank.checkpoint.formats.mixed import MixedTable
    from polyrank.checkpoint.reader import Checkpoint
    from polyrank.compress.vocabulary.table import TableFigures
    from polyrank.progress import StepProgress

MEGABYTES = 19.2
TIERS = ("4-bit blocks", "4 values a code", "8 values a code", "16 values a code")

TableMegabytes = Annotated[
    float, typer.Option("--table-mb", help="What the table may take, in millions of bytes.")
]


def table(
    model: Annotated[str, typer.Argument(help="Folder or Hub id of a float checkpoint.")],
    output: Annotated[Path, typer.Argument(help="Folder to make.")],
    text: measuring.Texts,
    megabytes: TableMegabytes = MEGABYTES,
    text_field: measuring.TextFields = None,
    seed: Annotated[int, typer.Option(help="Of the samples.", min=0)] = 0,
    revision: options.Revision = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Compress the table of word embeddings, and keep every piece.

    Pieces that texts use most stay in 4-bit blocks; others get 2, 1 or half a bit a value. OUTPUT
    is a float32 checkpoint with the values that the compressed table has, to train on with
    frozen embeddings, and that table, which `polyrank compress quantize TRAINED --embeddings
    mixed --table OUTPUT` then stores as it is. To quantise without training in between, give
    --text to `polyrank compress quantize` instead.

    For example:

        polyrank compress table intfloat/multilingual-e5-small e5-table --text texts/
    """
    from polyrank.compress.vocabulary.corpus import TEXT_FIELDS

    check_folder(output)
    from polyrank.checkpoint.building import check_free
    from polyrank.compress.vocabulary.table import measure_table, write_table_folder

    check_free(output)
    folder, name = resolve(model, revision=revision)
    checkpoint = read_checkpoint(folder, name)
    with steps(quiet=quiet) as progress:
        fields = tuple(text_field or TEXT_FIELDS)
        made = make(checkpoint, text, megabytes, fields, seed, progress)
        figures = measure_table(made, checkpoint.body_float32(WORD_TABLE))
        write_table_folder(checkpoint, made, output)
    if screen.is_table_wanted(as_json, None):
        Console(highlight=False).print(_shown(figures))
    else:
        sys.stdout.write(json.dumps({**asdict(figures), "folder": str(output)}) + "\n")
    screen.remark(f"wrote {output}", quiet=quiet)


def make(
    checkpoint: "Checkpoint",
    texts: list[Path],
    megabytes: float,
    fields: tuple[str, ...],
    seed: int,
    progress: "StepProgress | None",
) -> "MixedTable":
    """Return a table made by the texts."""
    from polyrank.compress.vocabulary.corpus import CorpusConfig
    from polyrank.compress.vocabulary.table import TableConfig, make_table

    config = TableConfig(megabytes, CorpusConfig(fields, held_out=0.0, seed=seed))
    return make_table(checkpoint, texts, config, progress)


def mixed_table(
    checkpoint: "Checkpoint",
    *,
    is_mixed: bool,
    texts: list[Path] | None,
    folder: Path | None,
    megabytes: float,
    seed: int,
    progress: "StepProgress | None",
) -> "MixedTable | None":
    """Return the table that `polyrank compress quantize` was asked for, if it is a mixed one.

    Args:
        checkpoint: The float checkpoint.
        is_mixed: Whether the embeddings are to be a mixed table.
        texts: Texts to make one by.
        folder: Or a folder that holds one.
        megabytes: What one made here may take.
        seed: Of the samples.
        progress: Called as work goes on.

    Returns:
        The table, or None for embeddings of another type.

    Raises:
        ConfigError: If options contradict each other.
    """
    if not is_mixed:
        if texts or folder is not None:
            raise ConfigError("--text and --table are for --embeddings mixed. Give that too.")
        return None
    if bool(texts) == (folder is not None):
        raise ConfigError(
            "--embeddings mixed needs --text, texts that show which pieces are used, or --table, "
            "a folder that `polyrank compress table` wrote: one of them."
        )
    from polyrank.compress.vocabulary.corpus import TEXT_FIELDS
    from polyrank.compress.vocabulary.table import load_table

    if folder is not None:
        return load_table(folder, checkpoint)
    return make(checkpoint, texts or [], megabytes, TEXT_FIELDS, seed, progress)


def _shown(figures: "TableFigures") -> Table:
    shown = Table(box=None, pad_edge=False)
    shown.add_column("tier")
    shown.add_column("rows", justify="right")
    for title, count in zip(TIERS, figures.num_rows, strict=True):
        shown.add_row(title, f"{count:,}")
    shown.add_row("all", f"{sum(figures.num_rows):,}", style="bold")
    shown.caption = (
        f"{figures.size_bytes / 1e6:.2f} MB, squared error {figures.error:.3f} of the variance"
    )
    return shown
