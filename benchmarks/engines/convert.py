"""Conversion of a checkpoint into what each peer reads, once a folder. Needs torch."""

import gzip
import json
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engines.batching import Tokens

if TYPE_CHECKING:
    from collections.abc import Callable

CALIBRATION_TEXTS = 300
SOURCES = ("piaf", "okanvk-tr", "cmrc2018", "arcd", "jaquad", "medquad")


def calibration_pairs(data: Path, seed: int) -> list[tuple[str, str]]:
    """Return pairs in six languages from the training data, half relevant and half not."""
    chooser = random.Random(seed)
    pairs = []
    for source in SOURCES:
        texts = {row["id"]: row["text"] for row in _rows(data, f"{source}.passages")}
        names = list(texts)
        rows = [row for row in _rows(data, source) if row["positives"]]
        for at, row in enumerate(chooser.sample(rows, CALIBRATION_TEXTS // len(SOURCES))):
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


def _onnx(folder: Path, out: Path) -> None:
    import torch
    from onnxruntime.transformers import optimizer

    raw = out.with_name("raw") / "model.onnx"
    raw.parent.mkdir(exist_ok=True)
    # the TorchScript exporter and eager attention: the patterns that the fusions know
    torch.onnx.export(
        _model(folder, "eager"), _example(), str(raw), dynamo=False, opset_version=18,
        input_names=["input_ids", "attention_mask"], output_names=["logits"],
        dynamic_axes={
            "input_ids": {0: "batch", 1: "length"},
            "attention_mask": {0: "batch", 1: "length"},
            "logits": {0: "batch"},
        },
    )  # fmt: skip
    config = json.loads((folder / "config.json").read_text("utf8"))
    fused = optimizer.optimize_model(
        str(raw), model_type="bert", opt_level=0,
        num_heads=config["num_attention_heads"], hidden_size=config["hidden_size"],
    )  # fmt: skip
    counts = fused.get_fused_operator_statistics()
    if counts["Attention"] != config["num_hidden_layers"]:
        raise RuntimeError(f"the attention layers were not fused: {counts}")
    large = raw.stat().st_size < 1 << 28  # then the weights lie beside it: above 2 GB
    fused.save_model_to_file(str(out), use_external_data_format=large)
    for path in raw.parent.iterdir():
        path.unlink()
    raw.parent.rmdir()


def _onnx_int8(folder: Path, out: Path) -> None:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    source = ensure("ort-float32.onnx", folder, out.parent, Path(), 0)
    quantize_dynamic(
        str(source), str(out), per_channel=True, weight_type=QuantType.QInt8,
        op_types_to_quantize=["MatMul", "Attention", "Gemm"],
        # the fused operators are unknown to shape inference
        extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
        use_external_data_format=source.with_name(source.name + ".data").is_file(),
    )  # fmt: skip


def _openvino(folder: Path, out: Path) -> None:
    import openvino

    ids, mask = _example()
    model = openvino.convert_model(
        _model(folder, "sdpa"), example_input={"input_ids": ids, "attention_mask": mask},
        input=[("input_ids", [-1, -1], np.int64), ("attention_mask", [-1, -1], np.int64)],
    )  # fmt: skip
    openvino.save_model(model, out, compress_to_fp16=False)


def _openvino_int8(folder: Path, out: Path, data: Path, seed: int) -> None:
    import nncf
    import openvino
    from tokenizers import Tokenizer

    source = ensure("openvino-float32.xml", folder, out.parent, data, seed)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(512)

    def inputs(pair: tuple[str, str]) -> dict[str, Tokens]:
        ids = np.array([tokenizer.encode(*pair).ids])
        return {"input_ids": ids, "attention_mask": np.ones_like(ids)}

    dataset = nncf.Dataset(calibration_pairs(data, seed), inputs)
    model = nncf.quantize(
        openvino.Core().read_model(source), dataset, subset_size=CALIBRATION_TEXTS,
        model_type=nncf.ModelType.TRANSFORMER,
    )  # fmt: skip
    openvino.save_model(model, out, compress_to_fp16=False)


def _ctranslate2(folder: Path, out: Path) -> None:
    from ctranslate2.converters import TransformersConverter

    TransformersConverter(str(folder)).convert(str(out), force=True)


def ensure(name: str, folder: Path, converted: Path, data: Path, seed: int) -> Path:
    """Convert a checkpoint unless that was done before.

    Args:
        name: What a peer `needs`.
        folder: The checkpoint.
        converted: Where conversions are kept.
        data: The data folder, for calibration.
        seed: Of the choice of calibration texts.

    Returns:
        File or folder of the conversion.
    """
    out = converted / name
    if out.exists():
        return out
    converted.mkdir(parents=True, exist_ok=True)
    makers: dict[str, Callable[[], None]] = {
        "ort-float32.onnx": lambda: _onnx(folder, out),
        "ort-int8.onnx": lambda: _onnx_int8(folder, out),
        "openvino-float32.xml": lambda: _openvino(folder, out),
        "openvino-int8.xml": lambda: _openvino_int8(folder, out, data, seed),
        "ctranslate2": lambda: _ctranslate2(folder, out),
    }
    makers[name]()
    return out


if __name__ == "__main__":
    import sys

    ensure(sys.argv[1], *(Path(part) for part in sys.argv[2:5]), int(sys.argv[5]))
