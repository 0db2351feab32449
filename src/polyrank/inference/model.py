"""A loaded checkpoint: weights, tokenizer and engine, shared by everything that names it.

`Reranker`, `Embedder` and `Classifier` are thin fronts over one `Model`; two that name the same
folder with the same engine settings share one, as long as the folder's files stay what they were.
"""

import os
import threading
import warnings
import weakref
from dataclasses import dataclass, replace
from pathlib import Path

from polyrank.checkpoint.hub import resolve
from polyrank.checkpoint.reader import Checkpoint, read_checkpoint
from polyrank.checkpoint.spec import ModelSpec
from polyrank.checkpoint.state import FolderState, folder_state
from polyrank.config import EngineConfig, TruncationConfig
from polyrank.encoder.base import Capabilities
from polyrank.encoder.choose import choose_encoder
from polyrank.encoder.paths import running_path
from polyrank.encoder.precision import choose_precision, float32_reason
from polyrank.engine.engine import Engine, Usage
from polyrank.engine.row_cache import RowCache
from polyrank.errors import CheckpointWarning
from polyrank.progress import Progress
from polyrank.tasks.heads import Head
from polyrank.text.pairs import SequenceBuilder
from polyrank.text.tokenizer import Tokenizer
from polyrank.types import Float32Array, PackedBatch, TaskName

ModelName = str | os.PathLike[str] | None

_shared: "weakref.WeakValueDictionary[tuple[FolderState, EngineConfig], Model]" = (
    weakref.WeakValueDictionary()
)
_shared_lock = threading.Lock()


class Model:
    """A checkpoint ready to run. Safe to use from several threads."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        tokenizer: Tokenizer,
        config: EngineConfig,
        *,
        plain: "Model | None" = None,
    ) -> None:
        """Take what was loaded.

        Args:
            checkpoint: Specification and weights.
            tokenizer: The checkpoint's.
            config: How sequences are batched and run.
            plain: A model of the same checkpoint and settings that keeps no rows, whose encoder
                this one shall use too; None makes its own.
        """
        self.checkpoint = checkpoint
        self.tokenizer = tokenizer
        self.config = config
        self._plain = plain
        self._engine: Engine | None = None
        self.is_told = False  # of what was assumed
        self._lock = threading.Lock()

    @property
    def engine(self) -> Engine:
        """The engine, made when first asked for: heads are checked before weights are packed."""
        with self._lock:
            if self._engine is None:
                config, plain = self.config, self._plain
                encoder = (
                    choose_encoder(self.checkpoint, config)
                    if plain is None
                    else plain.engine.encoder
                )
                rows = RowCache(config.row_cache_bytes) if config.row_cache_bytes else None
                self._engine = Engine(encoder, config.max_batch_tokens, rows)
            return self._engine

    @property
    def spec(self) -> ModelSpec:
        """What the checkpoint is and can do."""
        return self.checkpoint.spec

    def builder(self, truncation: TruncationConfig) -> SequenceBuilder:
        """Return a builder of sequences under a truncation setting."""
        return SequenceBuilder(
            self.tokenizer,
            truncation,
            model_limit=self.spec.max_length,
            has_segments=self.spec.body.type_vocab_size > 1,
        )

    def head(self, task: TaskName) -> Head:
        """Load the head of a task."""
        return Head.load(self.checkpoint, self.spec.head(task))

    def pair_heads(self, *, task: TaskName = "rerank") -> dict[TaskName, Head]:
        """Load the heads that score pairs, the one that gives the logits first.

        Args:
            task: "rerank", which embedders do as well, or "classify".

        Returns:
            What `pair_scorer` takes.

        Raises:
            CapabilityError: If the checkpoint cannot do the task.
        """
        is_embedder = "embed" in self.spec.heads and "rerank" not in self.spec.heads
        first: TaskName = "embed" if is_embedder and task == "rerank" else task
        heads = {first: self.head(first)}
        if heads[first].spec.late_interaction is not None:
            heads["embed"] = self.head("embed")
        return heads


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a loaded model is and does, for people and for `/info` pages.

    Attributes:
        name: Hub id or folder name.
        folder: Where it lies.
        task: What this front does.
        encoder: What computes, its precision and device.
        max_length: Tokens of a sequence, special tokens included.
        truncation: What is cut when a sequence is longer.
        activation: From logits to scores.
        labels: Names of the outputs.
        dimensions: Values of a vector; 0 where none are made.
        notes: Assumptions and departures from the checkpoint, one sentence each.
    """

    name: str
    folder: str
    task: TaskName
    encoder: Capabilities
    max_length: int
    truncation: TruncationConfig
    activation: str
    labels: tuple[str, ...]
    dimensions: int
    notes: tuple[str, ...]


