"""Types that cross layers: packed batches, results, and the closed choices users make.

Shape vocabulary: `num_sequences`, `total_tokens`, `seq_len`, `hidden_size`, `dim`,
`num_labels`. A packed batch lays its sequences end to end without padding; sequence `i`
owns the tokens `cu_seqlens[i]:cu_seqlens[i + 1]`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Float16Array = NDArray[np.float16]
Float32Array = NDArray[np.float32]
Int32Array = NDArray[np.int32]
UInt8Array = NDArray[np.uint8]
Spans = NDArray[np.int32]
"""First token and the one after the last of each sequence or member, shape (num_spans, 2)."""

TaskName = Literal["rerank", "embed", "classify"]
PoolingMode = Literal["cls", "mean", "max", "mean_sqrt_len", "weighted_mean", "last_token"]
Activation = Literal["sigmoid", "softmax", "identity"]
Aggregation = Literal["max_p", "first_p", "top_k_mean", "decayed_sum", "joint_maxsim"]
LongTexts = Literal["mean", "truncate"]
TruncationStrategy = Literal["longest_first", "only_second"]
OutputDtype = Literal["float32", "int8", "uint8", "binary", "ubinary"]
RowDtype = Literal["float32", "int8"]
ComputeDtype = Literal["auto", "float32", "int8", "bfloat16"]
ProductDtype = Literal["float32", "int8", "bfloat16"]
InputType = Literal["query", "document", "passage"]
Side = Literal["right", "left"]
FirstStageKind = Literal["lexical", "dense"]


class HasText(Protocol):
    """An object with a text, as LlamaIndex's nodes are."""

    @property
    def text(self) -> Any:
        """The text."""
        ...


class HasContent(Protocol):
    """An object with a content, as Haystack's documents are."""

    @property
    def content(self) -> Any:
        """The text."""
        ...


class HasPageContent(Protocol):
    """An object with a page's content, as LangChain's documents are."""

    @property
    def page_content(self) -> Any:
        """The text."""
        ...


Document = str | Mapping[str, Any] | HasText | HasContent | HasPageContent
"""A document: its text, or a mapping or object that holds it as ``text``, ``content`` or
``page_content``; it comes back as it was given."""

Vector = np.ndarray[tuple[int], np.dtype[Any]]
Matrix = np.ndarray[tuple[int, int], np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """Sequences of token ids laid end to end.

    Attributes:
        input_ids: Token ids, shape (total_tokens,).
        cu_seqlens: Start of each sequence and the end of the last, shape (num_sequences + 1,).
        token_type_ids: Segment of each token, shape (total_tokens,), or None where all are 0.
    """

    input_ids: Int32Array
    cu_seqlens: Int32Array
    token_type_ids: Int32Array | None = None

    def __len__(self) -> int:
        return len(self.cu_seqlens) - 1

    @property
    def lengths(self) -> Int32Array:
        """Tokens in each sequence, shape (num_sequences,)."""
        return np.diff(self.cu_seqlens)

    @property
    def total_tokens(self) -> int:
        """Tokens in all sequences."""
        return int(self.cu_seqlens[-1])

    @property
    def max_seqlen(self) -> int:
        """Tokens in the longest sequence."""
        return int(self.lengths.max(initial=0))

    def tokens_of(self, indices: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return where the tokens of the named sequences lie, in the order named."""
        starts, lengths = self.cu_seqlens[:-1][indices], self.lengths[indices]
        ends = np.cumsum(lengths)
        return np.arange(lengths.sum()) + np.repeat(starts - (ends - lengths), lengths)

    def select(self, indices: NDArray[np.intp]) -> "PackedBatch":
        """Return the named sequences, in the order named."""
        cu_seqlens = np.zeros(len(indices) + 1, np.int32)
        np.cumsum(self.lengths[indices], out=cu_seqlens[1:])
        tokens = self.tokens_of(indices)
        types = None if self.token_type_ids is None else self.token_type_ids[tokens]
        return PackedBatch(self.input_ids[tokens], cu_seqlens, types)

    @staticmethod
    def join(parts: "Sequence[PackedBatch]") -> "PackedBatch":
        """Return the sequences of several batches as one, in order.

        Args:
            parts: One batch or more.

        Returns:
            The batch; segments are 0 where a part has none and another has some.
        """
        if len(parts) == 1:
            return parts[0]
        lengths = np.concatenate([part.lengths for part in parts])
        cu_seqlens = np.zeros(len(lengths) + 1, np.int32)
        np.cumsum(lengths, out=cu_seqlens[1:])
        types = None
        if any(part.token_type_ids is not None for part in parts):
            types = np.concatenate(
                [
                    np.zeros(part.total_tokens, np.int32)
                    if part.token_type_ids is None
                    else part.token_type_ids
                    for part in parts
                ]
            )
        return PackedBatch(np.concatenate([part.input_ids for part in parts]), cu_seqlens, types)


@dataclass(frozen=True, slots=True)
class Passage:
    """The span of a document that a score speaks of.

    Attributes:
        text: The span itself.
        start: Offset of its first character in the document's text.
        end: Offset after its last character.
        score: Relevance of the passage alone, as `RankedDocument.score`; None where it has none.
        probability: How probable it is that the passage answers, as `RankedDocument.probability`.
    """

    text: str
    start: int
    end: int
    score: float | None = None
    probability: float | None = None


@dataclass(frozen=True, slots=True)
class RankedDocument:
    """One document of a ranking.

    Attributes:
        index: Position of the document in the input.
        score: Relevance after the model's activation, 0 to 1 for sigmoid heads; the cosine,
            -1 to 1, where an embedding checkpoint ranks.
        logit: The raw value before the activation, with what first-stage scores add to it.
        document: The document as it was given.
        passage: The best passage; the whole text where that fits in the model's window, or what
            was read of it where it was cut.
        is_truncated: Whether tokens of the query or the document were not read.
        probability: How probable it is that the document answers, 0 to 1, by the model's own
            logit; None where the checkpoint carries no calibration.
        passages: All passages that were read, best first; one for a text that fits.
    """

    index: int
    score: float
    logit: float
    document: Document
    passage: Passage
    is_truncated: bool = False
    probability: float | None = None
    passages: tuple[Passage, ...] = ()


@dataclass(frozen=True, slots=True)
class Classification:
    """The label of one text or pair.

    Attributes:
        label: The label with the highest logit.
        score: What the checkpoint's activation gives it, 0 to 1.
        probabilities: What it gives every label, in the checkpoint's order.
        is_truncated: Whether tokens were cut off.
        probability: How probable it is that the label is right, calibrated; None where the
            checkpoint carries no calibration of its labels.
        calibrated_probabilities: The same of every label.
    """

    label: str
    score: float
    probabilities: Mapping[str, float]
    is_truncated: bool = False
    probability: float | None = None
    calibrated_probabilities: Mapping[str, float] | None = None
