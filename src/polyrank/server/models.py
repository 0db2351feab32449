"""The models of a server: loaded, found by name, replaced without dropping requests.

What may be loaded is fixed at start: a request can name a model, never a folder or a Hub id.
"""

import hashlib
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from polyrank.checkpoint.hub import resolve
from polyrank.checkpoint.reader import read_checkpoint
from polyrank.checkpoint.spec import ModelSpec
from polyrank.config import EngineConfig, PassageConfig, TruncationConfig
from polyrank.errors import (
    CapabilityError,
    ConfigError,
    UnavailableError,
    UnknownModelError,
)
from polyrank.inference.computations import RunHead, ScorePairs, TokenRows, Window
from polyrank.inference.late_chunks import LateChunks, late_chunks
from polyrank.inference.model import Model, load_tokenizer
from polyrank.inference.passage_pairs import PassagePairs, kept_splits
from polyrank.inference.probabilities import least_probability
from polyrank.inference.window_means import WindowMeans
from polyrank.server.cutting import MAX_CHARACTERS, TruncationRequest
from polyrank.server.logs import log
from polyrank.server.settings import ModelSource, ServerSettings
from polyrank.tasks.heads import Head
from polyrank.text.prompts import choose_prompt
from polyrank.text.tokenizer import Tokenizer
from polyrank.types import InputType, TaskName


class ServedModel:
    """A loaded checkpoint under the name that requests call it by. Safe to use from threads."""

    def __init__(
        self,
        name: str,
        model: Model,
        *,
        is_truncating: bool,
        passages: PassageConfig | None = None,
    ) -> None:
        """Load the heads and the encoder.

        Args:
            name: The name.
            model: Checkpoint and tokenizer.
            is_truncating: Whether texts that are too long are cut where a request does not say.
            passages: How documents longer than the window are read where a request does not say;
                None cuts them.
        """
        self.name = name
        self.is_truncating = is_truncating
        self._passages = passages
        self._splits = kept_splits()
        self.loaded_at = int(time.time())
        self._model = model
        for task in model.spec.tasks:
            model.computations.head(task)  # a head that cannot be used must not wait for a request
        model.calibration  # noqa: B018  # nor must a broken file
        self.engine = model.engine
        if "rerank" in model.spec.tasks:
            self.ranker(TruncationRequest())  # nor a rule that it cannot follow
        self.fingerprint = self._fingerprint()

    @property
    def spec(self) -> ModelSpec:
        """What the checkpoint is and can do."""
        return self._model.spec

    @property
    def tokenizer(self) -> Tokenizer:
        """The checkpoint's tokenizer."""
        return self._model.tokenizer

    @property
    def model(self) -> Model:
        """Checkpoint, tokenizer and calibration."""
        return self._model

    @property
    def max_length(self) -> int:
        """Tokens of a sequence, special tokens included."""
        return self.spec.max_length

    @property
    def tasks(self) -> tuple[TaskName, ...]:
        """What requests can ask of it; embedders rank too, by cosine."""
        tasks = self.spec.tasks
        return ("rerank", *tasks) if "embed" in tasks and "rerank" not in tasks else tasks

    @property
    def dimensions(self) -> int:
        """Values of a whole vector; 0 where none are made."""
        if "embed" not in self.spec.heads:
            return 0
        return self._model.computations.head("embed").out_features

    def head(self, task: TaskName) -> Head:
        """Return the head of a task.

        Args:
            task: What is to be done.

        Returns:
            The head.

        Raises:
            CapabilityError: If the checkpoint has none.
        """
        if task not in self.spec.heads:
            self._refuse(task)
        return self._model.computations.head(task)

    def ranker(self, cut: TruncationRequest) -> ScorePairs | PassagePairs:
        """Return what scores pairs, as `Reranker` does: a cross-encoder, cosines, token rows.

        Args:
            cut: What is cut of texts that are too long.

        Returns:
            The computation of logits.

        Raises:
            CapabilityError: If the checkpoint can do neither.
            ConfigError: If `cut` leaves no room for texts; so do the others here.
        """
        self._check_task("rerank")
        pairs = self._model.computations.ranking(self._window(cut))
        if self._passages is None or not cut.is_reading_whole:
            return pairs
        config = replace(self._passages, max_passages_per_document=cut.max_passages)
        return PassagePairs(pairs, config, self._splits)

    def classifier(self, cut: TruncationRequest) -> ScorePairs | RunHead:
        """Return what labels texts and pairs: the classifier, or else the reranker's one label.

        Args:
            cut: As for `ranker`.

        Returns:
            The computation of logits; its head has the labels.

        Raises:
            CapabilityError: If the checkpoint has neither head.
        """
        heads = self.spec.heads
        task: TaskName = "rerank" if "rerank" in heads and "classify" not in heads else "classify"
        self._check_task(task)
        return self._model.computations.labels(task, self._window(cut))

    def embedder(self, cut: TruncationRequest, before: str = "") -> RunHead | WindowMeans:
        """Return what makes vectors.

        Args:
            cut: As for `ranker`.
            before: The prompt before each text.

        Returns:
            The computation of vectors.

        Raises:
            CapabilityError: If the checkpoint makes none.
        """
        self._check_task("embed")
        vectors = self._model.computations.vectors(self._window(cut))
        if self._passages is None or not cut.is_reading_whole:
            return vectors
        return WindowMeans(vectors, before, self._passages.max_tokens_per_document)

    def chunk_embedder(self, chunks: Sequence[str], before: str) -> LateChunks:
        """Return what makes the vectors of one text's chunks, each read with those around it.

        Args:
            chunks: The chunks, in order.
            before: The prompt before each window.

        Returns:
            The computation, whose items are the texts of its windows.

        Raises:
            CapabilityError: If the checkpoint makes no vectors, or not by the mean over tokens.
        """
        self._check_task("embed")
        return late_chunks(
            self._model.computations, self._window(TruncationRequest()), chunks, before
        )

    def token_embedder(self, cut: TruncationRequest) -> TokenRows:
        """Return what makes one row for each token.

        Args:
            cut: As for `ranker`.

        Returns:
            The computation.

        Raises:
            CapabilityError: If the checkpoint is not an embedder.
        """
        self._check_task("embed")
        return self._model.computations.token_rows(self._window(cut))

    def _check_task(self, task: TaskName) -> None:
        if task not in self.tasks:
            self._refuse(task)

    def _refuse(self, task: TaskName) -> NoReturn:
        able = ", ".join(self.tasks) or "nothing"
        raise CapabilityError(f"model {self.name!r} cannot {task}; it serves: {able}")

    def prompt(self, *, input_type: InputType | None, prompt_name: str | None) -> str:
        """Return what goes before each text.

        Args:
            input_type: "query" or "document".
            prompt_name: Name of one of the checkpoint's prompts.

        Returns:
            The prompt, often "".

        Raises:
            ConfigError: If both are given, or the checkpoint has no such prompt.
        """
        return choose_prompt(self.spec.prompts, input_type=input_type, prompt_name=prompt_name)

    def _window(self, cut: TruncationRequest) -> Window:
        longest = None if cut.max_length is None else min(cut.max_length, self.max_length)
        return Window(TruncationConfig(longest), cut.side, MAX_CHARACTERS)

    def _fingerprint(self) -> str:
        """Return a hash of the state of all files that decide a result, as they were when read."""
        decisive = (self._model.checkpoint.state, self._model.config)
        return hashlib.sha256(repr(decisive).encode()).hexdigest()[:40]


