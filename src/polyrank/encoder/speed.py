"""How quick the native encoder is in each compute dtype here, for `polyrank doctor`."""

import time
from collections.abc import Callable
from typing import get_args

import numpy as np

from polyrank import _native
from polyrank.encoder.native_linears import LINEARS
from polyrank.encoder.paths import BLOCK_PATHS, running_path
from polyrank.types import ProductDtype

# a layer of the default model, and how many it has
HIDDEN, INNER, HEADS, LAYERS = 384, 1536, 12, 12
TOKENS, LENGTH = 256, 64
SECONDS = 0.15


def measure_speed(num_threads: int) -> dict[str, int]:
    """Return tokens a second of a body of the default model's shape, with random weights.

    Args:
        num_threads: Threads to compute with.

    Returns:
        By compute dtype. Where the path multiplies 4-bit blocks as they are, "int8" is by these, as
        the default model stores its layers.
    """
    rng = np.random.default_rng(0)
    return {
        kind: round(TOKENS / (_quickest(_body(kind, rng), num_threads) * LAYERS))
        for kind in get_args(ProductDtype)
    }


def _quickest(body: _native.NativeBody, num_threads: int) -> float:
    """Return the seconds of the quickest of some runs of one layer."""
    places = np.tile(np.arange(LENGTH, dtype=np.int32), TOKENS // LENGTH)
    bounds = np.arange(0, TOKENS + 1, LENGTH, dtype=np.int32)

    def run() -> None:
        body.run(places, None, places, bounds, "mean", num_threads)

    return min(_durations(run))


def _durations(run: Callable[[], None]) -> list[float]:
    run()
    found: list[float] = []
    while sum(found) < SECONDS:
        start = time.perf_counter()
        run()
        found.append(time.perf_counter() - start)
    return found


def _body(kind: str, rng: np.random.Generator) -> _native.NativeBody:
    body = _native.NativeBody(
        hidden_size=HIDDEN,
        num_layers=1,
        num_heads=HEADS,
        intermediate_size=INNER,
        layer_norm_eps=1e-12,
        activation="gelu",
        compute_dtype=kind,
        isa=running_path(),
    )
    table = rng.standard_normal((LENGTH, HIDDEN), np.float32)
    ones, zeros = np.ones(HIDDEN, np.float32), np.zeros(HIDDEN, np.float32)
    body.set_tables(table, table, table[:1], None, "F16")
    body.set_embedding_norm(ones, zeros)
    for which in (0, 1):
        body.set_norm(0, which, ones, zeros)
    for name, parts in LINEARS.items():
        outputs = INNER if name == "inner" else HIDDEN
        inputs = INNER if name == "outer" else HIDDEN
        biases = [np.zeros(outputs, np.float32) for _ in parts]
        if kind == "int8" and running_path() in BLOCK_PATHS:
            packed = [rng.integers(0, 256, (outputs, inputs // 2), np.uint8) for _ in parts]
            scales = [np.full((outputs, inputs // 32), 0.01, np.float16) for _ in parts]
            body.set_linear_blocks(
                0, name, packed, [part.view(np.uint16) for part in scales], biases
            )
            continue
        weights = [rng.standard_normal((outputs, inputs), np.float32) for _ in parts]
        body.set_linear(0, name, weights, biases, None, 1)
    return body
