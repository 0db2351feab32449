"""`polyrank compress export`: a checkpoint in the form that other libraries read."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from polyrank.checkpoint.hub import resolve
from polyrank.checkpoint.reader import read_checkpoint
from polyrank.cli import options, screen
from polyrank.cli.outputs import check_folder


class Format(StrEnum):
    """Forms that can be written."""

    MULTI_VECTOR = "multi-vector"


def export(
    model: Annotated[str, typer.Argument(help="Folder or Hub id; polyrank-small is the default.")],
    output: Annotated[Path, typer.Argument(help="Folder to make.")],
    form: Annotated[
        Format, typer.Option("--format", help="multi-vector: MultiVectorEncoder's folder.")
    ] = Format.MULTI_VECTOR,
    revision: options.Revision = None,
    quiet: options.Quiet = False,
) -> None:
    """Write a checkpoint as other libraries read it.

    With multi-vector, OUTPUT is a folder of sentence-transformers 6 (MultiVectorEncoder), whose
    token vectors vector stores hold: float32, 0.5 GB for the default model. Its scores are means
    of best matches, without the weights that the checkpoint's own head gives tokens.

    For example:

        polyrank compress export polyrank-small polyrank-small-multi-vector
    """
    check_folder(output)
    from polyrank.checkpoint.hub import DEFAULT_MODEL
    from polyrank.compress.export import export_multi_vector

    folder, name = resolve(None if model == DEFAULT_MODEL else model, revision=revision)
    assert form is Format.MULTI_VECTOR
    export_multi_vector(read_checkpoint(folder, name), output)
    screen.remark(f"wrote {output}", quiet=quiet)
