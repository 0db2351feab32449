"""Broken checkpoints: a clear error that names file, tensor and remedy; never a crash."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from polyrank import Classifier, Embedder, Reranker
from polyrank.checkpoint.reader import read_checkpoint
from polyrank.checkpoint.weights import Weights
from polyrank.errors import (
    CapabilityError,
    CheckpointError,
    CheckpointNotFoundError,
    CorruptWeightsError,
    MissingWeightError,
    UnsafeWeightsError,
    UnsupportedArchitectureError,
)

Checkpoint = Callable[[str], Path]
DENSE = "roberta.encoder.layer.1.intermediate.dense.weight"


@pytest.fixture
def folder(checkpoint: Checkpoint, tmp_path: Path) -> Path:
    """A copy that may be broken."""
    return Path(shutil.copytree(checkpoint("bge-reranker-base"), tmp_path / "broken"))


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for key, value in changes.items():
        if value is None:
            config.pop(key, None)
        else:
            config[key] = value
    path.write_text(json.dumps(config))


def change_tensors(folder: Path, change: Callable[[dict[str, np.ndarray]], None]) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def rewrite_header(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    raw = path.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + length])
    change(header)
    new = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(new)) + new + raw[8 + length :])


def test_truncated_file(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4096])
    with pytest.raises(CorruptWeightsError, match=r"model\.safetensors is cut short: tensor '"):
        Reranker(folder)


@pytest.mark.parametrize("size", [0, 3, 8, 9])
def test_almost_empty_file(folder: Path, size: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CorruptWeightsError, match="not a whole safetensors file"):
        Reranker(folder)


def test_header_length_that_lies(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(struct.pack("<Q", 2**63) + path.read_bytes()[8:])
    with pytest.raises(CorruptWeightsError, match="says that its header takes"):
        Reranker(folder)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"shape": [10**9, 10**9]}, "contradicts itself"),
        ({"shape": [-1, 2]}, "describes tensor .* wrongly"),
        ({"shape": "wide"}, "describes tensor .* wrongly"),
        ({"data_offsets": [0, 10**15]}, "cut short"),
        ({"data_offsets": [100, 4]}, "contradicts itself"),
        ({"data_offsets": [True, 4]}, "describes tensor .* wrongly"),
        ({"data_offsets": 7}, "describes tensor .* wrongly"),
        ({"dtype": "F64"}, "contradicts itself"),
    ],
)
def test_header_that_lies(folder: Path, entry: dict[str, Any], message: str) -> None:
    rewrite_header(folder / "model.safetensors", lambda header: header[DENSE].update(entry))
    with pytest.raises(CorruptWeightsError, match=message) as error:
        Reranker(folder)
    assert DENSE in str(error.value)
    assert "model.safetensors" in str(error.value)


@pytest.mark.parametrize("header", [b"{ ", b"[1, 2]", b"\xff\xfe", b"[" * 50_000])
def test_header_that_is_no_object(folder: Path, header: bytes) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(64))
    with pytest.raises(CorruptWeightsError, match="not a JSON object"):
        Reranker(folder)


def test_unknown_type_of_unused_tensor_is_no_error(folder: Path) -> None:
    path = folder / "model.safetensors"

    name = "roberta.pooler.dense.bias"

    def add(header: dict[str, Any]) -> None:
        end = max(entry["data_offsets"][1] for key, entry in header.items() if key[0] != "_")
        header[name] = {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [end, end + 4]}

    rewrite_header(path, add)
    path.write_bytes(path.read_bytes() + bytes(4))
    assert name in Weights.open(folder)
    read_checkpoint(folder)


def test_integer_weights(folder: Path) -> None:
    def quantise(tensors: dict[str, np.ndarray]) -> None:
        tensors[DENSE] = tensors[DENSE].astype(np.int8)

    change_tensors(folder, quantise)
    with pytest.raises(CorruptWeightsError, match=r"holds I8 values.*unquantised"):
        Reranker(folder)


def test_missing_tensor(folder: Path) -> None:
    change_tensors(folder, lambda tensors: tensors.pop(DENSE))
    with pytest.raises(MissingWeightError, match="download it again") as error:
        Reranker(folder)
    assert DENSE in str(error.value)


def test_missing_head(folder: Path) -> None:
    change_tensors(folder, lambda tensors: tensors.pop("classifier.out_proj.weight"))
    with pytest.raises(MissingWeightError, match=r"classifier\.out_proj\.weight"):
        Reranker(folder)


def test_wrong_shape(folder: Path) -> None:
    change_config(folder, intermediate_size=128)
    with pytest.raises(CorruptWeightsError, match=r"has shape \[96, 64\].*needs \[128, 64\]"):
        Reranker(folder)


def test_labels_that_do_not_fit_the_head(folder: Path) -> None:
    change_config(folder, id2label={"0": "no", "1": "yes"})
    with pytest.raises(CheckpointError, match=r"gives 1 values but config\.json names 2 labels"):
        Classifier(folder)


@pytest.mark.parametrize("encoder", ["native", "onnx", "pytorch"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nonfinite_weights(folder: Path, value: float, encoder: str) -> None:
    def spoil(tensors: dict[str, np.ndarray]) -> None:
        tensors[DENSE][3, 4] = value

    change_tensors(folder, spoil)
    reranker = Reranker(folder, encoder=encoder)
    with pytest.raises(CorruptWeightsError) as error:
        reranker.score([("a", "b")])
    assert DENSE in str(error.value)
    assert "model.safetensors" in str(error.value)


@pytest.mark.parametrize(
    "key",
    [
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "vocab_size",
        "max_position_embeddings",
    ],
)
def test_config_without_a_needed_key(folder: Path, key: str) -> None:
    change_config(folder, **{key: None})
    with pytest.raises(CheckpointError, match=rf"config\.json lacks the key '{key}'"):
        Reranker(folder)


@pytest.mark.parametrize("value", [0, -3, "many", 2.5, True, [4]])
def test_config_with_an_impossible_size(folder: Path, value: Any) -> None:
    change_config(folder, num_hidden_layers=value)
    with pytest.raises(CheckpointError, match="whole number above 0"):
        Reranker(folder)


def test_heads_that_do_not_divide(folder: Path) -> None:
    change_config(folder, num_attention_heads=5)
    with pytest.raises(CheckpointError, match="multiple"):
        Reranker(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": "gpt2"},
        {"model_type": "modernbert"},
        {"position_embedding_type": "relative_key"},
        {"is_decoder": True},
        {"hidden_act": "laplace"},
        {"quantization_config": {"bits": 4}},
    ],
)
def test_unknown_architecture(folder: Path, changes: dict[str, Any]) -> None:
    change_config(folder, **changes)
    with pytest.raises(UnsupportedArchitectureError, match=r"config\.json"):
        Reranker(folder)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "\ufeff{}"])
def test_config_that_is_no_object(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content, "utf8")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        Reranker(folder)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [("tokenizer.json", "save_pretrained"), ("config.json", "Files"), ("model.safetensors", "")],
)
def test_missing_file(folder: Path, name: str, remedy: str) -> None:
    (folder / name).unlink()
    with pytest.raises(CheckpointNotFoundError, match=f"no {name}.*{remedy}"):
        Reranker(folder)


def test_tokenizer_that_is_none(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is not a tokenizer"):
        Reranker(folder)


def test_tokenizer_of_another_checkpoint(folder: Path) -> None:
    def cut(tensors: dict[str, np.ndarray]) -> None:
        name = "roberta.embeddings.word_embeddings.weight"
        tensors[name] = tensors[name][:50].copy()

    change_tensors(folder, cut)
    change_config(folder, vocab_size=50)
    with pytest.raises(CheckpointError, match="only 50 rows"):
        Reranker(folder)


def test_pickle_is_refused_with_the_command_that_converts_it(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import subprocess
    import sys

    import torch
    from safetensors.torch import load_file as load_torch

    expected = Reranker(folder).score([("a", "b")])
    tensors = load_torch(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    with pytest.raises(UnsafeWeightsError, match="a pickle") as error:
        Reranker(folder)
    # the command in the message works as it stands
    code = str(error.value).split('python -c "', 1)[1].rsplit('"', 1)[0]
    subprocess.run([sys.executable, "-c", code], check=True)
    np.testing.assert_array_equal(Reranker(folder).score([("a", "b")]), expected)


def test_shard_that_is_missing_or_outside(folder: Path) -> None:
    whole = folder / "model.safetensors"
    index = folder / "model.safetensors.index.json"
    names = [name for name in Weights.open(folder)]
    whole.rename(folder / "model-00001-of-00002.safetensors")
    index.write_text(
        json.dumps({"weight_map": dict.fromkeys(names, "model-00002-of-00002.safetensors")})
    )
    with pytest.raises(MissingWeightError, match="model-00002-of-00002"):
        Reranker(folder)
    index.write_text(json.dumps({"weight_map": dict.fromkeys(names, "../else.safetensors")}))
    with pytest.raises(CorruptWeightsError, match="outside its folder"):
        Reranker(folder)
    index.write_text("{}")
    with pytest.raises(CorruptWeightsError, match="not an index"):
        Reranker(folder)


def test_modules_outside_the_folder(checkpoint: Checkpoint, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoint("multilingual-e5-small"), tmp_path / "st"))
    path = folder / "modules.json"
    modules = json.loads(path.read_text())
    modules[1]["path"] = "../elsewhere"
    path.write_text(json.dumps(modules))
    with pytest.raises(CheckpointError, match="outside the checkpoint"):
        Embedder(folder)


def test_module_that_is_unknown(checkpoint: Checkpoint, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoint("multilingual-e5-small"), tmp_path / "st"))
    path = folder / "modules.json"
    modules = json.loads(path.read_text())
    modules[1]["type"] = "evil.module.RunMe"
    path.write_text(json.dumps(modules))
    with pytest.raises(UnsupportedArchitectureError, match="RunMe"):
        Embedder(folder)


def test_no_such_model(tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFoundError, match="neither a folder"):
        Reranker(tmp_path / "nowhere")
    with pytest.raises(CheckpointNotFoundError, match="neither a folder"):
        Reranker("a/b/c")


def test_a_checkpoint_that_cannot(checkpoint: Checkpoint) -> None:
    with pytest.raises(CapabilityError, match="cannot embed"):
        Embedder(checkpoint("bge-reranker-base"))
    with pytest.raises(CapabilityError, match="cannot classify"):
        Classifier(checkpoint("multilingual-e5-small"))
    with pytest.raises(CapabilityError, match="cannot rerank"):
        Reranker(checkpoint("three-way-classifier"))


def test_any_prefix_of_a_file_is_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    raw = path.read_bytes()
    for size in np.linspace(0, len(raw) - 1, 40).astype(int):
        path.write_bytes(raw[:size])
        with pytest.raises(CorruptWeightsError):
            Weights.open(folder)
