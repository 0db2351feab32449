"""Options that several commands share, with the words that explain them."""

from typing import Annotated

import typer

from polyrank.cli.inputs import InputFormat
from polyrank.config import DEFAULT_MAX_BATCH_TOKENS
from polyrank.types import Precision

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help="Folder or Hub id of a checkpoint, such as BAAI/bge-reranker-v2-m3. "
        "Left out: the default model, which needs no network.",
        show_default=False,
    ),
]
File = Annotated[
    str,
    typer.Argument(
        metavar="[FILE|-]",
        help="Texts: one a line, JSONL, CSV, TSV or Parquet (also .gz); - is standard input.",
    ),
]
Format = Annotated[
    InputFormat,
    typer.Option("--format", help="How FILE is laid out; auto goes by its name or first line."),
]
TextField = Annotated[str, typer.Option(help="Field or column that holds the text.")]
MaxLength = Annotated[
    int | None,
    typer.Option(
        help="Tokens that the model reads of a text or pair. Left out: the checkpoint's limit.",
        show_default=False,
        min=1,
    ),
]
Encoder = Annotated[
    str,
    typer.Option(help="auto, native, onnx or pytorch. `polyrank doctor` lists them."),
]
Threads = Annotated[
    int | None,
    typer.Option("--threads", help="Left out: all that this process may use.", min=1),
]
Device = Annotated[str, typer.Option(help="cpu, or a device of the pytorch encoder such as cuda.")]
ComputePrecision = Annotated[
    Precision,
    typer.Option(
        "--compute",
        help="Type of the products in linear layers: auto is float32 unless the checkpoint "
        "carries a passed quality gate for int8.",
    ),
]
MaxBatchTokens = Annotated[int, typer.Option(help="Tokens in one forward pass.", min=1)]
Revision = Annotated[
    str | None, typer.Option(help="Branch, tag or commit of a Hub id.", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="JSON lines even on a terminal.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar and no remarks.")]
Output = Annotated[
    str | None,
    typer.Option(
        "--output", "-o", help="Write here instead of to standard output.", show_default=False
    ),
]

MAX_BATCH_TOKENS = DEFAULT_MAX_BATCH_TOKENS
