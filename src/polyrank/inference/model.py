"""A loaded checkpoint: weights, tokenizer and engine, shared by everything that names it.

`Reranker`, `Embedder` and `Classifier` are thin fronts over one `Model`; two that name the same
folder with the same engine settings share one, as long as the folder's files stay what they were.
"""

import os
import threading
import warnings
import weakref
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from polyrank.calibration.calibration import Calibration
from polyrank.calibration.reading import read_calibration
from polyrank.checkpoint.hub import resolve
from polyrank.checkpoint.reader import Checkpoint, read_checkpoint
from polyrank.checkpoint.spec import ModelSpec
from polyrank.checkpoint.state import FolderState, folder_state
from polyrank.config import EngineConfig, TruncationConfig
from polyrank.encoder.base import Capabilities
from polyrank.encoder.choose import choose_encoder
from polyrank.encoder.compute_dtype import choose_compute_dtype, float32_reason
from polyrank.encoder.paths import running_path
from polyrank.engine.engine import Engine, Usage
from polyrank.engine.row_cache import RowCache, SmallRowCache
from polyrank.errors import CheckpointWarning
from polyrank.inference.computations import Computations, Prepared, RunHead, ScorePairs
from polyrank.tasks.heads import Head
from polyrank.tasks.kept_rows import KeptRows, RowFormat
from polyrank.text.token_cache import TokenCache
from polyrank.text.tokenizer import Tokenizer
from polyrank.types import TaskName

ModelName = str | os.PathLike[str] | None

_shared: "weakref.WeakValueDictionary[tuple[FolderState, EngineConfig], Model]" = (
    weakref.WeakValueDictionary()
)
_shared_lock = threading.Lock()


class _LazyEngine:
    """Makes an engine when first asked for. Knows no model, which it would keep alive."""

    def __init__(self, checkpoint: Checkpoint, config: EngineConfig, plain: "Model | None") -> None:
        self._checkpoint, self._config, self._plain = checkpoint, config, plain
        self._engine: Engine | None = None
        self._lock = threading.Lock()

    def __call__(self) -> Engine:
        with self._lock:
            if self._engine is None:
                config, plain = self._config, self._plain
                encoder = (
                    choose_encoder(self._checkpoint, config)
                    if plain is None
                    else plain.engine.encoder
                )
                rows, small = _caches(config)
                self._engine = Engine(encoder, config.max_batch_tokens, rows, small)
            return self._engine


def _caches(config: EngineConfig) -> tuple[RowCache | None, SmallRowCache[KeptRows] | None]:
    """Return where token rows are kept, as they were read or made small; neither keeps both."""
    if not config.row_cache_bytes:
        return None, None
    if row_format(config).is_plain:
        return RowCache(config.row_cache_bytes), None
    return None, SmallRowCache(config.row_cache_bytes)


def row_format(config: EngineConfig) -> RowFormat:
    """Return how small a ranking makes documents' rows."""
    return RowFormat(config.row_pooling, config.row_dtype)


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
        self.is_told = False  # of what was assumed
        self._engine = _LazyEngine(checkpoint, config, plain)
        # beside the rows: who keeps no rows has more to do than tokens
        tokens = TokenCache(config.row_cache_bytes // 16) if config.row_cache_bytes else None
        self.computations = Computations(
            checkpoint, tokenizer, self._engine, row_format(config), tokens
        )

    @property
    def engine(self) -> Engine:
        """The engine, made when first asked for: heads are checked before weights are packed."""
        return self._engine()

    @property
    def spec(self) -> ModelSpec:
        """What the checkpoint is and can do."""
        return self.checkpoint.spec

    @cached_property
    def calibration(self) -> Calibration:
        """What the folder's calibration file holds, read when first asked for."""
        return read_calibration(self.checkpoint)


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a loaded model is and does, for people and for `/info` pages.

    Attributes:
        name: Hub id or folder name.
        folder: Where it lies.
        task: What this front does.
        encoder: What computes, its compute dtype and device.
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
        bare = replace(config, row_cache_bytes=0, row_pooling=1, row_dtype="float32")
        plain = _share(folder, name, bare)
        loaded = plain if config == bare else _share(folder, name, config, plain)
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

    def __init__(
        self, model: Model, computation: ScorePairs | RunHead, truncation: TruncationConfig
    ) -> None:
        self._model = model
        self._head = computation.head
        self._truncation = truncation
        self._max_length = computation.builder.max_length
        self._engine = computation.engine
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
    def engine_capabilities(self) -> Capabilities:
        """What computes: the encoder's name, compute dtype and device."""
        return self._engine.encoder.capabilities

    @property
    def is_calibrated(self) -> bool:
        """Whether results come with probabilities."""
        calibration = self._model.calibration
        own = calibration.classify if self._task == "classify" else calibration.rerank
        return own is not None and self._task != "embed"

    @property
    def num_truncated(self) -> int:
        """Texts or pairs of this object that were longer than the model reads, so far."""
        return self._num_truncated

    def _count_truncated(self, prepared: Prepared) -> None:
        with self._lock:
            self._num_truncated += int(np.count_nonzero(prepared.is_truncated))

    def _describe(self, activation: str, notes: tuple[str, ...] = ()) -> ModelInfo:
        spec, head = self.spec, self._head
        encoder = self._engine.encoder.capabilities
        checkpoint = self._model.checkpoint
        path = running_path() if encoder.name == "native" else ""
        choice = choose_compute_dtype(checkpoint, self._model.config.compute_dtype, path)
        if encoder.compute_dtype in ("int8", "bfloat16"):
            notes += (f"Linear layers run in {encoder.compute_dtype}: {choice.reason}.",)
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
            max_length=self._max_length,
            truncation=replace(self._truncation, max_length=self._max_length),
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
