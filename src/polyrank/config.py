"""Settings as frozen dataclasses that check themselves and never change afterwards."""

from dataclasses import dataclass
from typing import get_args

from polyrank.errors import ConfigError
from polyrank.types import Precision, TruncationStrategy

DEFAULT_MAX_BATCH_TOKENS = 4096


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """How sequences are batched and run.

    Attributes:
        encoder: Backend name, or "auto" for the best one installed.
        max_batch_tokens: Tokens in one forward pass, padding included. A longer single
            sequence runs alone.
        num_threads: Threads of the encoder; None takes what affinity and cgroup quota allow.
        device: "cpu", or a device of the pytorch encoder such as "cuda".
        precision: Type of the products in linear layers. "auto" is float32, unless the
            checkpoint carries the record of a passed quality gate for int8.
        row_cache_bytes: Most bytes of token rows to keep, for texts that come again under late
            interaction; 0 keeps none. A row takes hidden_size * 4 bytes.

    Raises:
        ConfigError: If a value is out of range.
    """

    encoder: str = "auto"
    max_batch_tokens: int = DEFAULT_MAX_BATCH_TOKENS
    num_threads: int | None = None
    device: str = "cpu"
    precision: Precision = "auto"
    row_cache_bytes: int = 0

    def __post_init__(self) -> None:
        if self.max_batch_tokens < 1:
            raise ConfigError(f"max_batch_tokens must be 1 or more, not {self.max_batch_tokens}")
        if self.precision not in get_args(Precision):
            raise ConfigError(
                f"precision must be one of {', '.join(get_args(Precision))}, not {self.precision!r}"
            )
        if self.num_threads is not None and self.num_threads < 1:
            raise ConfigError(f"num_threads must be 1 or more, not {self.num_threads}")
        if self.row_cache_bytes < 0:
            raise ConfigError(f"row_cache_bytes must be 0 or more, not {self.row_cache_bytes}")


@dataclass(frozen=True, slots=True)
class TruncationConfig:
    """What is cut when a text or a pair is longer than the model reads.

    Attributes:
        max_length: Tokens of a sequence, special tokens included; None takes the
            checkpoint's own limit.
        strategy: "longest_first" shortens the longer of query and document, token by token,
            as transformers does; "only_second" shortens the document alone.
        max_query_length: Under "only_second", tokens that the query may hold; None allows
            half of what a sequence holds.

    Raises:
        ConfigError: If a value is out of range, or a query cap comes with longest_first.
    """

    max_length: int | None = None
    strategy: TruncationStrategy = "longest_first"
    max_query_length: int | None = None

    def __post_init__(self) -> None:
        if self.strategy not in get_args(TruncationStrategy):
            raise ConfigError(
                f"truncation must be one of {', '.join(get_args(TruncationStrategy))}, "
                f"not {self.strategy!r}"
            )
        for name in ("max_length", "max_query_length"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be 1 or more, not {value}")
        if self.max_query_length is not None and self.strategy != "only_second":
            raise ConfigError('max_query_length needs truncation="only_second"')
