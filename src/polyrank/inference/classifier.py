"""`Classifier`: labels with probabilities for texts or pairs."""

import os
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from polyrank.config import (
    DEFAULT_MAX_BATCH_TOKENS,
    EngineConfig,
    TruncationConfig,
    check_source,
)
from polyrank.inference.computations import Window, run
from polyrank.inference.model import Front, ModelInfo, ModelName, load_model
from polyrank.inference.probabilities import label_probabilities
from polyrank.progress import Progress
from polyrank.tasks.classify import classifications
from polyrank.text.inputs import as_list, check_pairs, check_texts
from polyrank.types import (
    Classification,
    ComputeDtype,
    Float32Array,
    TruncationStrategy,
)


class Classifier(Front):
    """Labels texts, or pairs of texts such as (query, passage). Safe to use from threads."""

    _task = "classify"

    def __init__(
        self,
        model: ModelName = None,
        *,
        max_length: int | None = None,
        truncation: TruncationStrategy = "longest_first",
        max_query_length: int | None = None,
        encoder: str = "auto",
        num_threads: int | None = None,
        max_batch_tokens: int = DEFAULT_MAX_BATCH_TOKENS,
        device: str = "cpu",
        compute_dtype: ComputeDtype = "auto",
        row_cache_bytes: int = 0,
        revision: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
    ) -> None:
        """Load a checkpoint.

        Args:
            model: Local folder or Hub id; None takes the default model.
            max_length: Tokens of a text or pair, special tokens included; None takes the
                checkpoint's limit.
            truncation: "longest_first" shortens the longer text of a pair; "only_second"
                shortens the second alone.
            max_query_length: Under "only_second", tokens that the first text may hold.
            encoder: Backend name, or "auto" for the best one installed.
            num_threads: Threads; None takes what this process may use.
            max_batch_tokens: Tokens in one forward pass, padding included.
            device: "cpu", or a device of the pytorch encoder.
            compute_dtype: "float32", "int8" or "bfloat16" (both native encoder only), or "auto":
                float32 unless the checkpoint carries a passed quality gate and int8 is quicker on
                this processor.
            row_cache_bytes: Most bytes of token rows to keep; 0 keeps none. Where a checkpoint
                compares texts token by token, as the default model does, a text that comes again
                is then not read again, and the results are the same. A text takes tokens x
                hidden_size x 4 bytes: 0.3 MB for 200 tokens of the default model.
            revision: Branch, tag or commit on the Hub.
            cache_dir: The Hub's cache folder, if not the usual one.
            local_files_only: Whether to use only what is on this machine.

        Raises:
            CheckpointError: If the checkpoint cannot be used.
            CapabilityError: If it has no classification head.
            ConfigError: If a setting does not fit.
            MissingExtraError: If no encoder is installed.
        """
        check_source(model, revision, cache_dir)
        loaded = load_model(
            model,
            EngineConfig(
                encoder, max_batch_tokens, num_threads, device, compute_dtype, row_cache_bytes
            ),
            revision=revision,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
        )
        limits = TruncationConfig(max_length, truncation, max_query_length)
        self._computation = loaded.computations.labels("classify", Window(limits))
        super().__init__(loaded, self._computation, limits)
        loaded.calibration  # noqa: B018  # a broken file must not wait for the first text

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels in the checkpoint's order."""
        return self._head.spec.labels

    @property
    def info(self) -> ModelInfo:
        """What is loaded."""
        return self._describe(self._head.spec.activation)

    def classify(
        self,
        inputs: Iterable[str | tuple[str, str]],
        *,
        progress: Progress | None = None,
    ) -> list[Classification]:
        """Return the label of each text or pair.

        Args:
            inputs: Texts, or pairs of texts; not both in one call. Any number.
            progress: Called with tokens done and tokens in all.

        Returns:
            Results in input order.

        Raises:
            InputError: If an input cannot be read, or is a text where the checkpoint's head
                compares two (late interaction).
            EncoderError: If the encoder fails.
        """
        logits, is_truncated = self._run(inputs, progress)
        scores, calibrated = self._head.activate(logits), label_probabilities(self._model, logits)
        return classifications(self.labels, scores, is_truncated, calibrated)

    def logits(
        self,
        inputs: Iterable[str | tuple[str, str]],
        *,
        progress: Progress | None = None,
    ) -> Float32Array:
        """Return raw outputs, shape (num_inputs, num_labels), dtype float32."""
        return self._run(inputs, progress)[0]

    def _run(
        self, inputs: Iterable[str | tuple[str, str]], progress: Progress | None
    ) -> tuple[Float32Array, NDArray[np.bool_]]:
        members = as_list(inputs, "inputs", "texts or pairs of texts")
        is_text = bool(members) and isinstance(members[0], str)
        items = check_texts(members, "inputs") if is_text else check_pairs(members, "inputs")
        prepared, logits = run(self._computation, items, progress)
        self._count_truncated(prepared)
        return logits, prepared.is_truncated
