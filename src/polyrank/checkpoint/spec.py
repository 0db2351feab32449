"""What polyrank needs to know of a checkpoint, and nothing of where it was written.

These classes are the seam between a folder on disk and everything that computes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from polyrank.errors import CapabilityError
from polyrank.types import Activation, FirstStageKind, PoolingMode, TaskName

Nonlinearity = Literal["identity", "tanh", "gelu", "gelu_tanh", "relu", "silu", "sigmoid"]


TableType = Literal["mixed", "int4", "int8", "float16", "float32"]
TABLE_TYPES: tuple[TableType, ...] = get_args(TableType)

LinearType = Literal["int8", "int4"]

MatchFeature = Literal[
    "sharp_match",
    "plain_match",
    "least_match",
    "reverse_match",
    "clean_cosine",
    "document_length",
]
MATCH_FEATURES: tuple[MatchFeature, ...] = get_args(MatchFeature)


@dataclass(frozen=True, slots=True)
class QuantizationSpec:
    """How an int8 folder stores what is not float32.

    Attributes:
        embeddings: Type of the table of word embeddings.
        linears: Type of the linear layers of the body; products are int8 either way.
    """

    embeddings: TableType
    linears: LinearType


@dataclass(frozen=True, slots=True)
class BodySpec:
    """Sizes and conventions of a BERT-shaped body (post-norm, learnt absolute positions).

    Attributes:
        model_type: As transformers names it, for instance "xlm-roberta".
        hidden_size: Width of a token row.
        num_layers: Transformer layers.
        num_heads: Attention heads of a layer.
        intermediate_size: Width of the feed-forward layer.
        vocab_size: Rows of the token-embedding table.
        num_positions: Rows of the position-embedding table.
        position_offset: Row of the first token: 0 for BERT, padding index + 1 for RoBERTa.
        type_vocab_size: Rows of the segment-embedding table.
        pad_token_id: Padding id. RoBERTa bodies give such tokens no position of their own.
        activation: Nonlinearity of the feed-forward layer.
        layer_norm_eps: Added to the variance in layer normalisation.
        prefix: What stands before ``embeddings.`` and ``encoder.`` in tensor names.
    """

    model_type: str
    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    vocab_size: int
    num_positions: int
    position_offset: int
    type_vocab_size: int
    pad_token_id: int
    activation: Nonlinearity
    layer_norm_eps: float
    prefix: str

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_heads

    @property
    def max_seqlen(self) -> int:
        """Most tokens of a sequence that have a position of their own."""
        return self.num_positions - self.position_offset


@dataclass(frozen=True, slots=True)
class DenseSpec:
    """One linear layer of a head: ``nonlinearity(row @ weight.T + bias)``.

    Attributes:
        weight: Name of the tensor of shape (out_features, in_features).
        bias: Name of the tensor of shape (out_features,), or None.
        nonlinearity: Applied to the result.
        folder: Sub-folder of the checkpoint that holds the two tensors ("" for its root).
    """

    weight: str
    bias: str | None
    nonlinearity: Nonlinearity
    folder: str = ""


@dataclass(frozen=True, slots=True)
class LateInteractionSpec:
    """How a pair is scored by the token rows of its two texts, each read on its own.

    Attributes:
        center: Name of the tensor taken from every row, shape (hidden_size,).
        directions: Name of the tensor whose orthonormal rows are then projected out, shape
            (num_directions, hidden_size), or None.
        weight: From a query's clean row to what its token counts for before softplus, one output;
            None lets all tokens count alike.
        features: What the linear layers are given of a pair, in order.
    """

    center: str
    directions: str | None
    weight: DenseSpec | None
    features: tuple[MatchFeature, ...]


@dataclass(frozen=True, slots=True)
class MultiVectorSpec:
    """How token rows of two texts, projected by the head's layers, score a pair (MaxSim).

    Attributes:
        query_length: Most tokens of a query, special ones included; None for the body's limit.
        document_length: The same of a document.
        expansion_length: Tokens that a shorter query is filled up to; 0 fills none up.
        is_fixed: Whether longer queries are cut to `expansion_length`.
        expansion_token: What fills up.
        is_attended: Whether other tokens look at those that fill up; if not, these look at the
            others and not at each other.
        skipped_words: Pieces whose rows do not count.
        skips_queries: Whether that holds for queries.
        skips_documents: Whether that holds for documents.
        is_mean: Whether the sum is divided by the rows of the query that count.
        query_prefix: A marker before queries, one token even where its text would be several.
        document_prefix: The same before documents.
    """

    query_length: int | None = None
    document_length: int | None = None
    expansion_length: int = 0
    is_fixed: bool = True
    expansion_token: str = ""
    is_attended: bool = False
    skipped_words: tuple[str, ...] = ()
    skips_queries: bool = False
    skips_documents: bool = True
    is_mean: bool = False
    query_prefix: str = ""
    document_prefix: str = ""

    @property
    def markers(self) -> tuple[str, ...]:
        """Texts that the tokenizer must give as one token."""
        return tuple(text for text in (self.query_prefix, self.document_prefix) if text.strip())


@dataclass(frozen=True, slots=True)
class HeadSpec:
    """From token rows to one result row: pooling, linear layers, normalisation, activation.

    Attributes:
        pooling: Modes whose pooled rows are laid side by side; nearly always one. None, (), where
            `late_interaction` reads the token rows themselves.
        layers: Linear layers on the pooled row, or on the features of `late_interaction`.
        is_normalized: Whether rows are scaled to unit length at the end (vectors).
        activation: From logits to scores or probabilities; "identity" for vectors.
        labels: Name of each output, in order; empty for vectors.
        late_interaction: How pairs are compared by their token rows, instead of pooling; None for
            other heads.
        multi_vector: How pairs are compared by token rows that the layers project; None for other
            heads.
    """

    pooling: tuple[PoolingMode, ...]
    layers: tuple[DenseSpec, ...] = ()
    is_normalized: bool = False
    activation: Activation = "identity"
    labels: tuple[str, ...] = ()
    late_interaction: LateInteractionSpec | None = None
    multi_vector: MultiVectorSpec | None = None

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of its tensors in the checkpoint's own folder, each once."""
        layers = [layer for layer in self.layers if not layer.folder]
        names: list[str | None] = []
        if self.late_interaction is not None:
            names += [self.late_interaction.center, self.late_interaction.directions]
            layers += [self.late_interaction.weight] if self.late_interaction.weight else []
        names += [name for layer in layers for name in (layer.weight, layer.bias)]
        return tuple(dict.fromkeys(name for name in names if name is not None))


