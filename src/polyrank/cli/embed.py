"""`polyrank embed`: vectors of texts, to JSON lines, NumPy or Parquet."""

from functools import partial
from typing import Annotated, Any, Literal

import typer

from polyrank.cli import options, screen
from polyrank.cli.fields import takes
from polyrank.cli.inputs import STDIN, InputFormat, TextSource, chunks
from polyrank.cli.outputs import STDOUT, VECTOR_SUFFIXES, check_output, vector_sink
from polyrank.cli.progress import steps
from polyrank.progress import Progress, StepProgress
from polyrank.types import InputType, OutputDtype

CHUNK = 1024  # texts embedded and written at a time: bounds memory, keeps batches full

InputTypeName = Annotated[
    Literal["document", "passage", "query", "none"],
    typer.Option(
        help="document (or passage) for what is searched, query for questions, none for "
        "neither: chooses the checkpoint's prompt."
    ),
]
Prompt = Annotated[
    str | None,
    typer.Option(help="Text put before each input, instead.", show_default=False),
]
Dimensions = Annotated[
    int | None,
    typer.Option(help="Keep only the first N values.", min=1, show_default=False),
]
VectorDtype = Annotated[
    OutputDtype,
    typer.Option(help="Type of the values; binary and ubinary hold eight to a byte."),
]


@takes(*options.ENGINE)
def embed(
    file: options.File = STDIN,
    input_type: InputTypeName = "document",
    prompt: Prompt = None,
    dimensions: Dimensions = None,
    output_dtype: VectorDtype = "float32",
    model: options.Model = None,
    input_format: options.Format = InputFormat.AUTO,
    text_field: options.TextField = "text",
    output: options.Output = None,
    quiet: options.Quiet = False,
    **engine: Any,
) -> None:
    """Turn texts into vectors.

    Standard output gets JSON lines: every field of the text, and "embedding". With --output the
    name's ending decides: .npy (vectors alone, in input order), .parquet, .jsonl or .ndjson.

    For example:

        polyrank embed passages.txt --output passages.npy
        echo "Wie lange leben Katzen?" | polyrank embed --input-type query
        polyrank embed pages.parquet --text-field body --output vectors.parquet
    """
    source = TextSource(file, input_format, text_field)
    source.check()
    check_output(output, VECTOR_SUFFIXES)
    from polyrank.inference.embedder import Embedder

    with screen.loading(model, quiet=quiet):
        embedder = Embedder(model, **engine)
    chosen: InputType | None = None
    if prompt is None and input_type != "none":
        chosen = input_type
    count = 0
    with vector_sink(output) as sink, steps(quiet=quiet) as report:
        for part in chunks(source.records(), CHUNK):
            vectors = embedder.encode(
                [record.text for record in part],
                input_type=chosen,
                prompt=prompt,
                dimensions=dimensions,
                output_dtype=output_dtype,
                progress=_part(report, count),
            )
            sink.write([record.fields for record in part], vectors)
            count += len(part)
    if output not in (None, STDOUT):
        screen.remark(f"{count:,} vectors written to {output}", quiet=quiet)
    screen.note_truncated(embedder, count, quiet=quiet)


def _part(report: StepProgress | None, count: int) -> Progress | None:
    if report is None:
        return None
    return partial(report, "embedding (tokens)", note=f"after {count:,} texts")