def load_model(
    model: ModelName,
    config: EngineConfig,
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
) -> Model:
    """Load a checkpoint, or return the one already loaded with the same settings.

    Args:
        model: Local folder, Hub id, or None for the default model.
        config: How sequences are batched and run.
        revision: Branch, tag or commit on the Hub.
        cache_dir: The Hub's cache folder, if not the usual one.
        local_files_only: Whether to use only what is on this machine.

    Returns:
        The model; it is freed when nothing refers to it any more. Models that differ only in the
        rows that they keep have one encoder.

    Raises:
        CheckpointError: If the checkpoint cannot be used; subclasses say how.
        MissingExtraError: If no encoder is installed.

    Warns with `CheckpointWarning` of what the folder leaves open and had to be assumed.
    """
    folder, name = resolve(
        model, revision=revision, cache_dir=cache_dir, local_files_only=local_files_only
    )
    with _shared_lock:
        plain = _share(folder, name, replace(config, row_cache_bytes=0))
        loaded = _share(folder, name, config, plain) if config.row_cache_bytes else plain
    _tell_assumptions(plain)
    return loaded


def _tell_assumptions(model: Model) -> None:
    """Warn once for each loaded model, where the caller of `Reranker` and its like stands."""
    if not model.is_told:
        model.is_told = True
        for assumption in model.spec.assumptions:
            warnings.warn(f"{model.spec.name}: {assumption}", CheckpointWarning, stacklevel=4)


def _share(folder: Path, name: str, config: EngineConfig, plain: Model | None = None) -> Model:
    key = (folder_state(folder), config) if plain is None else (plain.checkpoint.state, config)
    loaded = _shared.get(key)
    if loaded is None:
        if plain is None:
            checkpoint = read_checkpoint(folder, name)
            loaded = Model(checkpoint, load_tokenizer(checkpoint), config)
            key = (checkpoint.state, config)
        else:
            loaded = Model(plain.checkpoint, plain.tokenizer, config, plain=plain)
        _shared[key] = loaded
    return loaded


def load_tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    """Load a checkpoint's tokenizer, and check that it fits the tables of its body.

    Args:
        checkpoint: The opened checkpoint.

    Returns:
        The tokenizer.

    Raises:
        CheckpointError: If the file cannot be used, or belongs to another checkpoint.
    """
    spec = checkpoint.spec
    heads = spec.heads.values()
    markers = [text for head in heads if head.multi_vector for text in head.multi_vector.markers]
    tokenizer = Tokenizer(
        checkpoint.tokenizer_file, is_lowercased=spec.is_lowercased, markers=markers
    )
    tokenizer.check_fits(spec.body.vocab_size, spec.body.type_vocab_size)
    return tokenizer


class Front:
    """What the public classes share: a model with a head, a truncation setting and counts."""

    _task: TaskName

    def __init__(self, model: Model, head: Head, truncation: TruncationConfig) -> None:
        self._model = model
        self._head = head
        self._truncation = truncation
        self._builder = model.builder(truncation)
        self._engine = model.engine
        self._num_truncated = 0
        self._lock = threading.Lock()

    @property
    def spec(self) -> ModelSpec:
        """What the checkpoint is and can do."""
        return self._model.spec

    @property
    def usage(self) -> Usage:
        """Work done by the loaded model so far, by all that share it."""
        return self._engine.usage

    @property
    def num_truncated(self) -> int:
        """Texts or pairs of this object that were longer than the model reads, so far."""
        return self._num_truncated

    def _count_truncated(self, count: int) -> None:
        with self._lock:
            self._num_truncated += count

    def _rows(self, batch: PackedBatch, progress: Progress | None) -> Float32Array:
        """Pooled rows for the head, shape (num_sequences, in_features)."""
        head = self._head
        return self._engine.run(batch, head.spec.pooling, head.in_features, progress)

    def _describe(self, activation: str, notes: tuple[str, ...] = ()) -> ModelInfo:
        spec, head = self.spec, self._head
        encoder = self._engine.encoder.capabilities
        checkpoint = self._model.checkpoint
        path = running_path() if encoder.name == "native" else ""
        choice = choose_precision(checkpoint, self._model.config.precision, path)
        if encoder.precision == "int8":
            notes += (f"Linear layers run in int8: {choice.reason}.",)
        elif choice.is_for_speed:
            notes += (f"Linear layers run in float32: {choice.reason}.",)
        elif spec.quantization is not None and encoder.name != "native":
            reason = float32_reason(checkpoint, choice, encoder.name)
            notes += (f"Linear layers run in float32: {reason}.",)
        return ModelInfo(
            name=spec.name,
            folder=str(spec.folder),
            task=self._task,
            encoder=encoder,
            max_length=self._builder.max_length,
            truncation=replace(self._truncation, max_length=self._builder.max_length),
            activation=activation,
            labels=head.spec.labels,
            dimensions=0 if head.spec.labels else head.out_features,
            notes=spec.assumptions + _late_interaction(head) + notes,
        )


def _late_interaction(head: Head) -> tuple[str, ...]:
    late, foreign = head.spec.late_interaction, head.spec.multi_vector
    if foreign is not None:
        how = "mean" if foreign.is_mean else "sum"
        return (f"Scores are the {how} over a query's tokens of their best products (MaxSim).",)
    if late is None:
        return ()
    features = ", ".join(late.features)
    return (f"Texts are read apart and compared token by token, by {features}.",)
