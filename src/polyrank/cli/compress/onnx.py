"""`polyrank compress onnx`: a checkpoint for other runtimes."""

import json
import sys
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from polyrank.checkpoint.hub import DEFAULT_MODEL, resolve
from polyrank.checkpoint.reader import read_checkpoint
from polyrank.cli import options, screen
from polyrank.cli.outputs import check_folder
from polyrank.cli.progress import steps

LayoutName = Literal["transformers.js", "fastembed", "tei", "sentence-transformers", "plain"]
TaskChoice = Literal["auto", "rerank", "classify", "embed"]


class WeightsType(StrEnum):
    """Types that weights can have in a file."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    INT8 = "int8"


def onnx(
    model: Annotated[str, typer.Argument(help="Folder or Hub id; polyrank-small is the default.")],
    output: Annotated[Path, typer.Argument(help="Folder to make.")],
    layout: Annotated[
        LayoutName, typer.Option("--format", help="Who reads it; plain is one graph a type.")
    ] = "plain",
    weights: Annotated[
        list[WeightsType] | None,
        typer.Option(
            help="Type of the weights; repeat it for several files. Left out: int8, for "
            "sentence-transformers float32 beside it.",
            show_default=False,
        ),
    ] = None,
    task: Annotated[
        TaskChoice,
        typer.Option(help="Whose head is inside. auto: rerank, else classify, else embed."),
    ] = "auto",
    revision: options.Revision = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Write ONNX files that other runtimes read, with the head inside.

    A graph takes token ids and gives "sentence_embedding" (vectors) or "logits" (a cross-encoder
    or classifier). Each file is run by ONNX Runtime on texts in eight languages and compared with
    the checkpoint before the folder appears; polyrank_onnx.json in it says how far they are apart.

    For example:

        polyrank compress onnx intfloat/multilingual-e5-small web --format transformers.js
        polyrank compress onnx BAAI/bge-reranker-base served --format tei --weights float32
    """
    check_folder(output)
    from polyrank.compress.onnx.layouts import export_onnx

    folder, name = resolve(None if model == DEFAULT_MODEL else model, revision=revision)
    with steps(quiet=quiet) as progress:
        written = export_onnx(
            read_checkpoint(folder, name),
            output,
            layout,
            weights=[each.value for each in weights or ()],
            task=None if task == "auto" else task,
            progress=progress,
        )
    if screen.is_table_wanted(as_json, None):
        table = Table(box=None)
        for heading in ("file", "weights", "MB", "largest difference", "least cosine"):
            table.add_column(heading, justify="left" if heading == "file" else "right")
        for each in written:
            distance = each.distance
            row = (each.path, each.weights, f"{each.size_bytes / 1e6:,.1f}")
            table.add_row(*row, f"{distance.largest:.2g}", f"{distance.least_cosine:.5f}")
        Console(highlight=False).print(table)
    else:
        sys.stdout.write(json.dumps([asdict(each) for each in written]) + "\n")
    screen.remark(f"wrote {output}", quiet=quiet)
