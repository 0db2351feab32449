"""`polyrank embed`: vectors of texts, to JSON lines, NumPy or Parquet."""

from functools import partial
from typing import Annotated, Literal

import typer

from polyrank.cli import options, screen
from polyrank.cli.inputs import STDIN, InputFormat, Source, chunks
from polyrank.cli.outputs import STDOUT, VECTOR_SUFFIXES, check_output, vector_sink
from polyrank.cli.progress import steps
from polyrank.progress import Progress, StepProgress
from polyrank.types import InputType, OutputDtype

CHUNK = 1024  # texts embedded and written at a time: bounds memory, keeps batches full


def embed(
    file: options.File = STDIN,
    input_type: Annotated[
        Literal["document", "passage", "query", "none"],
        typer.Option(
            help="document (or passage) for what is searched, query for questions, none for "
            "neither: chooses the checkpoint's prompt."
        ),
    ] = "document",
    prompt: Annotated[
        str | None,
        typer.Option(help="Text put before each input, instead.", show_default=False),
    ] = None,
    dimensions: Annotated[
        int | None,
        typer.Option(help="Keep only the first N values.", min=1, show_default=False),
    ] = None,
    output_dtype: Annotated[
        OutputDtype,
        typer.Option(help="Type of the values; binary and ubinary hold eight to a byte."),
    ] = "float32",
    model: options.Model = None,
    input_format: options.Format = InputFormat.AUTO,
    text_field: options.TextField = "text",
    max_length: options.MaxLength = None,
    encoder: options.Encoder = "auto",
    threads: options.Threads = None,
    device: options.Device = "cpu",
    compute_dtype: options.ComputeDtype = "auto",
    max_batch_tokens: options.MaxBatchTokens = options.MAX_BATCH_TOKENS,
    revision: options.Revision = None,
    output: options.Output = None,
    quiet: options.Quiet = False,
) -> None:
    """Turn texts into vectors.

    Standard output gets JSON lines: every field of the text, and "embedding". With --output the
    name's ending decides: .npy (vectors alone, in input order), .parquet, .jsonl or .ndjson.

    For example:

        polyrank embed passages.txt --output passages.npy
        echo "Wie lange leben Katzen?" | polyrank embed --input-type query
        polyrank embed pages.parquet --text-field body --output vectors.parquet
    """
    source = Source(file, input_format, text_field)
    source.check()
    check_output(output, VECTOR_SUFFIXES)
    from polyrank.inference.embedder import Embedder

    with screen.loading(model, quiet=quiet):
        embedder = Embedder(
            model,
            max_length=max_length,
            encoder=encoder,
            num_threads=threads,
            device=device,
            compute_dtype=compute_dtype,
            max_batch_tokens=max_batch_tokens,
            revision=revision,
        )
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
    limit = embedder.info.max_length
    screen.note_truncated(embedder.num_truncated, count, limit, quiet=quiet)


def _part(report: StepProgress | None, count: int) -> Progress | None:
    if report is None:
        return None
    return partial(report, "embedding (tokens)", note=f"after {count:,} texts")
