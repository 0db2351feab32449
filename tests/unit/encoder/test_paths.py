"""What is known of kernel paths, and what `compute_dtype="auto"` makes of it."""

import json
import subprocess
import sys

import numpy as np
import pytest

from polyrank import Embedder, Reranker
from polyrank.checkpoint.gate import GateStatus
from polyrank.checkpoint.reader import Checkpoint, read_checkpoint
from polyrank.compress.quantize.writing import write_int8
from polyrank.config import EngineConfig
from polyrank.encoder.choose import plan_encoder
from polyrank.encoder.compute_dtype import choose_compute_dtype
from polyrank.encoder.paths import BLOCK_PATHS, FLOAT32_IS_QUICKER, is_int8_quicker, running_path
from polyrank.encoder.smoothing import random_pieces
from tests.texts import SENTENCES

native = pytest.importorskip("polyrank._native")
from polyrank.encoder.native import NativeEncoder  # noqa: E402
from polyrank.encoder.speed import measure_speed  # noqa: E402

PATHS = native.usable_paths()
TEXTS = [*SENTENCES.values()][:4]


@pytest.fixture
def passed(monkeypatch):
    """Every gate has passed."""
    monkeypatch.setattr(Checkpoint, "gate", lambda _: GateStatus(True, "int8 passed", {}))


@pytest.fixture(params=["int8", "int4"])
def folder(request, checkpoint, tmp_path):
    """A folder of int8 steps, one of 4-bit blocks."""
    opened = read_checkpoint(checkpoint("multilingual-e5-small"))
    exact = NativeEncoder(opened, EngineConfig(compute_dtype="float32"))
    widths = exact.measure_inputs(random_pieces(opened.spec.body))
    made = tmp_path / request.param
    made.mkdir()
    write_int8(opened, widths, made, linears=request.param, embeddings="float32")
    return made


@pytest.mark.parametrize("path", PATHS)
def test_auto_is_the_precision_of_the_path(folder, passed, monkeypatch, path):
    monkeypatch.setenv("POLYRANK_ISA", path)
    wanted = "int8" if is_int8_quicker(path, folder.name) else "float32"
    embedder = Embedder(folder, encoder="native")
    assert embedder.info.encoder.compute_dtype == wanted
    assert path in embedder.info.encoder.device
    rows = embedder.encode(TEXTS, input_type="document")
    asked = Embedder(folder, encoder="native", compute_dtype=wanted)
    assert rows.tobytes() == asked.encode(TEXTS, input_type="document").tobytes()
    plan = plan_encoder(read_checkpoint(folder), EngineConfig("native"))
    assert (plan.path, plan.compute_dtype) == (path, wanted)
    said = f"float32 products are as quick on path {path}"
    assert (said in plan.reason) == (wanted == "float32")
    assert any(said in note for note in embedder.info.notes) == (wanted == "float32")


@pytest.mark.parametrize(("path", "linears"), sorted(FLOAT32_IS_QUICKER))
def test_auto_is_float32_where_that_is_as_quick(folder, passed, path, linears):
    choice = choose_compute_dtype(read_checkpoint(folder), "auto", path)
    assert choice.is_int8 == (folder.name != linears)
    assert choose_compute_dtype(read_checkpoint(folder), "int8", path).is_int8


def test_a_float_checkpoint_that_passed_is_not_quantised_where_float32_is_as_quick(
    checkpoint, passed
):
    opened = read_checkpoint(checkpoint("multilingual-e5-small"))
    assert choose_compute_dtype(opened, "auto", "amx").is_int8
    assert not choose_compute_dtype(opened, "auto", "avx512bw").is_int8


@pytest.mark.parametrize("path", PATHS)
def test_the_default_model_is_int8_on_every_path(monkeypatch, path):
    monkeypatch.setenv("POLYRANK_ISA", path)
    assert running_path() == path
    assert Reranker().info.encoder.compute_dtype == "int8"


@pytest.mark.parametrize("path", sorted(BLOCK_PATHS & {*PATHS}))
def test_only_paths_of_the_table_take_blocks(monkeypatch, path):
    """The table of paths says what the kernels can: a path without such kernels refuses blocks."""
    other = next(name for name in PATHS if name not in BLOCK_PATHS)
    for name, is_taken in ((path, True), (other, False)):
        monkeypatch.setenv("POLYRANK_ISA", name)
        body = native.NativeBody(
            hidden_size=32,
            num_layers=1,
            num_heads=2,
            intermediate_size=32,
            layer_norm_eps=1e-5,
            activation="gelu",
            compute_dtype="int8",
            isa=name,
        )
        blocks = np.zeros((32, 16), np.uint8), np.zeros((32, 1), np.uint16)
        arguments = (0, "out", [blocks[0]], [blocks[1]], [np.zeros(32, np.float32)])
        if is_taken:
            body.set_linear_blocks(*arguments)
        else:
            with pytest.raises(ValueError, match="4-bit blocks"):
                body.set_linear_blocks(*arguments)


def test_doctor_names_the_path_and_times_both_compute_dtypes():
    done = subprocess.run(
        [sys.executable, "-m", "polyrank", "doctor"], capture_output=True, check=True, timeout=60
    )
    facts = json.loads(done.stdout)["native"]
    assert facts["path"] == running_path()
    assert min(facts["tokens_per_second"].values()) > 0
    assert facts["auto"]["int4 folder"] == "int8"


def test_speed_is_measured_of_both_compute_dtypes():
    assert measure_speed(1).keys() == {"float32", "int8", "bfloat16"}
