"""The checkpoint that every server loads, as each wants it on disk."""

from dataclasses import dataclass
from pathlib import Path

from engines.checkpoints import small
from engines.convert import ensure

from polyrank.checkpoint.hub import base_model_folder, cache_folder
from serving.servers import with_onnx


@dataclass(frozen=True)
class Folders:
    """One reranker in two folders.

    Attributes:
        plain: As transformers saves it.
        onnx: The same with an int8 ONNX graph, fused and quantised as `make bench-engines` does.
    """

    plain: Path
    onnx: Path


def prepare(data: Path, scratch: Path, seed: int) -> Folders:
    """Make what is not in the cache of benchmarks yet; it is the model of `make bench-engines`.

    Args:
        data: The data folder, for calibration.
        scratch: Where the folder of links may be made.
        seed: Of the model's head.

    Returns:
        Both folders.
    """
    cache = cache_folder() / "benchmarks"
    cache.mkdir(parents=True, exist_ok=True)
    plain = small(base_model_folder(), cache / f"multilingual-e5-small-{seed}", seed).resolve()
    converted = cache / "converted" / plain.name
    graph = ensure("ort-int8", plain, converted, data, seed) / "model.onnx"
    return Folders(plain, with_onnx(plain, graph, scratch / "onnx"))