@dataclass(frozen=True, slots=True)
class ModelState:
    """What the admin page says of a model.

    Attributes:
        name: Its name.
        is_loaded: Whether requests can use it.
        is_loading: Whether it is being loaded now.
        tasks: What it can do, where it is loaded.
        fingerprint: Hash of its files, where it is loaded.
    """

    name: str
    is_loaded: bool
    is_loading: bool
    tasks: tuple[str, ...] = ()
    fingerprint: str = ""


class Registry:
    """The served models by name. Safe to use from threads."""

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings
        self._sources = {source.name: source for source in settings.models}
        self._loaded: dict[str, ServedModel] = {}
        self._loading: set[str] = set()
        self._lock = threading.Lock()

    @property
    def loaded(self) -> tuple[ServedModel, ...]:
        """The loaded models, in the order in which they were named at start."""
        loaded = self._loaded
        return tuple(loaded[name] for name in self._sources if name in loaded)

    def row_cache_bytes(self) -> int:
        """Return how many bytes of token rows the loaded models keep."""
        caches = (served.engine.row_cache for served in self.loaded)
        return sum(cache.num_bytes for cache in caches if cache is not None)

    def states(self) -> list[ModelState]:
        """Return the state of every model that was named at start."""
        found = []
        for name in self._sources:
            served = self._loaded.get(name)
            is_loading = name in self._loading
            if served is None:
                found.append(ModelState(name, False, is_loading))
            else:
                state = ModelState(name, True, is_loading, served.tasks, served.fingerprint)
                found.append(state)
        return found

    def load_all(self) -> None:
        """Load every model that was to be loaded at start."""
        for source in self._sources.values():
            if source.is_loaded_at_start:
                self.load(source.name)

    def load(self, name: str) -> ServedModel:
        """Load a model and serve it; see `make` and `publish`."""
        with self.loading(name) as source:
            served = self.make(source)
            self.publish(served)
            return served

    @contextmanager
    def loading(self, name: str) -> Iterator[ModelSource]:
        """Keep others from loading the same model within the block.

        Args:
            name: One of the names given at start.

        Yields:
            Where the model comes from.

        Raises:
            UnknownModelError: If the name was not given at start.
            UnavailableError: If it is being loaded already.
        """
        source = self._source(name)
        with self._lock:
            if name in self._loading:
                raise UnavailableError(f"model {name!r} is being loaded already")
            self._loading.add(name)
        try:
            yield source
        finally:
            with self._lock:
                self._loading.discard(name)

    def publish(self, served: ServedModel) -> ServedModel | None:
        """Serve a model from now on; requests under way keep the one of its name before.

        Args:
            served: The model.

        Returns:
            The one that it replaces, if there is one.
        """
        with self._lock:
            before = self._loaded.get(served.name)
            self._loaded = {**self._loaded, served.name: served}
        return before

    def unload(self, name: str) -> ServedModel:
        """Take a model out; its memory is freed when requests under way have ended.

        Args:
            name: Name of a loaded model.

        Returns:
            The model that was loaded.

        Raises:
            UnknownModelError: If it is not loaded.
            ConfigError: If it is the last one.
        """
        self._source(name)
        with self._lock:
            if name not in self._loaded:
                raise UnknownModelError(f"model {name!r} is not loaded")
            if len(self._loaded) == 1:
                raise ConfigError(
                    f"model {name!r} is the only one loaded; load another before, or stop the "
                    "server"
                )
            loaded = dict(self._loaded)
            served = loaded.pop(name)
            self._loaded = loaded
        return served

    def find(self, name: str | None, task: TaskName) -> ServedModel:
        """Return the model that a request means.

        Args:
            name: What the request calls it, if anything.
            task: What is to be done.

        Returns:
            The model of that name; without a name, the first that has a head for the task, or
            else the first that can do it (embedders rank by cosine). Clients of hosted services
            send names of models that are not here: such a name means the one model for the
            task, if there is only one and the server is not strict.

        Raises:
            UnknownModelError: If there is no such model.
            CapabilityError: If no loaded model can do the task.
        """
        loaded = self._loaded
        if name is not None and name in loaded:
            return loaded[name]
        if name is not None and name in self._sources:
            raise UnavailableError(f"model {name!r} is not loaded at present")
        # those with a head for it before those that can do it in another way
        own = [served for served in self.loaded if task in served.spec.tasks]
        able = own or [served for served in self.loaded if task in _requestable(served)]
        if name is None or (len(able) == 1 and not self._settings.is_strict_about_names):
            return able[0] if able else self._refuse(task)
        raise UnknownModelError(
            f"model {name!r:.220} is not served here; this server has: {', '.join(loaded)}"
        )

    def _refuse(self, task: TaskName) -> ServedModel:
        served = "; ".join(f"{model.name}: {', '.join(model.tasks)}" for model in self.loaded)
        raise CapabilityError(f"no model of this server can {task} ({served})")

    def _source(self, name: str) -> ModelSource:
        if name not in self._sources:
            raise UnknownModelError(
                f"model {name!r:.220} was not named when the server was started; it knows: "
                f"{', '.join(self._sources)}"
            )
        return self._sources[name]

    def make(self, source: ModelSource) -> ServedModel:
        """Load a model, without serving it yet.

        Args:
            source: Where it comes from.

        Returns:
            The model.

        Raises:
            CheckpointError: If the checkpoint cannot be used.
        """
        settings = self._settings
        config = EngineConfig(
            settings.encoder,
            settings.max_batch_tokens,
            settings.num_threads,
            settings.device,
            settings.compute_dtype,  # type: ignore[arg-type] # EngineConfig checks it
            settings.row_cache_bytes,
        )
        # not `load_model`, which would give back the model already loaded from this folder
        folder, name = resolve(source.model, revision=settings.revision)
        checkpoint = read_checkpoint(folder, name)
        for assumption in checkpoint.spec.assumptions:
            log(logging.WARNING, assumption, model=source.name)
        model = Model(checkpoint, load_tokenizer(checkpoint), config)
        served = ServedModel(
            source.name,
            model,
            is_truncating=settings.auto_truncate,
            passages=settings.passages,
        )
        if "rerank" in served.tasks:
            least_probability(model, settings.min_probability)  # or no ranking could be answered
        return served


def _requestable(served: ServedModel) -> tuple[Any, ...]:
    # a reranker's single label can be asked for as a class, as TEI has it
    tasks = served.tasks
    return (*tasks, "classify") if "rerank" in served.spec.tasks else tasks
