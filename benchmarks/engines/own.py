"""Adapters of polyrank's own encoders; its engine plans the batches."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from engines.adapter import THREADS, Logits, Pair, Peer
from engines.batching import BUDGETS, Batching, Tokens


class UnavailableError(Exception):
    """An encoder cannot run here; the message says why."""


class Polyrank(Peer):
    """polyrank's own encoders, its engine planning the batches."""

    name = "polyrank"
    precision = "float32"
    lane_choices = (1,)
    encoder: ClassVar[str]
    settings: ClassVar[dict[str, Any]] = {}

    @classmethod
    def budgets(cls) -> tuple[int, ...]:
        """Return token budgets alone: polyrank sorts by itself."""
        return (*BUDGETS, 16384)

    def load(self, folder: Path, source: Path) -> None:
        """Load a reranker."""
        from polyrank import Reranker
        from polyrank.errors import ConfigError, MissingExtraError

        try:
            self._reranker = Reranker(
                source, encoder=self.encoder, num_threads=THREADS, **self.settings
            )
        except (ConfigError, MissingExtraError, TypeError) as exc:
            raise UnavailableError(str(exc)) from exc

    def run(self, sequences: Sequence[Tokens], batching: Batching) -> Logits:
        """Run packed sequences by the engine behind the reranker, then its head."""
        from polyrank.types import PackedBatch

        reranker: Any = self._reranker  # below the public face, which takes texts
        engine, head = reranker._engine, reranker._head
        engine.max_batch_tokens = max(batching.budget, 1)
        ends = np.cumsum([0, *map(len, sequences)], dtype=np.int32)
        batch = PackedBatch(np.concatenate(sequences).astype(np.int32), ends)
        return head(engine.run(batch, head.spec.pooling, head.in_features, None))[:, 0]

    def first_score(self, folder: Path, converted: Path, pair: Pair) -> float:
        """Load and score one pair."""
        self.prepare(folder, converted)
        return float(self._reranker.score([pair], logits=True)[0])


class PolyrankOnnx(Polyrank):
    """ONNX Runtime on polyrank's own graph."""

    name = "polyrank onnx"
    encoder = "onnx"


class PolyrankPytorch(Polyrank):
    """polyrank's PyTorch encoder."""

    name = "polyrank pytorch"
    encoder = "pytorch"


class PolyrankNative(Polyrank):
    """The native encoder."""

    name = "polyrank native"
    encoder = "native"
    usual = Batching(16384)
    settings: ClassVar[dict[str, Any]] = {"compute_dtype": "float32"}


class PolyrankNativeBf16(PolyrankNative):
    """The native encoder in bfloat16, from the checkpoint as it is."""

    precision = "bfloat16"
    settings: ClassVar[dict[str, Any]] = {"compute_dtype": "bfloat16"}


class PolyrankNativeInt8(PolyrankNative):
    """The native encoder in int8, from a folder as `polyrank compress quantize` writes it."""

    precision = "int8"
    needs = "polyrank-int8"
    settings: ClassVar[dict[str, Any]] = {"compute_dtype": "int8"}


class PolyrankNativeBlocks(PolyrankNativeInt8):
    """The same from linear layers in 4-bit blocks, as the default model is stored."""

    name = "polyrank native, 4-bit blocks"
    needs = "polyrank-int4"
