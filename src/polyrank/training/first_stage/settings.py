"""Settings of learning what first-stage scores count for."""

from dataclasses import dataclass

from polyrank.errors import ConfigError
from polyrank.training.config import DataSource
from polyrank.types import ComputeDtype


@dataclass(frozen=True, slots=True)
class FirstStageWeightConfig:
    """Settings of a run.

    Attributes:
        queries: Questions of each source in each language, at most.
        candidates: Passages that a first stage hands on for each question.
        passages: Passages of a source in a language that are searched: those that answer the
            questions, and random ones up to this number.
        least_passages: Sources and languages with fewer are left out.
        compute_dtype: Type of the models' products.
        seed: Of the choice of questions and passages.

    Raises:
        ConfigError: If a value is out of range.
    """

    queries: int = 100
    candidates: int = 50
    passages: int = 1_500
    least_passages: int = 100
    compute_dtype: ComputeDtype = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (
            ("queries", 1),
            ("candidates", 2),
            ("passages", 2),
            ("least_passages", 2),
            ("seed", 0),
        ):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be {least} or more, not {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class FirstStageWeightJob:
    """What to learn for which model, on what.

    Attributes:
        model: Folder of a checkpoint that reranks; in a dry run a Hub id or None, the default
            model, too.
        data: Training data.
        config: The settings.
        retriever_model: Embedding checkpoint of the dense first stage; None takes the model's
            own embed head, if it has one beside what it reranks by.
        num_threads: Threads; None takes what this process may use.
        row_cache_bytes: As of `Reranker`.
        is_dry_run: Whether to leave the folder as it is.
    """

    model: str | None
    data: tuple[DataSource, ...]
    config: FirstStageWeightConfig
    retriever_model: str | None = None
    num_threads: int | None = None
    row_cache_bytes: int = 0
    is_dry_run: bool = False
