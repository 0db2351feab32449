"""`polyrank embed`: vectors of texts, to JSON lines, NumPy or Parquet."""

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import numpy as np
import typer
from numpy.typing import NDArray

from polyrank._extras import require
from polyrank._files import replacing
from polyrank.cli import options, screen
from polyrank.cli.inputs import STDIN, InputFormat, Record, Source, chunks
from polyrank.cli.progress import StepProgress, steps
from polyrank.types import EmbeddingPrecision, InputType, Progress

CHUNK = 1024  # texts embedded and written at a time: bounds memory, keeps batches full


def embed(
    file: options.File = STDIN,
    input_type: Annotated[
        Literal["document", "query", "none"],
        typer.Option(
            help="document for what is searched, query for questions, none for neither: "
            "chooses the checkpoint's prompt."
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
    precision: Annotated[
        EmbeddingPrecision,
        typer.Option(help="Type of the values; binary and ubinary hold eight to a byte."),
    ] = "float32",
    model: options.Model = None,
    input_format: options.Format = InputFormat.AUTO,
    text_field: options.TextField = "text",
    max_length: options.MaxLength = None,
    encoder: options.Encoder = "auto",
    threads: options.Threads = None,
    device: options.Device = "cpu",
    compute: options.ComputePrecision = "auto",
    max_batch_tokens: options.MaxBatchTokens = options.MAX_BATCH_TOKENS,
    revision: options.Revision = None,
    output: options.Output = None,
    quiet: options.Quiet = False,
) -> None:
    """Turn texts into vectors.

    Standard output gets JSON lines: every field of the text, and "embedding". With --output the
    name's ending decides: .npy (vectors alone, in input order), .parquet, or .jsonl.

    For example:

        polyrank embed passages.txt --output passages.npy
        echo "Wie lange leben Katzen?" | polyrank embed --input-type query
        polyrank embed pages.parquet --text-field body --output vectors.parquet
    """
    from polyrank.inference.embedder import Embedder

    with screen.loading(model, quiet=quiet):
        embedder = Embedder(
            model,
            max_length=max_length,
            encoder=encoder,
            num_threads=threads,
            device=device,
            precision=compute,
            max_batch_tokens=max_batch_tokens,
            revision=revision,
        )
    chosen: InputType | None = None
    if prompt is None and input_type != "none":
        chosen = input_type
    count = 0
    with _sink(output) as sink, steps(quiet=quiet) as report:
        for part in chunks(Source(file, input_format, text_field).records(), CHUNK):
            vectors = embedder.encode(
                [record.text for record in part],
                input_type=chosen,
                prompt=prompt,
                dimensions=dimensions,
                precision=precision,
                progress=_part(report, count),
            )
            sink.write(part, vectors)
            count += len(part)
    if output is not None:
        screen.remark(f"{count:,} vectors written to {output}", quiet=quiet)
    limit = embedder.info.max_length
    screen.note_truncated(embedder.num_truncated, count, limit, quiet=quiet)


def _part(report: StepProgress | None, count: int) -> Progress | None:
    if report is None:
        return None
    return partial(report, "embedding (tokens)", note=f"after {count:,} texts")


class Sink(Protocol):
    """Takes vectors part by part."""

    def write(self, records: list[Record], vectors: NDArray[Any]) -> None:
        """Take the vectors of some records."""
        ...


class LineSink:
    """JSON lines."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, records: list[Record], vectors: NDArray[Any]) -> None:
        """Write one line per record."""
        rows: Iterable[dict[str, Any]] = (
            {**record.fields, "embedding": vector.tolist()}
            for record, vector in zip(records, vectors, strict=True)
        )
        for row in rows:
            self._file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")


class ArraySink:
    """A NumPy file; its header needs the count, so parts are kept until the end."""

    def __init__(self) -> None:
        self._parts: list[NDArray[Any]] = []

    def write(self, records: list[Record], vectors: NDArray[Any]) -> None:
        """Keep the vectors."""
        self._parts.append(vectors)

    def save(self, path: Path) -> None:
        """Write all of them."""
        whole = np.concatenate(self._parts) if self._parts else np.empty((0, 0), np.float32)
        with path.open("wb") as file:
            np.save(file, whole)


class ParquetSink:
    """A Parquet file with the records' fields and a column of lists."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: Any = None

    def write(self, records: list[Record], vectors: NDArray[Any]) -> None:
        """Write one row group."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        values = pa.array(vectors.ravel())
        column = pa.FixedSizeListArray.from_arrays(values, vectors.shape[1])
        fields = pa.Table.from_pylist([record.fields for record in records])
        table = fields.append_column("embedding", column)
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._path, table.schema)
        self._writer.write_table(table.cast(self._writer.schema))

    def close(self) -> None:
        """Write the footer."""
        if self._writer is not None:
            self._writer.close()


@contextmanager
def _sink(output: str | None) -> Iterator[Sink]:
    suffix = "" if output is None else Path(output).suffix
    if output is None or suffix not in (".npy", ".parquet"):
        with screen.text_output(output) as file:
            yield LineSink(file)
            sys.stdout.flush()
        return
    if suffix == ".parquet":
        require("parquet", purpose="Writing Parquet files")
    with replacing(Path(output)) as path:
        if suffix == ".npy":
            array = ArraySink()
            yield array
            array.save(path)
        else:
            parquet = ParquetSink(path)
            try:
                yield parquet
            finally:
                parquet.close()
