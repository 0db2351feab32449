"""Settings as frozen dataclasses that check themselves and never change afterwards."""

import operator
import os
from collections.abc import Collection
from dataclasses import dataclass
from typing import SupportsIndex, get_args

from polyrank.errors import ConfigError
from polyrank.types import Aggregation, ComputeDtype, RowDtype, TruncationStrategy

DEFAULT_MAX_BATCH_TOKENS = 4096
DEFAULT_STORE = "lancedb://polyrank-index"
DEFAULT_PASSAGE_TOKENS = 256
DEFAULT_MAX_FILE_BYTES = 200 << 20
MOST_ROW_POOLING = 8  # beyond that nothing of a text is left


def check_whole(name: str, value: object, low: int = 1, high: int | None = None) -> int:
    """Return a setting that is a whole number.

    Args:
        name: Its name, for the message.
        value: What was given: an int, or what stands for one, as NumPy's integers do.
        low: The least it may be.
        high: The most it may be; None sets no limit.

    Returns:
        The number.

    Raises:
        ConfigError: If it is no whole number, or out of range.
    """
    limits = f"{low} or more" if high is None else f"from {low} to {high}"
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        raise ConfigError(
            f"{name} must be a whole number, {limits}, not {type(value).__name__}: {value!r:.80}"
        )
    number = operator.index(value)
    if number < low or (high is not None and number > high):
        raise ConfigError(f"{name} must be {limits}, not {number}")
    return number


def check_choice(name: str, value: object, choices: Collection[str]) -> None:
    """Raise unless a setting is one of some words.

    Args:
        name: Its name, for the message.
        value: What was given.
        choices: The words.

    Raises:
        ConfigError: If it is none of them.
    """
    if not isinstance(value, str) or value not in choices:
        raise ConfigError(f"{name} must be one of {', '.join(choices)}, not {value!r:.80}")


def check_source(model: object, revision: object, cache_dir: object) -> None:
    """Raise unless the settings that say where a checkpoint comes from are texts, paths or None.

    Args:
        model: Folder or Hub id.
        revision: Branch, tag or commit.
        cache_dir: The Hub's cache folder.

    Raises:
        ConfigError: If one is something else.
    """
    for name, value in (("model", model), ("revision", revision), ("cache_dir", cache_dir)):
        is_path = name != "revision" and isinstance(value, os.PathLike)
        if not (value is None or isinstance(value, str) or is_path):
            raise ConfigError(
                f"{name} must be a text{'' if name == 'revision' else ' or path'}, not "
                f"{type(value).__name__}: {value!r:.80}"
            )


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """How sequences are batched and run.

    Attributes:
        encoder: Backend name, or "auto" for the best one installed.
        max_batch_tokens: Tokens in one forward pass, padding included. A longer single
            sequence runs alone.
        num_threads: Threads of the encoder; None takes what affinity and cgroup quota allow.
        device: "cpu", or a device of the pytorch encoder such as "cuda".
        compute_dtype: Type of the products in linear layers. "auto" is float32, unless the
            checkpoint carries the record of a passed quality gate for int8 and int8 products are
            quicker than float32 ones on the kernel path that runs. "bfloat16" rounds weights and
            their inputs to bfloat16 and sums in float32.
        row_cache_bytes: Most bytes of token rows to keep, for texts that come again under late
            interaction; 0 keeps none. A row takes hidden_size * 4 bytes.
        row_pooling: Rows of a document that are joined into one, on average, before a ranking
            compares them; 1 joins none.
        row_dtype: Type of the rows that a ranking compares: "float32", or "int8" for eight bits a
            value.

    Raises:
        ConfigError: If a value is out of range.
    """

    encoder: str = "auto"
    max_batch_tokens: int = DEFAULT_MAX_BATCH_TOKENS
    num_threads: int | None = None
    device: str = "cpu"
    compute_dtype: ComputeDtype = "auto"
    row_cache_bytes: int = 0
    row_pooling: int = 1
    row_dtype: RowDtype = "float32"

    def __post_init__(self) -> None:
        check_choice("compute_dtype", self.compute_dtype, get_args(ComputeDtype))
        for name in ("encoder", "device"):
            value = getattr(self, name)
            if not isinstance(value, str):
                raise ConfigError(f"{name} must be a name, not {value!r:.80}")
        check_whole("max_batch_tokens", self.max_batch_tokens)
        check_whole("row_cache_bytes", self.row_cache_bytes, low=0)
        check_whole("row_pooling", self.row_pooling, high=MOST_ROW_POOLING)
        check_choice("row_dtype", self.row_dtype, get_args(RowDtype))
        if self.num_threads is not None:
            check_whole("num_threads", self.num_threads)


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
        check_choice("truncation", self.strategy, get_args(TruncationStrategy))
        for name in ("max_length", "max_query_length"):
            value = getattr(self, name)
            if value is not None:
                check_whole(name, value)
        if self.max_query_length is not None and self.strategy != "only_second":
            raise ConfigError('max_query_length needs truncation="only_second"')


@dataclass(frozen=True, slots=True)
class PassageConfig:
    """How a document is read that is longer than the model's window.

    Attributes:
        aggregation: How the passages' logits become the document's. "max_p" is the best one's,
            "first_p" the first one's, "top_k_mean" the mean of the best three, "decayed_sum" the
            mean of all with weights 1, 1/2, 1/4 and so on from the best one down. "joint_maxsim"
            compares the query with the token rows of all passages as with those of one text: for
            checkpoints that compare texts token by token, as the default model does, alone; it
            holds all rows of a document at once, 1.5 KB a token of the default model.
        max_tokens: Tokens of a passage at most; None takes what the window holds beside the
            query.
        overlap_tokens: Tokens at the end of a passage that the next may begin with.
        max_passages_per_document: Passages of a document that are read, from its start; None
            reads all.
        max_tokens_per_document: Tokens of a document that are read, from its start; None reads
            all.

    Raises:
        ConfigError: If a value is out of range.
    """

    aggregation: Aggregation = "max_p"
    max_tokens: int | None = None
    overlap_tokens: int = 0
    max_passages_per_document: int | None = None
    max_tokens_per_document: int | None = None

    def __post_init__(self) -> None:
        check_choice("aggregation", self.aggregation, get_args(Aggregation))
        for name in ("max_tokens", "max_passages_per_document", "max_tokens_per_document"):
            value = getattr(self, name)
            if value is not None:
                check_whole(name, value)
        check_whole("overlap_tokens", self.overlap_tokens, low=0)
        if self.max_tokens is not None and self.overlap_tokens >= self.max_tokens:
            raise ConfigError(
                f"overlap_tokens must be below max_tokens, {self.max_tokens}, not "
                f"{self.overlap_tokens}"
            )

    @property
    def key(self) -> str:
        """What of it changes a result, as a part of keys."""
        caps = f"{self.max_passages_per_document or ''}:{self.max_tokens_per_document or ''}"
        return f"{self.aggregation}:{self.max_tokens or ''}:{self.overlap_tokens}:{caps}"


WHOLE = PassageConfig()
"""All of a document is read, and its best passage counts."""
