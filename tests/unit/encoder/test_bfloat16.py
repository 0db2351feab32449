"""bfloat16 products: near to float32 on every path, by instructions or without."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from polyrank import Embedder, Reranker
from polyrank.checkpoint.reader import read_checkpoint
from polyrank.compress.quantize.writing import write_int8
from polyrank.config import EngineConfig
from polyrank.encoder.choose import choose_encoder, plan_encoder
from polyrank.encoder.paths import BFLOAT16_PATHS
from polyrank.encoder.smoothing import random_pieces
from polyrank.errors import ConfigError, CorruptWeightsError
from tests.batches import batch_of
from tests.texts import SENTENCES
from tests.tolerances import BFLOAT16_MEAN, BFLOAT16_WORST

native = pytest.importorskip("polyrank._native")
from polyrank.encoder.native import NativeEncoder  # noqa: E402

PATHS = native.usable_paths()
PAIRS = [(SENTENCES["en"], text) for text in SENTENCES.values()]
ASKED = EngineConfig("native", compute_dtype="bfloat16")


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("POLYRANK_ISA", request.param)
    return request.param


def converted(folder: Path, to: Path, dtype: torch.dtype) -> Path:
    """A copy of a folder whose weights are rounded to a type and stored in it."""
    shutil.copytree(folder, to)
    weights = load_file(to / "model.safetensors")
    save_file(
        {name: tensor.to(dtype) for name, tensor in weights.items()}, to / "model.safetensors"
    )
    return to


@pytest.mark.parametrize("name", ["bge-reranker-base", "bert-reranker", "bge-reranker-v2-m3"])
def test_scores_are_near_to_float32(
    path: str, name: str, checkpoint: Callable[[str], Path]
) -> None:
    exact = Reranker(checkpoint(name), encoder="pytorch").score(PAIRS)
    narrow = Reranker(checkpoint(name), encoder="native", compute_dtype="bfloat16")
    found = narrow.score(PAIRS)
    assert 0 < np.abs(found - exact).mean() < BFLOAT16_MEAN
    assert np.abs(found - exact).max() < BFLOAT16_WORST
    assert path in narrow.info.encoder.device
    assert narrow.info.encoder.compute_dtype == "bfloat16"


def test_cosines_are_near_to_float32(path: str, checkpoint: Callable[[str], Path]) -> None:
    folder, texts = checkpoint("multilingual-e5-small"), [*SENTENCES.values()]
    exact, found = (
        Embedder(folder, encoder=encoder, compute_dtype=dtype).encode(texts, input_type="document")
        for encoder, dtype in (("pytorch", "float32"), ("native", "bfloat16"))
    )
    assert np.abs(found @ found.T - exact @ exact.T).max() < 2e-3


def test_paths_with_and_without_instructions_agree(
    checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = {}
    for path in PATHS:
        monkeypatch.setenv("POLYRANK_ISA", path)
        reranker = Reranker(
            checkpoint("bge-reranker-base"), encoder="native", compute_dtype="bfloat16"
        )
        scores[path] = reranker.score(PAIRS)
    for path, found in scores.items():
        np.testing.assert_allclose(found, scores["portable"], atol=1e-3, rtol=0, err_msg=path)


def test_a_bfloat16_folder_is_computed_as_it_is(
    path: str, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    """A float32 folder of the same values gives the same bits: nothing is rounded twice."""
    stored = converted(checkpoint("bge-reranker-base"), tmp_path / "bf16", torch.bfloat16)
    widened = converted(stored, tmp_path / "f32", torch.float32)
    found, same = (
        Reranker(folder, encoder="native", compute_dtype="bfloat16").score(PAIRS)
        for folder in (stored, widened)
    )
    assert found.tobytes() == same.tobytes()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_folders_of_16_bits(
    dtype: torch.dtype, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = converted(checkpoint("bge-reranker-base"), tmp_path / "narrow", dtype)
    exact = Reranker(folder, encoder="native").score(PAIRS)
    found = Reranker(folder, encoder="native", compute_dtype="bfloat16").score(PAIRS)
    assert np.abs(found - exact).max() < 2e-3


def test_an_int8_folder_runs_on_its_dequantised_weights(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    opened = read_checkpoint(checkpoint("bge-reranker-base"))
    exact = NativeEncoder(opened, EngineConfig(compute_dtype="float32"))
    folder = tmp_path / "int8"
    folder.mkdir()
    widths = exact.measure_inputs(random_pieces(opened.spec.body))
    write_int8(opened, widths, folder, linears="int8", embeddings="float32")
    assert "rounded to bfloat16" in plan_encoder(read_checkpoint(folder), ASKED).reason
    scores = [
        Reranker(folder, encoder="native", compute_dtype=dtype).score(PAIRS)
        for dtype in ("float32", "bfloat16")
    ]
    assert np.abs(scores[0] - scores[1]).max() < 2e-3


def test_it_says_where_no_instruction_helps(path: str, checkpoint: Callable[[str], Path]) -> None:
    folder = checkpoint("bge-reranker-base")
    plan = plan_encoder(read_checkpoint(folder), ASKED)
    said = f"path {path} has no bfloat16 products"
    assert plan.compute_dtype == "bfloat16"
    assert (said in plan.reason) == (path not in BFLOAT16_PATHS)
    info = Reranker(folder, encoder="native", compute_dtype="bfloat16").info
    assert any("run in bfloat16" in note and plan.reason in note for note in info.notes)


def test_the_table_of_paths_says_what_kernels_do(path: str) -> None:
    body = native.NativeBody(
        hidden_size=32,
        num_layers=1,
        num_heads=2,
        intermediate_size=32,
        layer_norm_eps=1e-5,
        activation="gelu",
        compute_dtype="bfloat16",
        isa=path,
    )
    assert body.multiplies_bfloat16 == (path in BFLOAT16_PATHS)
    blocks = [np.zeros((32, 16), np.uint8)], [np.zeros((32, 1), np.uint16)]
    with pytest.raises(ValueError, match="4-bit blocks"):
        body.set_linear_blocks(0, "out", *blocks, [np.zeros(32, np.float32)])


def test_weights_take_half_the_memory(path: str, checkpoint: Callable[[str], Path]) -> None:
    opened = read_checkpoint(checkpoint("bge-reranker-base"))
    sizes = {}
    for dtype in ("float32", "bfloat16"):
        encoder = NativeEncoder(opened, EngineConfig(compute_dtype=dtype))
        sizes[dtype] = encoder._body.packed_bytes
    assert sizes["bfloat16"] <= sizes["float32"] / 2


def test_nan_in_a_weight_is_told(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(checkpoint("bge-reranker-base"), folder)
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("0.intermediate.dense.weight"))
    weights[name][3, 5] = float("nan")
    save_file(weights, folder / "model.safetensors")
    opened = read_checkpoint(folder)
    encoder = NativeEncoder(opened, ASKED)
    with pytest.raises(CorruptWeightsError, match="NaN"):
        encoder.run(batch_of(opened, (7, 20)), ())


@pytest.mark.parametrize("encoder", ["onnx", "pytorch"])
def test_only_the_native_encoder_has_it(encoder: str, checkpoint: Callable[[str], Path]) -> None:
    opened = read_checkpoint(checkpoint("bge-reranker-base"))
    with pytest.raises(ConfigError, match="has no bfloat16 products"):
        choose_encoder(opened, EngineConfig(encoder, compute_dtype="bfloat16"))