@dataclass(frozen=True, slots=True)
class PromptsSpec:
    """Texts that a checkpoint wants put before queries and documents.

    Attributes:
        by_name: Prompt of each name.
        default: Name of the prompt used when the caller names none, or None.
        origin: Where the prompts were found, for `polyrank info`.
    """

    by_name: Mapping[str, str] = field(default_factory=dict)
    default: str | None = None
    origin: str = "none"


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A checkpoint, ready to be run.

    Attributes:
        name: Hub id or folder name, as the caller gave it.
        folder: Folder on disk.
        body: Sizes and conventions of the encoder.
        heads: What the checkpoint can do.
        prompts: Texts put before queries and documents.
        max_length: Most tokens of a sequence, special tokens included.
        is_lowercased: Whether texts are lowercased before the tokenizer sees them.
        assumptions: What the folder leaves open and polyrank filled in, one sentence each.
        quantization: How the weights are stored, or None where they are floating-point numbers.
        first_stage_weights: What a standard deviation of first-stage scores counts for in the
            logit of a pair, by the kind of first stage; only where the caller gives such scores.
    """

    name: str
    folder: Path
    body: BodySpec
    heads: Mapping[TaskName, HeadSpec]
    prompts: PromptsSpec
    max_length: int
    is_lowercased: bool = False
    assumptions: tuple[str, ...] = ()
    quantization: QuantizationSpec | None = None
    first_stage_weights: Mapping[FirstStageKind, float] = field(default_factory=dict)

    @property
    def tasks(self) -> tuple[TaskName, ...]:
        """Tasks that the checkpoint has a head for."""
        return tuple(self.heads)

    def head(self, task: TaskName) -> HeadSpec:
        """Return the head of a task.

        Args:
            task: What is to be done.

        Returns:
            The checkpoint's head for it.

        Raises:
            CapabilityError: If the checkpoint has none.
        """
        if task not in self.heads:
            raise CapabilityError(
                f"{self.name} cannot {task}: its heads serve {', '.join(self.tasks) or 'nothing'}. "
                "Choose a checkpoint with such a head; `polyrank info MODEL` shows what one can do."
            )
        return self.heads[task]
