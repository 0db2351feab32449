"""What to calibrate, on what: the settings of a run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from polyrank.errors import ConfigError
from polyrank.types import ComputeDtype

CalibrationTask = Literal["rerank", "classify"]


@dataclass(frozen=True, slots=True)
class CalibrateJob:
    """What to calibrate, on what.

    Attributes:
        model: Folder or Hub id; None is the default model.
        data: Evaluation sets in BEIR form, or files or folders of labelled rows.
        task: "rerank" or "classify".
        output: Folder to write the file into; None takes the model's own.
        run: A run in TREC's form, whose documents are the candidates; None searches.
        top_k: Candidates of each query.
        max_queries: Queries of a set in a language, at most; None takes all.
        languages: Languages to take; none takes all.
        is_reordering: Whether documents may be shifted by their length, so that probabilities
            order them otherwise than scores do.
        is_check: Whether to measure the calibration that is there and fit none.
        seed: Of all choices.
        num_threads: Threads; None takes what this process may use.
        compute_dtype: Of the model's products.
        row_cache_bytes: As of `Reranker`.

    Raises:
        ConfigError: If a value is out of range.
    """

    model: str | None
    data: tuple[Path, ...]
    task: CalibrationTask = "rerank"
    output: Path | None = None
    run: Path | None = None
    top_k: int = 50
    max_queries: int | None = 300
    languages: tuple[str, ...] = ()
    is_reordering: bool = False
    is_check: bool = False
    seed: int = 0
    num_threads: int | None = None
    compute_dtype: ComputeDtype = "auto"
    row_cache_bytes: int = 0

    def __post_init__(self) -> None:
        if not self.data:
            raise ConfigError("nothing to calibrate on: name a file or folder with --data.")
        if self.top_k < 2 or (self.max_queries is not None and self.max_queries < 1):
            raise ConfigError(
                f"top_k must be 2 or more and max_queries 1 or more, not {self.top_k} and "
                f"{self.max_queries}"
            )
