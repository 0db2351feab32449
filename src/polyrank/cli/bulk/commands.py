"""The three commands of `polyrank bulk`."""

from typing import Annotated, Literal, cast

import typer

from polyrank.cli.bulk.running import do, job_settings
from polyrank.cli.bulk.shared import Shared
from polyrank.types import InputType

Source = Annotated[
    str,
    typer.Argument(
        metavar="INPUT",
        help="A file, or a folder of files: Parquet, JSON lines (also .gz), Arrow files as "
        "`datasets` saves them, a Lance table; on a disk or in an object store "
        "(s3://bucket/folder).",
        show_default=False,
    ),
]
Query = Annotated[
    str | None, typer.Option("--query", help="One query for all rows.", show_default=False)
]
QueryField = Annotated[
    str | None, typer.Option(help="Column of each row's own query.", show_default=False)
]


def embed(
    source: Source,
    shared: Shared,
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
        Literal["float32", "float16", "int8", "uint8", "binary", "ubinary"],
        typer.Option(help="Type of the values; binary and ubinary hold eight to a byte."),
    ] = "float32",
) -> None:
    """Write a vector for each row, in a column "embedding".

    For example:

        polyrank bulk embed pages.parquet --output vectors
        polyrank bulk embed pages --output vectors --estimate --price-per-hour 0.1
        polyrank bulk embed s3://bucket/pages --output s3://bucket/vectors --output-dtype float16
        polyrank bulk embed pages --output vectors --ray auto --workers 1:64 --threads 2
    """
    is_prompted = prompt is not None or input_type == "none"
    settings = job_settings(
        "embed",
        shared,
        input_type=None if is_prompted else cast(InputType, input_type),
        prompt=prompt,
        dimensions=dimensions,
        output_dtype=output_dtype,
    )
    do(source, settings, shared)


def rerank(
    source: Source,
    shared: Shared,
    query: Query = None,
    query_field: QueryField = None,
) -> None:
    """Write a score for each pair of query and text, in a column "score".

    Where the model is calibrated, "probability" stands beside it. Rows without a query of their
    own need --query; left out, the column "query" holds them.

    For example:

        polyrank bulk rerank pairs.parquet --output scored
        polyrank bulk rerank pages.jsonl --query "How long do cats live?" --output scored
    """
    if query is None and query_field is None:
        query_field = "query"
    do(source, job_settings("rerank", shared, query=query, query_field=query_field), shared)


def classify(
    source: Source,
    shared: Shared,
    query: Query = None,
    query_field: QueryField = None,
) -> None:
    """Write a label for each text, or pair of query and text, in a column "label".

    "label_score" and "probabilities" stand beside it, and where the model is calibrated
    "probability" and "calibrated_probabilities".

    For example:

        polyrank bulk classify reviews.parquet --model FOLDER --output labelled
        polyrank bulk classify pairs.jsonl --query-field query --output labelled
    """
    do(source, job_settings("classify", shared, query=query, query_field=query_field), shared)
