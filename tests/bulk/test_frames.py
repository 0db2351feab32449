"""Vectors, scores and labels of frames: Spark's and Dask's."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polyrank import Embedder, Reranker
from polyrank.bulk.settings import JobSettings
from polyrank.errors import DataError
from tests.bulk import jobs

Checkpoint = Callable[[str], Path]
EMBEDDER, RERANKER = "multilingual-e5-small", "bge-reranker-base"


@pytest.fixture(scope="module")
def spark() -> Iterator[Any]:
    sql = pytest.importorskip("pyspark.sql")
    os.environ["PYSPARK_PYTHON"] = sys.executable
    session = (
        sql.SparkSession.builder.master("local[2]")
        .config("spark.ui.enabled", "false")
        .config("spark.sql.execution.arrow.maxRecordsPerBatch", "7")
        .getOrCreate()
    )
    yield session
    session.stop()


def given() -> list[jobs.Row]:
    rows = [{k: row[k] for k in ("id", "text", "query")} for row in jobs.rows(30)]
    rows[4]["text"] = None
    return rows


def bits(values: list[Any]) -> bytes:
    return np.array(values, np.float32).tobytes()


def check_vectors(rows: list[Any], model: Path) -> None:
    """Row by row the library's bits, nulls where there was no text."""
    by_id = {row["id"]: row["embedding"] for row in rows}
    sound = [row for row in given() if row["text"] is not None]
    vectors = Embedder(model).encode([row["text"] for row in sound], input_type="document")
    assert by_id["row-4"] is None
    for row, vector in zip(sound, vectors, strict=True):
        assert bits(list(by_id[row["id"]])) == vector.tobytes()


def test_spark_maps_batches(spark: Any, checkpoint: Checkpoint) -> None:
    from polyrank.bulk.spark import with_columns

    frame = spark.createDataFrame(given())
    model = checkpoint(EMBEDDER)
    rows = with_columns(frame, JobSettings("embed", str(model))).collect()
    check_vectors(rows, model)
    settings = JobSettings("rerank", str(checkpoint(RERANKER)), query_field="query")
    scored = with_columns(frame.where("text is not null"), settings).collect()
    scores = Reranker(checkpoint(RERANKER)).score([(row["query"], row["text"]) for row in scored])
    assert bits([row["score"] for row in scored]) == scores.tobytes()
    with pytest.raises(DataError, match="no column 'body'"):
        with_columns(frame, JobSettings("embed", str(model), text_field="body"))


def test_spark_predicts_a_column(spark: Any, checkpoint: Checkpoint) -> None:
    from polyrank.bulk.spark import embedding_udf

    model = checkpoint(EMBEDDER)
    embed = embedding_udf(JobSettings("embed", str(model)), batch_rows=5)
    frame = spark.createDataFrame([row for row in given() if row["text"] is not None])
    rows = frame.withColumn("embedding", embed("text")).collect()
    vectors = Embedder(model).encode([row["text"] for row in rows], input_type="document")
    for row, vector in zip(rows, vectors, strict=True):
        assert bits(row["embedding"]) == vector.tobytes()


def test_dask_maps_partitions(checkpoint: Checkpoint) -> None:
    frames = pytest.importorskip("dask.dataframe")
    import pandas as pd

    from polyrank.bulk.dask import with_columns

    model = checkpoint(EMBEDDER)
    frame = frames.from_pandas(pd.DataFrame(given()), npartitions=3)
    lazy = with_columns(frame, JobSettings("embed", str(model)))
    found = lazy.compute()
    assert dict(lazy.dtypes) == dict(found.dtypes)
    rows = found.to_dict("records")
    for row in rows:
        row["embedding"] = None if row["embedding"] is pd.NA else row["embedding"]
    check_vectors(rows, model)
    with pytest.raises(DataError, match="no column 'body'"):
        with_columns(frame, JobSettings("embed", str(model), text_field="body"))
