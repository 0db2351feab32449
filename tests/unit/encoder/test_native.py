"""The native encoder: every path of this processor, all compute dtypes, bits and faults."""

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from polyrank import Embedder, Reranker, _extras
from polyrank.checkpoint.reader import Checkpoint, read_checkpoint
from polyrank.config import EngineConfig
from polyrank.encoder import choose
from polyrank.encoder.checks import check_batch
from polyrank.encoder.choose import plan_encoder
from polyrank.encoder.onnx import OnnxEncoder
from polyrank.errors import (
    CapabilityError,
    CheckpointWarning,
    ConfigError,
    EncoderError,
    MissingExtraError,
)
from polyrank.types import PackedBatch
from tests.batches import alone, batch_of
from tests.texts import SENTENCES

native = pytest.importorskip("polyrank._native")
from polyrank.encoder.native import NativeEncoder  # noqa: E402

PATHS = native.usable_paths()
LENGTHS = (1, 2, 15, 16, 17, 31, 33, 64, 130, 300)


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Force one path of kernels."""
    monkeypatch.setenv("POLYRANK_ISA", request.param)
    return request.param


@pytest.fixture(scope="module")
def opened(checkpoint: Callable[[str], Path]) -> Checkpoint:
    return read_checkpoint(checkpoint("bge-reranker-base"))


def test_float32_as_onnx(path: str, opened: Checkpoint) -> None:
    batch = batch_of(opened, LENGTHS)
    expected = OnnxEncoder(opened, EngineConfig()).run(batch, ())
    encoder = NativeEncoder(opened, EngineConfig())
    np.testing.assert_allclose(encoder.run(batch, ()), expected, atol=1e-5, rtol=0)
    assert encoder.capabilities.compute_dtype == "float32"
    assert path in encoder.capabilities.device


def test_int8_agrees_between_paths_and_with_float32(path: str, opened: Checkpoint) -> None:
    batch = batch_of(opened, LENGTHS)
    exact = OnnxEncoder(opened, EngineConfig()).run(batch, ("mean",))
    found = NativeEncoder(opened, EngineConfig(compute_dtype="int8")).run(batch, ("mean",))
    cosines = (found * exact).sum(axis=1)
    cosines /= np.linalg.norm(found, axis=1) * np.linalg.norm(exact, axis=1)
    assert cosines.min() > 0.99


@pytest.mark.parametrize("compute_dtype", ["float32", "int8", "bfloat16"])
def test_bits_depend_on_the_sequence_alone(
    path: str, compute_dtype: str, opened: Checkpoint
) -> None:
    batch = batch_of(opened, LENGTHS)
    encoder = NativeEncoder(opened, EngineConfig(compute_dtype=compute_dtype))  # type: ignore[arg-type]
    together = encoder.run(batch, ())
    one_by_one = np.concatenate([encoder.run(part, ()) for part in alone(batch)])
    np.testing.assert_array_equal(together, one_by_one)
    order = np.random.default_rng(0).permutation(len(batch))
    pooled, shuffled = encoder.run(batch, ("mean",)), encoder.run(batch.select(order), ("mean",))
    np.testing.assert_array_equal(pooled[order], shuffled)


@pytest.mark.parametrize("compute_dtype", ["float32", "int8", "bfloat16"])
def test_threads_change_no_bit(compute_dtype: str, opened: Checkpoint) -> None:
    batches = (batch_of(opened, LENGTHS), batch_of(opened, (300,)), batch_of(opened, (40,) * 64))
    results = []
    for num_threads in (1, 2, 3, 7):
        config = EngineConfig(compute_dtype=compute_dtype, num_threads=num_threads)  # type: ignore[arg-type]
        encoder = NativeEncoder(opened, config)
        results.append([encoder.run(batch, ()) for batch in batches])
    for found in results[1:]:
        for rows, expected in zip(found, results[0], strict=True):
            np.testing.assert_array_equal(rows, expected)


def test_scores_of_all_compute_dtypes_have_the_same_bits_in_any_batch(
    checkpoint: Callable[[str], Path],
) -> None:
    folder = checkpoint("bge-reranker-base")
    pairs = [(SENTENCES["en"], text) for text in SENTENCES.values()]
    for compute_dtype in ("float32", "int8", "bfloat16"):
        reference = Reranker(folder, encoder="native", compute_dtype=compute_dtype)  # type: ignore[arg-type]
        expected = np.concatenate([reference.score([pair]) for pair in pairs])
        for budget in (1, 100, 10_000):
            reranker = Reranker(
                folder,
                encoder="native",
                compute_dtype=compute_dtype,  # type: ignore[arg-type]
                max_batch_tokens=budget,
                num_threads=2,
            )
            np.testing.assert_array_equal(reranker.score(pairs), expected)


def test_pooling_inside_and_outside(opened: Checkpoint) -> None:
    batch = batch_of(opened, LENGTHS)
    encoder = NativeEncoder(opened, EngineConfig())
    tokens = encoder.run(batch, ())
    ends = batch.cu_seqlens
    np.testing.assert_array_equal(encoder.run(batch, ("cls",)), tokens[ends[:-1]])
    np.testing.assert_array_equal(encoder.run(batch, ("last_token",)), tokens[ends[1:] - 1])
    both = encoder.run(batch, ("max", "cls"))
    np.testing.assert_array_equal(both[:, 64:], tokens[ends[:-1]])


def test_several_python_threads_and_encoders(opened: Checkpoint) -> None:
    batch = batch_of(opened, LENGTHS)
    encoders = [NativeEncoder(opened, EngineConfig(num_threads=n)) for n in (1, 2, 3)]
    expected = encoders[0].run(batch, ())
    with ThreadPoolExecutor(6) as pool:
        for rows in pool.map(lambda i: encoders[i % 3].run(batch, ()), range(24)):
            np.testing.assert_array_equal(rows, expected)


def _run_in_child(encoder: NativeEncoder, batch: PackedBatch, sender: object) -> None:
    sender.send(encoder.run(batch, ()))  # type: ignore[attr-defined]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_after_a_fork(opened: Checkpoint) -> None:
    batch = batch_of(opened, LENGTHS)
    encoder = NativeEncoder(opened, EngineConfig(num_threads=2))
    expected = encoder.run(batch, ())  # starts the pool that the child does not have
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_run_in_child, args=(encoder, batch, sender))
    child.start()
    assert receiver.poll(60)
    np.testing.assert_array_equal(receiver.recv(), expected)
    child.join(10)
    assert child.exitcode == 0
    np.testing.assert_array_equal(encoder.run(batch, ()), expected)


def test_a_path_that_is_not_there(monkeypatch: pytest.MonkeyPatch, opened: Checkpoint) -> None:
    monkeypatch.setenv("POLYRANK_ISA", "abacus")
    with pytest.raises(ConfigError, match=r"POLYRANK_ISA is .abacus.*portable"):
        NativeEncoder(opened, EngineConfig())


def test_sizes_that_the_kernels_do_not_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from transformers import BertConfig, BertModel

    from tests.checkpoints import bert_tokenizer

    torch.manual_seed(0)
    tokenizer = bert_tokenizer(64)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=40,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=64,
    )
    BertModel(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with (
        pytest.warns(CheckpointWarning, match="describes no head"),
        pytest.raises(CapabilityError, match=r"multiples of 32.*has 40, 64 and 10\. Choose .*onnx"),
    ):
        Embedder(tmp_path, encoder="native")
    # left to itself, another encoder steps in, and it is said why
    with pytest.warns(CheckpointWarning):
        assert Embedder(tmp_path).info.encoder.name != "native"
    opened = read_checkpoint(tmp_path)
    plan = plan_encoder(opened, EngineConfig())
    assert plan.encoder == "onnx"
    assert "native encoder needs" in plan.encoder_reason
    # and where none is there to step in, it is not only said that one is missing
    monkeypatch.setattr(choose, "is_installed", lambda *modules: False)
    monkeypatch.setattr(_extras, "is_installed", lambda *modules: False)
    with pytest.raises(MissingExtraError, match=r"native encoder needs .* has 40, .*onnx"):
        choose.choose_encoder(opened, EngineConfig())


def a_body(**sizes: int) -> object:
    """A body of one layer, 9 words, 5 positions and 2 segments, as C++ has it."""
    shape = {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "intermediate_size": 32, **sizes}
    body = native.NativeBody(
        **shape, layer_norm_eps=1e-5, activation="gelu", compute_dtype="float32", isa=""
    )
    words, positions, types = (np.full((rows, 32), 0.5, np.float32) for rows in (9, 5, 2))
    body.set_tables(words, positions, types, None, "F16")
    row, matrix = np.ones(32, np.float32), np.eye(32, dtype=np.float32)
    body.set_embedding_norm(row, row)
    for name in ("qkv", "out", "inner", "outer"):
        count = 3 if name == "qkv" else 1
        body.set_linear(0, name, [matrix] * count, [row] * count, None, 1)
    for which in (0, 1):
        body.set_norm(0, which, row, row)
    return body


INT32 = np.iinfo(np.int32)
NUMBERS = {
    "input_ids": [8, 0, 3],
    "token_types": [0, 1, 0],
    "positions": [4, 1, 2],
    "cu_seqlens": [0, 2, 3],
}


def run_numbers(body: object, **numbers: object):
    arrays = {key: np.array(value, np.int32) for key, value in {**NUMBERS, **numbers}.items()}
    return body.run(**arrays, pooling="tokens", num_threads=1)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["input_ids", "token_types", "positions"])
@pytest.mark.parametrize("outside", [-1, -100, 9, INT32.min, INT32.max])
def test_cpp_refuses_rows_outside_its_tables(name: str, outside: int) -> None:
    body = a_body()
    assert run_numbers(body).shape == (3, 32)
    for token in range(3):
        numbers = list(NUMBERS[name])
        numbers[token] = outside
        with pytest.raises(IndexError, match=rf"{outside} is outside a table of \d rows"):
            run_numbers(body, **{name: numbers})


@pytest.mark.parametrize(
    "bounds",
    [[0], [0, 2], [0, 2, 4], [1, 3], [0, 0, 3], [0, 4, 3], [0, -1, 3], [-1, 3], [0, INT32.max]],
)
def test_cpp_refuses_bounds_that_do_not_fit(bounds: list[int]) -> None:
    body = a_body()
    with pytest.raises(ValueError):
        run_numbers(body, cu_seqlens=bounds)
    ids, positions, ends = (
        np.array(value, np.int32) for value in (NUMBERS["input_ids"], NUMBERS["positions"], bounds)
    )
    for note in (body.measure_inputs, body.record_inputs):  # type: ignore[attr-defined]
        with pytest.raises(ValueError):
            note(ids, positions, ends)


def test_cpp_refuses_what_would_not_fit_its_sizes() -> None:
    body = a_body()
    for sizes in (
        {"num_layers": 0},
        {"num_layers": -1},
        {"num_layers": 10**8},
        {"hidden_size": 0},
        {"hidden_size": -32},
        {"hidden_size": 1 << 30},
        {"intermediate_size": 0},
        {"num_heads": 0},
        {"num_heads": -2},
    ):
        with pytest.raises(ValueError):
            a_body(**sizes)
    row, matrix = np.ones(33, np.float32), np.ones((32, 33), np.float32)
    shorter = np.ones(8, np.int32)
    for call in (
        lambda: body.set_norm(0, 0, row, row),
        lambda: body.set_norm(1, 0, row[:32], row[:32]),
        lambda: body.set_norm(0, 2, row[:32], row[:32]),
        lambda: body.set_linear(0, "out", [matrix], [row[:32]], None, 1),
        lambda: body.set_tables(matrix, matrix, matrix, None, "F16"),
        lambda: body.set_tables(
            np.ones((9, 32), np.int8), row[None, :32], row[None, :32], row[:8], ""
        ),
        lambda: body.set_embedding_norm(unaligned(32), row[:32]),
        lambda: run_numbers(body, positions=shorter),
    ):
        with pytest.raises(ValueError):
            call()
    assert run_numbers(body).shape == (3, 32)  # and is as it was


def unaligned(count: int) -> np.ndarray:
    return np.frombuffer(b"\0" + np.ones(count, np.float32).tobytes(), np.float32, count, 1)


@pytest.mark.parametrize("span", [[0, 4], [-1, 2], [2, 2], [2, 1], [0, INT32.max]])
def test_cpp_refuses_spans_outside_the_rows(span: list[int]) -> None:
    rows, good, bad = np.ones((3, 7), np.float32), [[0, 3]], [span]
    for first, second in ((good, bad), (bad, good)):
        with pytest.raises(ValueError, match="outside the rows"):
            native.best_products(rows, np.array(first, np.int32), np.array(second, np.int32))


@pytest.mark.parametrize("pad_token_id", [-1, -3, -40, -100, -(10**6)])
def test_padding_that_would_lie_before_the_table(opened: Checkpoint, pad_token_id: int) -> None:
    body = replace(opened.spec.body, pad_token_id=pad_token_id, position_offset=pad_token_id + 1)
    with pytest.raises(EncoderError, match=rf"padding id {pad_token_id};.*Correct pad_token_id"):
        check_batch(batch_of(opened, LENGTHS), body)


def test_what_cpp_throws_becomes_an_error_of_ours(
    opened: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("polyrank.encoder.native.check_batch", lambda batch, body: None)
    encoder = NativeEncoder(opened, EngineConfig())
    batch = batch_of(opened, LENGTHS)
    batch.input_ids[3] = opened.spec.body.vocab_size
    with pytest.raises(EncoderError, match=r"refused a batch of .* outside a table of .* rows"):
        encoder.run(batch, ())


LIMITED = """
import resource, sys
from pathlib import Path
import numpy as np
from polyrank.checkpoint.reader import read_checkpoint
from polyrank.config import EngineConfig
from polyrank.encoder.native import NativeEncoder
from polyrank.errors import EncoderError
from polyrank.types import PackedBatch
config = EngineConfig(num_threads=int(sys.argv[2]))
encoder = NativeEncoder(read_checkpoint(Path(sys.argv[1])), config)
size = 200_000 if sys.argv[2] == "1" else 4_000
batch = PackedBatch(np.full(size, 5, np.int32), np.arange(0, size + 1, 100, np.int32))
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (40 << 20),) * 2)
try:
    encoder.run(batch, () if sys.argv[2] == "1" else ("cls",))
except EncoderError as exc:
    print(exc)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs limits that bind")
@pytest.mark.parametrize(("num_threads", "said"), [(1, "memory ran out"), (2000, "2000 threads")])
def test_no_memory_is_an_error_of_ours(
    checkpoint: Callable[[str], Path], num_threads: int, said: str
) -> None:
    command = [
        sys.executable,
        "-c",
        LIMITED,
        str(checkpoint("bge-reranker-base")),
        str(num_threads),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert said in done.stdout, done.stdout + done.stderr


def test_closed(opened: Checkpoint) -> None:
    encoder = NativeEncoder(opened, EngineConfig())
    encoder.close()
    with pytest.raises(EncoderError, match="closed"):
        encoder.run(batch_of(opened, LENGTHS), ())
