"""The native encoder: every path of this processor, both precisions, bits and faults."""

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from polyrank import Embedder, Reranker
from polyrank.checkpoint.reader import Checkpoint, read_checkpoint
from polyrank.config import EngineConfig
from polyrank.encoder.onnx import OnnxEncoder
from polyrank.errors import CapabilityError, ConfigError, EncoderError
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
    assert encoder.capabilities.precision == "float32"
    assert path in encoder.capabilities.device


def test_int8_agrees_between_paths_and_with_float32(path: str, opened: Checkpoint) -> None:
    batch = batch_of(opened, LENGTHS)
    exact = OnnxEncoder(opened, EngineConfig()).run(batch, ("mean",))
    found = NativeEncoder(opened, EngineConfig(precision="int8")).run(batch, ("mean",))
    cosines = (found * exact).sum(axis=1)
    cosines /= np.linalg.norm(found, axis=1) * np.linalg.norm(exact, axis=1)
    assert cosines.min() > 0.99


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_bits_depend_on_the_sequence_alone(path: str, precision: str, opened: Checkpoint) -> None:
    batch = batch_of(opened, LENGTHS)
    encoder = NativeEncoder(opened, EngineConfig(precision=precision))  # type: ignore[arg-type]
    together = encoder.run(batch, ())
    one_by_one = np.concatenate([encoder.run(part, ()) for part in alone(batch)])
    np.testing.assert_array_equal(together, one_by_one)
    order = np.random.default_rng(0).permutation(len(batch))
    pooled, shuffled = encoder.run(batch, ("mean",)), encoder.run(batch.select(order), ("mean",))
    np.testing.assert_array_equal(pooled[order], shuffled)


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_threads_change_no_bit(precision: str, opened: Checkpoint) -> None:
    batches = (batch_of(opened, LENGTHS), batch_of(opened, (300,)), batch_of(opened, (40,) * 64))
    results = []
    for num_threads in (1, 2, 3, 7):
        config = EngineConfig(precision=precision, num_threads=num_threads)  # type: ignore[arg-type]
        encoder = NativeEncoder(opened, config)
        results.append([encoder.run(batch, ()) for batch in batches])
    for found in results[1:]:
        for rows, expected in zip(found, results[0], strict=True):
            np.testing.assert_array_equal(rows, expected)


def test_scores_of_both_precisions_have_the_same_bits_in_any_batch(
    checkpoint: Callable[[str], Path],
) -> None:
    folder = checkpoint("bge-reranker-base")
    pairs = [(SENTENCES["en"], text) for text in SENTENCES.values()]
    for precision in ("float32", "int8"):
        reference = Reranker(folder, encoder="native", precision=precision)  # type: ignore[arg-type]
        expected = np.concatenate([reference.score([pair]) for pair in pairs])
        for budget in (1, 100, 10_000):
            reranker = Reranker(
                folder,
                encoder="native",
                precision=precision,  # type: ignore[arg-type]
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


def test_sizes_that_the_kernels_do_not_take(tmp_path: Path) -> None:
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
    with pytest.raises(CapabilityError, match="multiples of 32"):
        Embedder(tmp_path, encoder="native")
    # left to itself, another encoder steps in
    assert Embedder(tmp_path).info.encoder.name != "native"


def test_closed(opened: Checkpoint) -> None:
    encoder = NativeEncoder(opened, EngineConfig())
    encoder.close()
    with pytest.raises(EncoderError, match="closed"):
        encoder.run(batch_of(opened, LENGTHS), ())
