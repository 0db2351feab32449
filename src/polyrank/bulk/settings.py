"""What a job is told: all that decides its output, and how it is run, which does not."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Literal, get_args

from polyrank.config import DEFAULT_MAX_BATCH_TOKENS, check_choice, check_whole
from polyrank.errors import ConfigError
from polyrank.types import ComputeDtype, InputType, OutputDtype, TaskName

VectorDtype = OutputDtype | Literal["float16"]
VECTOR_DTYPES = (*get_args(OutputDtype), "float16")
PARTITION_ROWS = 8192
MAX_TEXT_BYTES = 1_000_000


@dataclass(frozen=True, slots=True)
class JobSettings:
    """What decides a job's output, beside its input and the model's files.

    Attributes:
        task: "embed", "rerank" or "classify".
        model: Folder or Hub id; None is the default model.
        revision: Branch, tag or commit on the Hub.
        text_field: Column of the texts.
        query_field: Column of each row's query; None where rows have none.
        query: One query for all rows, instead.
        columns: Columns of the input that pass through; None takes all.
        input_type: For vectors: "query", "document", "passage", or None for no prompt.
        prompt: Text put before each text, instead.
        dimensions: Values of a vector to keep; None keeps all.
        output_dtype: Type of the vectors' values.
        max_length: Tokens of a text or pair; None takes the checkpoint's limit.
        encoder: Backend name, or "auto".
        compute_dtype: Type of the products in linear layers.
        partition_rows: Rows of a partition, at most; of JSON lines a kilobyte counts as one.
        max_text_bytes: UTF-8 bytes of a text, and of a query, above which a row is poison.
    """

    task: TaskName
    model: str | None = None
    revision: str | None = None
    text_field: str = "text"
    query_field: str | None = None
    query: str | None = None
    columns: tuple[str, ...] | None = None
    input_type: InputType | None = "document"
    prompt: str | None = None
    dimensions: int | None = None
    output_dtype: VectorDtype = "float32"
    max_length: int | None = None
    encoder: str = "auto"
    compute_dtype: ComputeDtype = "auto"
    partition_rows: int = PARTITION_ROWS
    max_text_bytes: int = MAX_TEXT_BYTES

    def __post_init__(self) -> None:
        check_choice("task", self.task, get_args(TaskName))
        check_choice("output_dtype", self.output_dtype, VECTOR_DTYPES)
        check_whole("partition_rows", self.partition_rows, high=2**20)
        check_whole("max_text_bytes", self.max_text_bytes)
        if self.query is not None and self.query_field is not None:
            raise ConfigError("query and query_field contradict each other. Give one of them.")
        if self.task == "rerank" and self.query is None and self.query_field is None:
            raise ConfigError("reranking needs a query: name its column by query_field, or give it")
        if self.task == "embed" and (self.query is not None or self.query_field is not None):
            raise ConfigError("vectors are made of texts alone: leave the query out")

    @property
    def text_columns(self) -> tuple[str, ...]:
        """Columns that must be texts."""
        return (self.text_field, *([self.query_field] if self.query_field is not None else []))

    def as_json(self) -> dict[str, Any]:
        """Return the settings as JSON keeps them."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "JobSettings":
        """Return settings that `as_json` gave."""
        columns = content["columns"]
        return cls(**{**content, "columns": None if columns is None else tuple(columns)})


@dataclass(frozen=True, slots=True)
class BulkSettings:
    """How a job is run; the output is the same.

    Attributes:
        num_threads: Threads of an encoder; None takes what the process may use.
        max_batch_tokens: Tokens in one forward pass.
        device: "cpu", or a device of the pytorch encoder.
        patience_s: How long an object store that does not answer is asked again.
        is_verifying: Whether a job that goes on reads what is written and compares its hash.
    """

    num_threads: int | None = None
    max_batch_tokens: int = DEFAULT_MAX_BATCH_TOKENS
    device: str = "cpu"
    patience_s: float = 120.0
    is_verifying: bool = True
