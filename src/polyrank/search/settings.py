"""Settings of calibrating what a stage may drop."""

from dataclasses import dataclass

from polyrank.config import check_whole
from polyrank.errors import ConfigError
from polyrank.types import ComputeDtype

_MOST_QUERIES = 100_000


@dataclass(frozen=True, slots=True)
class PruningConfig:
    """What is promised, and on how much it is calibrated.

    Attributes:
        top_n: First documents of the reranker that are to be handed on.
        min_kept: How many of them have to be, for a question to count as kept; left out, all.
        probability: Share of questions of which they shall be.
        confidence: With which this holds over the draw of questions.
        queries: Questions of each source in each language, at most.
        passages: Candidates of each question: passages of its source in its language, at most.
        least_passages: Sources and languages with fewer are left out.
        compute_dtype: Type of the models' products.
        seed: Of the choice of questions and passages.

    Raises:
        ConfigError: If a value is out of range.
    """

    top_n: int = 10
    min_kept: int | None = None
    probability: float = 0.95
    confidence: float = 0.95
    queries: int = 100
    passages: int = 1_000
    least_passages: int = 100
    compute_dtype: ComputeDtype = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        check_whole("top_n", self.top_n)
        if self.min_kept is not None:
            check_whole("min_kept", self.min_kept, high=self.top_n)
        check_whole("queries", self.queries, high=_MOST_QUERIES)
        for name in ("probability", "confidence"):
            if not 0 < getattr(self, name) < 1:
                raise ConfigError(f"{name} must lie between 0 and 1, not {getattr(self, name)}")
