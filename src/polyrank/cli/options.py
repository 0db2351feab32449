"""Options that several commands share, with the words that explain them."""

from typing import Annotated, cast, get_args

import typer

from polyrank import types
from polyrank.cli.fields import option
from polyrank.cli.inputs import InputFormat
from polyrank.config import DEFAULT_MAX_BATCH_TOKENS
from polyrank.errors import ConfigError
from polyrank.types import FirstStageKind

COMPUTING = "Computing"

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
        help="Texts: one a line, JSONL, a JSON array, CSV, TSV (also .gz) or Parquet; - is "
        "standard input.",
    ),
]
Format = Annotated[
    InputFormat,
    typer.Option("--format", help="How FILE is laid out; auto goes by its name or first line."),
]
FirstStage = Annotated[
    str,
    typer.Option(
        help="What gave the scores: lexical (BM25 and its like) or dense (vectors), for the "
        "weight that the model has learnt; or a weight, in logits for a standard deviation."
    ),
]
MinProbability = Annotated[
    str | None,
    typer.Option(
        help="Leave out documents that answer with less probability: 0 to 1, or precision:0.9 or "
        "recall:0.9 for what reached that on the calibration data.",
        show_default=False,
    ),
]
TextField = Annotated[
    str,
    typer.Option(
        help="Field or column that holds the text. Rows without one named text may have content, "
        "page_content, passage or document instead."
    ),
]
MaxLength = Annotated[
    int | None,
    typer.Option(
        help="Tokens that the model reads of a text or pair. Left out: the checkpoint's limit.",
        show_default=False,
        min=1,
        rich_help_panel=COMPUTING,
    ),
]
Encoder = Annotated[
    str,
    typer.Option(
        help="auto, native, onnx or pytorch. `polyrank doctor` lists them.",
        rich_help_panel=COMPUTING,
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        help="Left out: all that this process may use.",
        min=1,
        rich_help_panel=COMPUTING,
    ),
]
Device = Annotated[
    str,
    typer.Option(
        help="cpu, or a device of the pytorch encoder such as cuda.", rich_help_panel=COMPUTING
    ),
]
ComputeDtype = Annotated[
    types.ComputeDtype,
    typer.Option(
        "--compute-dtype",
        help="Type of the products in linear layers: auto is float32 unless the checkpoint "
        "carries a passed quality gate for int8, and int8 is quicker on this processor. "
        "bfloat16 is near to float32, and twice as quick where the processor multiplies it.",
        rich_help_panel=COMPUTING,
    ),
]
MaxBatchTokens = Annotated[
    int,
    typer.Option(help="Tokens in one forward pass.", min=1, rich_help_panel=COMPUTING),
]
Revision = Annotated[
    str | None,
    typer.Option(
        help="Branch, tag or commit of a Hub id.",
        show_default=False,
        rich_help_panel=COMPUTING,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="JSON lines even on a terminal.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar and no remarks.")]
Output = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        help="Write here instead of to standard output, in the format that the ending says.",
        show_default=False,
    ),
]

MAX_BATCH_TOKENS = DEFAULT_MAX_BATCH_TOKENS

ENGINE = (
    option("max_length", MaxLength),
    option("encoder", Encoder, "auto"),
    option("num_threads", Threads),
    option("device", Device, "cpu"),
    option("compute_dtype", ComputeDtype, "auto"),
    option("max_batch_tokens", MaxBatchTokens, DEFAULT_MAX_BATCH_TOKENS),
    option("revision", Revision),
)
"""How a model computes, by the names of the arguments of `Reranker` and its like."""


def first_stage(text: str) -> FirstStageKind | float:
    """Return a kind of first stage, or a weight, as it was typed.

    Args:
        text: "lexical", "dense" or a number.

    Returns:
        What `Reranker.first_stage_weight` takes.

    Raises:
        ConfigError: If it is none of them.
    """
    for kind in get_args(FirstStageKind):
        if text == kind:
            return cast(FirstStageKind, kind)
    try:
        return float(text)
    except ValueError as exc:
        kinds = ", ".join(get_args(FirstStageKind))
        raise ConfigError(f"a first stage is {kinds} or a weight, not {text!r}") from exc
