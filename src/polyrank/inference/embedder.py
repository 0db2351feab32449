"""`Embedder`: vectors of texts for semantic search."""

import os
from collections.abc import Iterable
from typing import Any, get_args, overload

import numpy as np
from numpy.typing import NDArray

from polyrank.config import (
    DEFAULT_MAX_BATCH_TOKENS,
    EngineConfig,
    TruncationConfig,
    check_choice,
    check_source,
)
from polyrank.inference.computations import Window
from polyrank.inference.foreign import ENCODE_HINTS, naming
from polyrank.inference.late_chunks import late_chunks, run_chunks
from polyrank.inference.model import Front, ModelInfo, ModelName, load_model
from polyrank.inference.window_means import WindowMeans, run_vectors
from polyrank.progress import Progress
from polyrank.tasks.embed import check_dimensions, finish_vectors
from polyrank.text.inputs import check_texts
from polyrank.text.prompts import choose_prompt
from polyrank.types import (
    ComputeDtype,
    Float32Array,
    InputType,
    LongTexts,
    Matrix,
    OutputDtype,
    Vector,
)


class Embedder(Front):
    """Turns texts into vectors. Safe to use from several threads."""

    _task = "embed"

    def __init__(
        self,
        model: ModelName = None,
        *,
        max_length: int | None = None,
        normalize: bool | None = None,
        encoder: str = "auto",
        num_threads: int | None = None,
        max_batch_tokens: int = DEFAULT_MAX_BATCH_TOKENS,
        device: str = "cpu",
        compute_dtype: ComputeDtype = "auto",
        long_texts: LongTexts = "mean",
        revision: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
    ) -> None:
        """Load a checkpoint; settings not named here are those of `Reranker`.

        Args:
            model: Local folder or Hub id; None takes the default model, which works offline.
            max_length: Tokens of a text, special tokens included; None takes the checkpoint's
                limit.
            normalize: Whether vectors get unit length; None does as the checkpoint says.
            encoder: Backend name, or "auto" for the best one installed.
            num_threads: Threads; None takes what this process may use.
            max_batch_tokens: Tokens in one forward pass, padding included.
            device: "cpu", or a device of the pytorch encoder.
            compute_dtype: "float32", "int8" or "bfloat16" (both native encoder only), or "auto":
                float32 unless the checkpoint carries a passed quality gate and int8 is quicker on
                this processor.
            long_texts: How a text is read that does not fit in the window: "mean" reads all of it,
                in windows whose vectors are averaged by their tokens; "truncate" cuts it, as the
                reference libraries do.
            revision: Branch, tag or commit on the Hub.
            cache_dir: The Hub's cache folder, if not the usual one.
            local_files_only: Whether to use only what is on this machine.

        Raises:
            CheckpointError: If the checkpoint cannot be used.
            CapabilityError: If it makes no vectors.
            ConfigError: If a setting does not fit.
            MissingExtraError: If no encoder is installed.
        """
        check_source(model, revision, cache_dir)
        check_choice("long_texts", long_texts, get_args(LongTexts))
        loaded = load_model(
            model,
            EngineConfig(encoder, max_batch_tokens, num_threads, device, compute_dtype),
            revision=revision,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
        )
        limits = TruncationConfig(max_length)
        self._is_reading_whole = long_texts == "mean"
        self._computation = loaded.computations.vectors(Window(limits))
        super().__init__(loaded, self._computation, limits)
        self._is_normalized = self._head.spec.is_normalized if normalize is None else normalize

    @property
    def dimensions(self) -> int:
        """Values of a whole vector."""
        return self._head.out_features

    @property
    def info(self) -> ModelInfo:
        """What is loaded, and what differs from the checkpoint."""
        notes: tuple[str, ...] = ()
        if self._is_normalized != self._head.spec.is_normalized:
            notes = ("normalize differs from what the checkpoint says.",)
        if self._is_reading_whole:
            notes += ("Texts longer than the window get the mean vector of their windows.",)
        return self._describe("identity", notes)

    @overload
    def encode(  # type: ignore[overload-overlap]  # a str is an iterable of str, too
        self,
        texts: str,
        *,
        input_type: InputType | None = ...,
        prompt_name: str | None = ...,
        prompt: str | None = ...,
        dimensions: int | None = ...,
        output_dtype: OutputDtype = ...,
        ranges: Float32Array | None = ...,
        progress: Progress | None = ...,
    ) -> Vector: ...

    @overload
    def encode(
        self,
        texts: Iterable[str],
        *,
        input_type: InputType | None = ...,
        prompt_name: str | None = ...,
        prompt: str | None = ...,
        dimensions: int | None = ...,
        output_dtype: OutputDtype = ...,
        ranges: Float32Array | None = ...,
        progress: Progress | None = ...,
    ) -> Matrix: ...

    @naming(ENCODE_HINTS)
    def encode(
        self,
        texts: str | Iterable[str],
        *,
        input_type: InputType | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        dimensions: int | None = None,
        output_dtype: OutputDtype = "float32",
        ranges: Float32Array | None = None,
        progress: Progress | None = None,
    ) -> NDArray[Any]:
        """Return one vector per text.

        Args:
            texts: Any number of texts, or a single one.
            input_type: "query" for questions, "document" (or "passage") for what is searched: puts
                the checkpoint's prompt of that purpose before each text. The E5 family needs it.
            prompt_name: Name of one of the checkpoint's prompts, instead of `input_type`.
            prompt: The prompt itself, instead of both.
            dimensions: Keep only the first values (for checkpoints trained so), scaled to unit
                length again where vectors are normalised.
            output_dtype: "float32", "int8", "uint8", "binary" or "ubinary"; see
                `polyrank.tasks.embed.quantize_vectors`.
            ranges: Lowest and highest value of each dimension for int8 and uint8, shape
                (2, dimensions).
            progress: Called with tokens done and tokens in all.

        Returns:
            Vectors in input order, shape (num_texts, dimensions), contiguous; of a single text
            its vector alone, shape (dimensions,).

        Raises:
            InputError: If a text cannot be read.
            ConfigError: If prompts or dimensions do not fit the checkpoint.
            EncoderError: If the encoder fails.
        """
        before = choose_prompt(
            self.spec.prompts, input_type=input_type, prompt_name=prompt_name, prompt=prompt
        )
        dimensions = check_dimensions(dimensions, self.dimensions)
        check_choice("output_dtype", output_dtype, get_args(OutputDtype))
        is_single = isinstance(texts, str)
        checked = check_texts([texts] if is_single else texts)
        reading = WindowMeans(self._computation, before)
        computation = reading if self._is_reading_whole else self._computation
        prepared, rows = run_vectors(computation, [before + text for text in checked], progress)
        self._count_truncated(prepared)
        vectors = finish_vectors(
            rows, dimensions, output_dtype, ranges, is_normalized=self._is_normalized
        )
        return vectors[0] if is_single else vectors

    def encode_chunks(
        self,
        chunks: Iterable[str],
        *,
        input_type: InputType | None = "document",
        dimensions: int | None = None,
        output_dtype: OutputDtype = "float32",
        progress: Progress | None = None,
    ) -> Matrix:
        """Return the vectors of one text's chunks, each read with those around it (late chunking).

        Args:
            chunks: The chunks, in the order of the text: sentences, paragraphs, passages.
            input_type: As for `encode`.
            dimensions: As for `encode`.
            output_dtype: As for `encode`.
            progress: Called with tokens done and tokens in all.

        Returns:
            Vectors in input order, shape (num_chunks, dimensions). Chunks are read together as
            far as the window holds them.

        Raises:
            InputError: If a chunk cannot be read.
            CapabilityError: If the checkpoint does not take the mean over tokens.
            ConfigError: If prompts or dimensions do not fit the checkpoint.
            EncoderError: If the encoder fails.

        Reference: Günther et al., arXiv:2409.04701 (late chunking).
        """
        before = choose_prompt(self.spec.prompts, input_type=input_type)
        dimensions = check_dimensions(dimensions, self.dimensions)
        check_choice("output_dtype", output_dtype, get_args(OutputDtype))
        checked = check_texts(chunks)
        window = Window(self._truncation)
        computation = late_chunks(self._model.computations, window, checked, before)
        rows = np.empty((0, self.dimensions), np.float32)
        if checked:
            prepared, rows = run_chunks(computation, progress)
            self._count_truncated(prepared)
        return finish_vectors(rows, dimensions, output_dtype, is_normalized=self._is_normalized)
