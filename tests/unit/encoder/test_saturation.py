"""Sums of 16 bits that overflow: vpmaddubsw cuts them off in silence, and halves a result.

Full inputs by full weights, the widest that int8 holds, in pairs of one sign. PyTorch's kernels for
processors without VNNI (FBGEMM, oneDNN) lose half of the sum; every path here keeps all of it.
"""

import os
import platform
import subprocess
import sys

import numpy as np
import pytest

native = pytest.importorskip("polyrank._native")
from polyrank.encoder.paths import BLOCK_PATHS  # noqa: E402

WIDTH, INPUTS = 64, 64
SIGNS = np.where(np.arange(INPUTS) // 2 % 2 == 0, 1, -1).astype(np.float32)  # + + - - + + …

PEER = """
import sys, torch
torch.backends.quantized.engine = sys.argv[1]
inputs = torch.quantize_per_tensor(torch.full((1, 64), 255.0), 1.0, 0, torch.quint8)
weights = torch.quantize_per_tensor(torch.full((16, 64), 127.0), 1.0, 0, torch.qint8)
packed = torch.ops.quantized.linear_prepack(weights, None)
step = 255 * 127 * 64 / 200
print(torch.ops.quantized.linear(inputs, packed, step, 0).int_repr()[0, 0].item())
"""


def peer(engine: str, **variables: str) -> int:
    """Return the sum that PyTorch finds, in steps of which the true sum has 200."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PEER, engine],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    if done.returncode:
        pytest.skip(f"PyTorch's {engine} does not run here")
    return int(done.stdout)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="of x86 alone")
@pytest.mark.parametrize(
    ("engine", "variable"),
    [("fbgemm", "FBGEMM_ENABLE_INSTRUCTIONS"), ("onednn", "ONEDNN_MAX_CPU_ISA")],
)
def test_a_peer_without_vnni_loses_half_of_a_sum(engine: str, variable: str) -> None:
    pytest.importorskip("torch")
    if "avx2" not in native.usable_paths():
        pytest.skip("no AVX2")
    assert peer(engine, **{variable: "AVX2"}) == 101


def body(path: str, kind: str) -> "native.NativeBody":
    """A layer whose first feed-forward sums are the widest there are, its attention nothing."""
    made = native.NativeBody(
        hidden_size=WIDTH,
        num_layers=1,
        num_heads=2,
        intermediate_size=INPUTS,
        layer_norm_eps=1e-12,
        activation="relu",
        compute_dtype="float32" if kind == "float32" else "int8",
        isa=path,
    )
    ones, zeros = np.ones(WIDTH, np.float32), np.zeros(WIDTH, np.float32)
    none = np.zeros((1, WIDTH), np.float32)
    made.set_tables(SIGNS[None], none, none, None, "F16")
    made.set_embedding_norm(ones, zeros)
    for which in (0, 1):
        made.set_norm(0, which, ones, zeros)
    outputs = np.random.default_rng(0).integers(-7, 8, (WIDTH, 1))
    steps = {
        "qkv": np.zeros((WIDTH, WIDTH)),
        "out": np.zeros((WIDTH, WIDTH)),
        "inner": np.tile(7 * SIGNS, (INPUTS, 1)),
        "outer": np.tile(outputs, (1, INPUTS)),
    }
    for name, matrix in steps.items():
        parts = 3 if name == "qkv" else 1
        scale = np.float16({"inner": 1 / 8, "outer": 1 / 8192}.get(name, 1))
        if kind == "blocks":
            halves = (matrix.astype(np.int8) + 8).astype(np.uint8).reshape(len(matrix), -1, 2, 16)
            packed = (halves[:, :, 0] | halves[:, :, 1] << 4).reshape(len(matrix), -1)
            scales = np.full((len(matrix), matrix.shape[1] // 32), scale).view(np.uint16)
            made.set_linear_blocks(0, name, [packed] * parts, [scales] * parts, [zeros] * parts)
            continue
        weights = np.ascontiguousarray(matrix * np.float32(scale), np.float32)
        made.set_linear(0, name, [weights] * parts, [zeros] * parts, None, 1)
    return made


def rows(path: str, kind: str) -> np.ndarray:
    ids, bounds = np.zeros(1, np.int32), np.array([0, 1], np.int32)
    return body(path, kind).run(ids, None, ids, bounds, "cls", 1)


@pytest.mark.parametrize("path", native.usable_paths())
def test_no_path_loses_any_of_it(path: str) -> None:
    exact = rows(path, "float32")
    inner = 7 / 8 * INPUTS  # what each unit of the feed-forward part should hold
    halved = np.random.default_rng(0).integers(-7, 8, WIDTH) * inner / 2 * INPUTS / 8192
    off = SIGNS + halved
    off = (off - off.mean()) / off.std()
    assert np.abs(off - exact[0]).max() > 0.2  # a sum cut off would show
    for kind in ("int8", "blocks") if path in BLOCK_PATHS else ("int8",):
        assert np.abs(rows(path, kind) - exact).max() < 0.02
