"""Vectors, scores and labels of Dask's frames."""

from typing import Any

import pandas as pd
import pyarrow as pa

from polyrank.bulk.frames import loaded
from polyrank.bulk.frames import with_columns as table_with_columns
from polyrank.bulk.settings import BulkSettings, JobSettings
from polyrank.errors import DataError

_ONE_THREAD = BulkSettings(num_threads=1)


def with_columns(frame: Any, settings: JobSettings, run: BulkSettings = _ONE_THREAD) -> Any:
    """Add vectors, scores or labels to a frame, partition by partition.

    The model is loaded here once, to know the columns, and once in each worker's process. The new
    columns are Arrow's.

    Args:
        frame: A `dask.dataframe.DataFrame` with a column of texts, and of queries where pairs are
            scored.
        settings: What is computed; see `JobSettings`.
        run: How; one thread unless said otherwise, since Dask runs several tasks at a time.

    Returns:
        The frame with more columns, which are missing where a text is missing or too long.

    Raises:
        DataError: If a column is missing.
        CheckpointError: If the checkpoint cannot be used.
    """
    absent = [name for name in settings.text_columns if name not in frame.columns]
    if absent:
        raise DataError(
            f"the frame has no column {absent[0]!r}; it has {', '.join(map(str, frame.columns))}."
        )
    more = {
        field.name: pd.Series([], dtype=pd.ArrowDtype(field.type))
        for field in loaded(settings, run).fields
    }
    return frame.map_partitions(_partition, settings, run, meta=frame._meta.assign(**more))


def _partition(frame: pd.DataFrame, settings: JobSettings, run: BulkSettings) -> pd.DataFrame:
    texts = pa.table(
        {
            name: pa.array(frame[name], pa.string(), from_pandas=True)
            for name in settings.text_columns
        }
    )
    work = loaded(settings, run)
    found = table_with_columns(texts, work, settings)
    more = {
        field.name: pd.Series(
            pd.arrays.ArrowExtensionArray(found.column(field.name)), index=frame.index
        )
        for field in work.fields
    }
    return frame.assign(**more)
