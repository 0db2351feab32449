"""Vectors, scores and labels of Spark's frames."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.ml.functions import predict_batch_udf
from pyspark.sql import DataFrame
from pyspark.sql.pandas.types import from_arrow_schema, to_arrow_schema
from pyspark.sql.types import ArrayType, FloatType

from polyrank.bulk.frames import check_columns, loaded, mapped
from polyrank.bulk.settings import BulkSettings, JobSettings
from polyrank.errors import ConfigError

BATCH_ROWS = 1024
_ONE_THREAD = BulkSettings(num_threads=1)


def with_columns(
    frame: DataFrame, settings: JobSettings, run: BulkSettings = _ONE_THREAD
) -> DataFrame:
    """Add vectors, scores or labels to a frame, by `mapInArrow`: no row is moved.

    How many rows are sorted by length and computed together is Spark's
    ``spark.sql.execution.arrow.maxRecordsPerBatch``. The model is loaded here once, to know the
    columns, and once in each Python worker.

    Args:
        frame: Has a column of texts, and of queries where pairs are scored.
        settings: What is computed; see `JobSettings`.
        run: How; one thread unless said otherwise, since Spark runs a worker a core.

    Returns:
        The frame with more columns, which are null where a text is missing or too long.

    Raises:
        DataError: If a column is missing.
        CheckpointError: If the checkpoint cannot be used.
    """
    own = to_arrow_schema(frame.schema)
    check_columns(own, settings)
    work = loaded(settings, run)
    # Spark has no lists of a fixed size
    more = [field.with_type(_spark_type(field.type)) for field in work.fields]
    whole = from_arrow_schema(pa.schema([*own, *more]))
    return frame.mapInArrow(partial(_mapped, settings=settings, run=run), whole)


def _mapped(
    batches: Iterable[pa.RecordBatch], settings: JobSettings, run: BulkSettings
) -> Iterator[pa.RecordBatch]:
    for batch in mapped(batches, settings, run):
        fields = [field.with_type(_spark_type(field.type)) for field in batch.schema]
        yield batch.cast(pa.schema(fields))


def _spark_type(kind: pa.DataType) -> pa.DataType:
    return pa.list_(kind.value_type) if pa.types.is_fixed_size_list(kind) else kind


def embedding_udf(
    settings: JobSettings, run: BulkSettings = _ONE_THREAD, batch_rows: int = BATCH_ROWS
) -> Callable[..., Any]:
    """Return a function of a column of texts that gives vectors, by `predict_batch_udf`.

    Args:
        settings: What is computed; its task must be "embed", and its vectors float32.
        run: How; one thread unless said otherwise.
        batch_rows: Rows that are computed together.

    Returns:
        What ``frame.withColumn("embedding", function("text"))`` takes.

    Raises:
        ConfigError: If the settings make no such vectors.
    """
    if settings.task != "embed" or settings.output_dtype != "float32":
        raise ConfigError("a function of a column gives float32 vectors: use with_columns instead")
    make = partial(_make_predict, settings, run)
    return predict_batch_udf(make, return_type=ArrayType(FloatType()), batch_size=batch_rows)


def _make_predict(
    settings: JobSettings, run: BulkSettings
) -> Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]:
    def predict(texts: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        (vectors,) = loaded(settings, run).compute([str(text) for text in texts])
        return vectors.flatten().to_numpy().reshape(len(texts), -1)

    return predict
