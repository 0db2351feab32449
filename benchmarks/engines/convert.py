"""Conversion of a checkpoint into what each peer reads, once a folder. Needs torch."""

import gzip
import json
import random
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engines.batching import Tokens

if TYPE_CHECKING:
    from collections.abc import Callable

    from polyrank.checkpoint.spec import LinearType

CALIBRATION_TEXTS = 300
CALIBRATION_TEXTS_LARGE = 48  # a pass of XLM-R large takes ten times longer
LARGE_HIDDEN_SIZE = 1024
SOURCES = ("piaf", "okanvk-tr", "cmrc2018", "arcd", "jaquad", "medquad")


@dataclass(frozen=True, slots=True)
class Source:
    """What a conversion starts from.

    Attributes:
        folder: The checkpoint.
        converted: Where other conversions of it are.
        data: The data folder, for calibration.
        seed: Of the choice of calibration texts.
    """

    folder: Path
    converted: Path
    data: Path
    seed: int

    def config(self) -> dict[str, Any]:
        """Return the checkpoint's configuration."""
        return json.loads((self.folder / "config.json").read_text("utf8"))

    def converted_to(self, name: str) -> Path:
        """Return another conversion, made if need be."""
        return ensure(name, self.folder, self.converted, self.data, self.seed)


def calibration_pairs(data: Path, count: int, seed: int) -> list[tuple[str, str]]:
    """Return pairs in six languages from the training data, half relevant and half not."""
    chooser = random.Random(seed)
    pairs = []
    for source in SOURCES:
        texts = {row["id"]: row["text"] for row in _rows(data, f"{source}.passages")}
        names = list(texts)
        rows = [row for row in _rows(data, source) if row["positives"]]
        for at, row in enumerate(chooser.sample(rows, count // len(SOURCES))):
            name = row["positives"][0] if at % 2 else chooser.choice(names)
            pairs.append((row["query"], texts[name]))
    chooser.shuffle(pairs)
    return pairs


def _rows(data: Path, name: str) -> list[dict[str, Any]]:
    path = data / "train" / "qa" / f"{name}.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf8") as file:
        return [json.loads(line) for line in file]


def _model(folder: Path, attention: str) -> Any:
    from transformers import AutoModelForSequenceClassification

    return AutoModelForSequenceClassification.from_pretrained(
        folder, attn_implementation=attention
    ).eval()


def _example() -> Any:
    import torch

    return torch.ones(2, 16, dtype=torch.long), torch.ones(2, 16, dtype=torch.long)


def _onnx(source: Source, out: Path) -> None:
    import torch
    from onnxruntime.transformers import optimizer

    raw = out / "raw" / "model.onnx"
    raw.parent.mkdir()
    # the TorchScript exporter and eager attention: the patterns that the fusions know
    torch.onnx.export(
        _model(source.folder, "eager"), _example(), str(raw), dynamo=False, opset_version=18,
        input_names=["input_ids", "attention_mask"], output_names=["logits"],
        dynamic_axes={
            "input_ids": {0: "batch", 1: "length"},
            "attention_mask": {0: "batch", 1: "length"},
            "logits": {0: "batch"},
        },
    )  # fmt: skip
    config = source.config()
    fused = optimizer.optimize_model(
        str(raw), model_type="bert", opt_level=0,
        num_heads=config["num_attention_heads"], hidden_size=config["hidden_size"],
    )  # fmt: skip
    counts = fused.get_fused_operator_statistics()
    if counts["Attention"] != config["num_hidden_layers"]:
        raise RuntimeError(f"the attention layers were not fused: {counts}")
    large = raw.stat().st_size < 1 << 28  # then the weights lie beside it: above 2 GB
    fused.save_model_to_file(str(out / "model.onnx"), use_external_data_format=large)
    shutil.rmtree(raw.parent)


def _onnx_int8(source: Source, out: Path) -> None:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    float32 = source.converted_to("ort-float32") / "model.onnx"
    quantize_dynamic(
        str(float32), str(out / "model.onnx"), per_channel=True, weight_type=QuantType.QInt8,
        op_types_to_quantize=["MatMul", "Attention", "Gemm"],
        # the fused operators are unknown to shape inference
        extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
        use_external_data_format=float32.with_name("model.onnx.data").is_file(),
    )  # fmt: skip


def _openvino(source: Source, out: Path) -> None:
    import openvino

    ids, mask = _example()
    model = openvino.convert_model(
        _model(source.folder, "sdpa"), example_input={"input_ids": ids, "attention_mask": mask},
        input=[("input_ids", [-1, -1], np.int64), ("attention_mask", [-1, -1], np.int64)],
    )  # fmt: skip
    openvino.save_model(model, out / "model.xml", compress_to_fp16=False)


def _openvino_int8(source: Source, out: Path) -> None:
    import nncf
    import openvino
    from tokenizers import Tokenizer

    float32 = source.converted_to("openvino-float32") / "model.xml"
    tokenizer = Tokenizer.from_file(str(source.folder / "tokenizer.json"))
    tokenizer.enable_truncation(512)

    def inputs(pair: tuple[str, str]) -> dict[str, Tokens]:
        ids = np.array([tokenizer.encode(*pair).ids])
        return {"input_ids": ids, "attention_mask": np.ones_like(ids)}

    is_large = source.config()["hidden_size"] >= LARGE_HIDDEN_SIZE
    count = CALIBRATION_TEXTS_LARGE if is_large else CALIBRATION_TEXTS
    dataset = nncf.Dataset(calibration_pairs(source.data, count, source.seed), inputs)
    model = nncf.quantize(
        openvino.Core().read_model(float32), dataset, subset_size=count,
        model_type=nncf.ModelType.TRANSFORMER,
    )  # fmt: skip
    openvino.save_model(model, out / "model.xml", compress_to_fp16=False)


def _ctranslate2(source: Source, out: Path) -> None:
    from ctranslate2.converters import TransformersConverter

    with tempfile.TemporaryDirectory() as temporary:
        # the converter asks for a setting that transformers 5 no longer writes
        copy = Path(temporary)
        for path in source.folder.iterdir():
            (copy / path.name).symlink_to(path.resolve())
        (copy / "config.json").unlink()
        config = {**source.config(), "position_embedding_type": "absolute"}
        (copy / "config.json").write_text(json.dumps(config), "utf8")
        TransformersConverter(str(copy)).convert(str(out), force=True)


def _polyrank_int4(source: Source, out: Path) -> None:
    _polyrank_int8(source, out, "int4")


def _polyrank_int8(source: Source, out: Path, linears: "LinearType" = "int8") -> None:
    from polyrank.checkpoint.reader import read_checkpoint
    from polyrank.compress.quantize.writing import write_int8
    from polyrank.config import EngineConfig
    from polyrank.encoder.native import NativeEncoder
    from polyrank.encoder.smoothing import random_pieces

    checkpoint = read_checkpoint(source.folder)
    encoder = NativeEncoder(checkpoint, EngineConfig("native", compute_dtype="float32"))
    widths = encoder.measure_inputs(random_pieces(checkpoint.spec.body))
    write_int8(checkpoint, widths, out, linears=linears)


MAKERS: "dict[str, Callable[[Source, Path], None]]" = {
    "ort-float32": _onnx,
    "ort-int8": _onnx_int8,
    "openvino-float32": _openvino,
    "openvino-int8": _openvino_int8,
    "ctranslate2": _ctranslate2,
    "polyrank-int8": _polyrank_int8,
    "polyrank-int4": _polyrank_int4,
}


def ensure(name: str, folder: Path, converted: Path, data: Path, seed: int) -> Path:
    """Convert a checkpoint unless that was done before.

    Args:
        name: Key of `MAKERS`.
        folder: The checkpoint.
        converted: Where conversions are kept, a folder each.
        data: The data folder, for calibration.
        seed: Of the choice of calibration texts.

    Returns:
        Folder of the conversion.
    """
    done = converted / name
    if not done.is_dir():
        partial = converted / f"{name}.partial"  # what was interrupted must not look finished
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        MAKERS[name](Source(folder, converted, data, seed), partial)
        partial.rename(done)
    return done


if __name__ == "__main__":
    import sys

    ensure(sys.argv[1], *(Path(part) for part in sys.argv[2:5]), int(sys.argv[5]))
