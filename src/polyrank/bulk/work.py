"""What is computed of the rows of a partition: columns, by the library's own classes."""

from collections.abc import Sequence
from typing import Any, Protocol, cast

import numpy as np
import pyarrow as pa

from polyrank.bulk.settings import BulkSettings, JobSettings
from polyrank.checkpoint.gate import fingerprint
from polyrank.checkpoint.layouts import CALIBRATION_FILE
from polyrank.checkpoint.modules import Modules
from polyrank.checkpoint.reader import read_checkpoint
from polyrank.checkpoint.state import settings_fingerprint
from polyrank.inference.classifier import Classifier
from polyrank.inference.embedder import Embedder
from polyrank.inference.model import Front
from polyrank.inference.reranker import Reranker
from polyrank.progress import Progress

Item = str | tuple[str, str]


class Work(Protocol):
    """A loaded model with a task."""

    @property
    def front(self) -> Front:
        """The public class that computes."""
        ...

    @property
    def fields(self) -> list[pa.Field]:
        """The columns that it adds."""
        ...

    def compute(self, items: Sequence[Item], progress: Progress | None = None) -> list[pa.Array]:
        """Return the columns of some texts or pairs, in input order."""
        ...


def _engine(settings: JobSettings, run: BulkSettings) -> dict[str, Any]:
    """Return how a model computes, by the names of the arguments that all three classes take."""
    return {
        "max_length": settings.max_length,
        "encoder": settings.encoder,
        "num_threads": run.num_threads,
        "max_batch_tokens": run.max_batch_tokens,
        "device": run.device,
        "compute_dtype": settings.compute_dtype,
        "revision": settings.revision,
    }


class EmbedWork:
    """Vectors, in a column "embedding"."""

    def __init__(self, settings: JobSettings, run: BulkSettings) -> None:
        self.front = Embedder(settings.model, **_engine(settings, run))
        self._settings = settings
        probe = self._vectors(["a"], None)
        kind = pa.list_(pa.from_numpy_dtype(probe.dtype), probe.shape[1])
        self.fields = [pa.field("embedding", kind)]

    def _vectors(self, texts: Sequence[str], progress: Progress | None) -> np.ndarray[Any, Any]:
        own = self._settings
        is_half = own.output_dtype == "float16"
        vectors = self.front.encode(
            texts,
            input_type=own.input_type if own.prompt is None else None,
            prompt=own.prompt,
            dimensions=own.dimensions,
            output_dtype="float32" if own.output_dtype == "float16" else own.output_dtype,
            progress=progress,
        )
        return vectors.astype(np.float16) if is_half else vectors

    def compute(self, items: Sequence[Item], progress: Progress | None = None) -> list[pa.Array]:
        """Return one vector a text."""
        if not items:
            return [pa.array([], self.fields[0].type)]
        vectors = self._vectors([item for item in items if isinstance(item, str)], progress)
        return [pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])]


class RerankWork:
    """Scores of pairs, in a column "score"; "probability" beside it where there is one."""

    def __init__(self, settings: JobSettings, run: BulkSettings) -> None:
        self.front = Reranker(settings.model, **_engine(settings, run))
        self.fields = [pa.field("score", pa.float32())]
        if self.front.is_calibrated:
            self.fields.append(pa.field("probability", pa.float64()))

    def compute(self, items: Sequence[Item], progress: Progress | None = None) -> list[pa.Array]:
        """Return the score of each pair."""
        if not items:
            return [pa.array([], column.type) for column in self.fields]
        pairs = cast(Sequence[tuple[str, str]], items)
        scores, probabilities = self.front.score_with_probabilities(pairs, progress=progress)
        columns: list[Any] = [scores, *([] if probabilities is None else [probabilities])]
        return [pa.array(column) for column in columns]


class ClassifyWork:
    """Labels, in columns "label", "label_score" and "probabilities"."""

    def __init__(self, settings: JobSettings, run: BulkSettings) -> None:
        self.front = Classifier(settings.model, **_engine(settings, run))
        shares = pa.struct([pa.field(label, pa.float64()) for label in self.front.labels])
        self.fields = [
            pa.field("label", pa.string()),
            pa.field("label_score", pa.float64()),
            pa.field("probabilities", shares),
        ]
        if self.front.is_calibrated:
            self.fields += [
                pa.field("probability", pa.float64()),
                pa.field("calibrated_probabilities", shares),
            ]

    def compute(self, items: Sequence[Item], progress: Progress | None = None) -> list[pa.Array]:
        """Return the label of each text or pair."""
        results = self.front.classify(cast(Any, items), progress=progress) if items else []
        columns: list[list[Any]] = [
            [each.label for each in results],
            [each.score for each in results],
            [dict(each.probabilities) for each in results],
            [each.probability for each in results],
            [each.calibrated_probabilities for each in results],
        ]
        return [pa.array(values, f.type) for values, f in zip(columns, self.fields, strict=False)]


WORKS: dict[str, type[EmbedWork] | type[RerankWork] | type[ClassifyWork]] = {
    "embed": EmbedWork,
    "rerank": RerankWork,
    "classify": ClassifyWork,
}


def load(settings: JobSettings, run: BulkSettings) -> Work:
    """Load the model of a job.

    Args:
        settings: The job's.
        run: How it is run.

    Returns:
        What computes its partitions.

    Raises:
        CheckpointError: If the checkpoint cannot be used.
        CapabilityError: If it cannot do the task.
        ConfigError: If a setting does not fit.
    """
    return WORKS[settings.task](settings, run)


def identity(work: Work) -> dict[str, str]:
    """Return what of a loaded model decides an output: files by hashes, and what runs."""
    spec = work.front.spec
    checkpoint = read_checkpoint(spec.folder, spec.name)
    found = {
        "model": spec.name,
        "weights_sha256": fingerprint(checkpoint.weights.paths),
        "settings_sha256": settings_fingerprint(Modules(spec.folder), checkpoint.tokenizer_file),
        **running(work),
    }
    calibration = spec.folder / CALIBRATION_FILE
    if calibration.is_file() and not isinstance(work, EmbedWork):
        found["calibration"] = calibration.read_text("utf8")
    return found


def running(work: Work) -> dict[str, str]:
    """Return what runs a loaded model, where "auto" has become a name: encoder, compute dtype."""
    capabilities = work.front.engine_capabilities
    return {"encoder": capabilities.name, "compute_dtype": capabilities.compute_dtype}
