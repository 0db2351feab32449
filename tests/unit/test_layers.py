"""Token rows that are a sum over several layers: by encoders, by heads, and in what is written."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel

from polyrank import Classifier, Embedder, Reranker, _native
from polyrank.checkpoint.reader import Checkpoint, read_checkpoint
from polyrank.cli.info import describe
from polyrank.compress.gate import Contender, PairRun
from polyrank.compress.quantize import write_int8
from polyrank.config import EngineConfig
from polyrank.encoder.choose import choose_encoder
from polyrank.encoder.native import NativeEncoder
from polyrank.encoder.smoothing import random_pieces
from polyrank.errors import CheckpointError, EncoderError
from polyrank.inference import pair_runs
from polyrank.types import Float32Array, LayerWeights, PackedBatch, Precision
from tests.batches import alone, batch_of
from tests.checkpoints import LATE_FEATURES, late_interaction
from tests.server.running import running
from tests.tolerances import LOGIT
from tests.unit.test_late_interaction import PAIRS, TEXTS, Reference, edit

Opened = Callable[[str], Checkpoint]
ENCODERS = ("native", "onnx", "pytorch")
EMBEDDERS = ("multilingual-e5-small", "UAE-Large-V1", "multilingual-e5-large")  # the last is XLM-R
LENGTHS = (1, 2, 15, 16, 17, 31, 33, 64, 130, 300, 1)
BLOCK = {"0": 0.3, "2": -0.7, "3": 1.1}
LAYERS: LayerWeights = ((0, 0.3), (2, -0.7), (3, 1.1))
SUMS: tuple[LayerWeights, ...] = (
    LAYERS,
    ((0, 1.0),),
    ((2, 1.0),),
    ((0, -2.5), (2, 1e-3)),
    ((2, 0.5), (3, 0.5)),
)
FEATURES = [name for name in LATE_FEATURES if name != "cosine"]


def made(folder: Path, parent: Path, block: object = BLOCK, features: list[str] = FEATURES) -> Path:
    """A copy of an embedder whose heads compare sums of layers."""
    copy = Path(shutil.copytree(folder, parent / folder.name))
    return late_interaction(copy, layers=block, features=features)


@pytest.fixture(scope="module")
def opened(checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Opened:
    folders: dict[str, Path] = {}

    def get(name: str) -> Checkpoint:
        if name not in folders:
            folders[name] = made(checkpoint(name), tmp_path_factory.mktemp("layers"))
        return read_checkpoint(folders[name])

    return get


@pytest.fixture(scope="module")
def folder(opened: Opened) -> Path:
    return opened("multilingual-e5-small").spec.folder


def hidden_states(opened: Checkpoint, batch: PackedBatch) -> list[Float32Array]:
    """Rows of every layer by transformers, one sequence at a time."""
    model = AutoModel.from_pretrained(opened.spec.folder, attn_implementation="eager").eval()
    found = []
    for part in alone(batch):
        ids = torch.from_numpy(part.input_ids.astype(np.int64))[None]
        with torch.inference_mode():
            states = model(input_ids=ids, output_hidden_states=True).hidden_states
        found.append([state[0].numpy() for state in states])
    return [np.concatenate(rows) for rows in zip(*found, strict=True)]


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("name", EMBEDDERS)
def test_sums_are_those_of_the_hidden_states(name: str, encoder: str, opened: Opened) -> None:
    checkpoint = opened(name)
    batch = batch_of(checkpoint, LENGTHS)
    states = hidden_states(checkpoint, batch)
    loaded = choose_encoder(checkpoint, EngineConfig(encoder, precision="float32"))
    for layers in SUMS:
        rows = loaded.run(batch, (), layers)
        wanted = sum(weight * states[layer] for layer, weight in layers)
        assert rows.dtype == np.float32
        np.testing.assert_allclose(rows, wanted, atol=2e-5, rtol=0)
    np.testing.assert_array_equal(loaded.run(batch, (), ((3, 1.0),)), loaded.run(batch, ()))


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize(
    ("layers", "pooling", "message"),
    [
        (((3, 1.0),), ("mean",), "not of rows pooled by mean"),
        (((4, 1.0),), (), r"from 0 to 3 at most, each named once, not \[4\]"),
        (((-1, 1.0),), (), r"not \[-1\]"),
        (((3, 1.0), (2, 1.0)), (), r"must ascend"),
        (((2, 1.0), (2, 1.0)), (), r"each named once"),
    ],
)
def test_layers_that_cannot_be_summed(
    encoder: str, layers: LayerWeights, pooling: tuple, message: str, opened: Opened
) -> None:
    checkpoint = opened("multilingual-e5-small")
    loaded = choose_encoder(checkpoint, EngineConfig(encoder))
    with pytest.raises(EncoderError, match=message):
        loaded.run(batch_of(checkpoint, LENGTHS), pooling, layers)


def test_onnx_gives_what_heads_name_and_no_other_layer(
    opened: Opened, checkpoint: Callable[[str], Path]
) -> None:
    onnx = EngineConfig("onnx")
    named = opened("multilingual-e5-small")
    assert named.spec.summed_layers == (0, 2, 3)
    with pytest.raises(EncoderError, match=r"names: 0, 2, 3, not 1\. Choose encoder=.native"):
        choose_encoder(named, onnx).run(batch_of(named, LENGTHS), (), ((1, 1.0), (3, 1.0)))
    plain = read_checkpoint(checkpoint("multilingual-e5-small"))
    assert plain.spec.summed_layers == ()
    with pytest.raises(EncoderError, match=r"names: 3, not 0"):
        choose_encoder(plain, onnx).run(batch_of(plain, LENGTHS), (), LAYERS)


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("path", _native.usable_paths())
def test_bits_depend_on_the_sequence_alone(
    path: str, precision: Precision, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POLYRANK_ISA", path)
    checkpoint = opened("multilingual-e5-small")
    batches = [batch_of(checkpoint, lengths) for lengths in (LENGTHS, (300,), (40,) * 64)]
    order = np.random.default_rng(0).permutation(len(LENGTHS))
    config = EngineConfig("native", precision=precision)
    encoders = [NativeEncoder(checkpoint, replace(config, num_threads=n)) for n in (1, 2, 5)]
    for layers in SUMS[:3]:
        together = [encoders[0].run(batch, (), layers) for batch in batches]
        for encoder in encoders:
            for batch, rows in zip(batches, together, strict=True):
                np.testing.assert_array_equal(encoder.run(batch, (), layers), rows)
        one_by_one = [encoders[1].run(part, (), layers) for part in alone(batches[0])]
        np.testing.assert_array_equal(together[0], np.concatenate(one_by_one))
        shuffled = encoders[1].run(batches[0].select(order), (), layers)
        np.testing.assert_array_equal(shuffled, together[0][batches[0].tokens_of(order)])
    last = encoders[1].run(batches[0], (), ((3, 1.0),))
    np.testing.assert_array_equal(last, encoders[1].run(batches[0], ()))


class SummedReference(Reference):
    """The features of sums of layers."""

    def __init__(self, folder: Path, block: dict[str, float]) -> None:
        super().__init__(folder)
        self._block = block
        self._body = self.model
        self.model = self._sum  # what `read` calls

    def _sum(self, **given: torch.Tensor) -> object:
        states = self._body(**given, output_hidden_states=True).hidden_states
        rows = sum(weight * states[int(n)].double() for n, weight in self._block.items())
        return type("Output", (), {"last_hidden_state": rows})

    def logit(self, query: str, document: str) -> float:
        features = self.features(query, document)
        return self.rerank([features[name] for name in FEATURES])


@pytest.mark.parametrize("encoder", ENCODERS)
def test_heads_compare_the_sums(folder: Path, encoder: str) -> None:
    reference = SummedReference(folder, BLOCK)
    wanted = [reference.logit(*pair) for pair in PAIRS]
    found = Reranker(folder, encoder=encoder).score(PAIRS, logits=True)
    np.testing.assert_allclose(found, wanted, atol=LOGIT / 10, rtol=0)
    plain = SummedReference(folder, {"3": 1.0})
    assert np.abs(found - [plain.logit(*pair) for pair in PAIRS]).max() > 10 * LOGIT


@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_last_layer_alone_is_as_without_layers(
    encoder: str, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    embedder = checkpoint("multilingual-e5-small")
    named = made(embedder, tmp_path / "named", {"3": 1.0})
    plain = Path(shutil.copytree(embedder, tmp_path / "plain" / "e5"))
    late_interaction(plain, features=FEATURES)
    scores = [Reranker(path, encoder=encoder).score(PAIRS, logits=True) for path in (named, plain)]
    np.testing.assert_array_equal(*scores)


def test_heads_may_differ_in_layers(folder: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    config = json.loads((folder / "config.json").read_text())
    late = config["polyrank_heads"]["rerank"]["late_interaction"]
    edit(other, "classify", late_interaction=late | {"layers": {"1": 1.0}})
    edit(other, "rerank", late_interaction={k: v for k, v in late.items() if k != "layers"})
    pairs = [("cats", text) for text in TEXTS]
    plain = [Reranker(other).score(pairs), Classifier(other).logits(pairs)]
    kept = [
        run(pairs)
        for _ in range(2)
        for run in (
            Reranker(other, row_cache_bytes=9_000_000).score,
            Classifier(other, row_cache_bytes=9_000_000).logits,
        )
    ]
    for found, wanted in zip(kept, plain * 2, strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert not np.array_equal(plain[0], Reranker(folder).score(pairs))
    assert not np.array_equal(plain[1], Classifier(folder).logits(pairs))


@pytest.mark.parametrize("max_bytes", [0, 20_000, 10_000_000])
def test_parts_and_kept_rows_change_no_bit(
    folder: Path, max_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = [(query, text) for query in ("cats", "猫") for text in TEXTS]
    reranker = Reranker(folder, encoder="native", row_cache_bytes=max_bytes)
    wanted = [reranker.score([pair], logits=True)[0] for pair in pairs]
    for num_tokens in (1, 100, 10_000):
        monkeypatch.setattr(pair_runs, "PART_TOKENS", num_tokens)
        np.testing.assert_array_equal(reranker.score(pairs, logits=True), wanted)


def test_a_server_gives_the_same_bits(folder: Path) -> None:
    with running({"late": folder}, row_cache_bytes=10_000_000) as server:
        body = {"query": "cats?", "texts": TEXTS, "raw_scores": True}
        rows = server.post("/embed_all", {"inputs": [f"passage: {text}" for text in TEXTS]})
        for _ in range(2):
            found = server.post("/rerank", body)
            wanted = Reranker(folder).rank("cats?", TEXTS)
            assert [(row["index"], np.float32(row["score"])) for row in found] == [
                (hit.index, np.float32(hit.logit)) for hit in wanted
            ]
        # rows of the last layer, of the same sequences, are others
        assert server.post("/embed_all", {"inputs": [f"passage: {TEXTS[0]}"]}) == rows[:1]


@pytest.mark.parametrize("encoder", ENCODERS)
def test_an_int8_folder_keeps_the_layers(folder: Path, encoder: str, tmp_path: Path) -> None:
    source, target = read_checkpoint(folder), tmp_path / "int8"
    target.mkdir()
    exact = NativeEncoder(source, EngineConfig(precision="float32"))
    widths = exact.measure_inputs(random_pieces(source.spec.body))
    write_int8(source, widths, target, embeddings="float32")
    late = read_checkpoint(target).spec.heads["rerank"].late_interaction
    assert late is not None
    assert late.layers == LAYERS
    # the other encoders run the dequantised weights, which the native one can too
    found = Reranker(target, encoder=encoder, precision="float32").score(PAIRS, logits=True)
    native = Reranker(target, encoder="native", precision="float32").score(PAIRS, logits=True)
    np.testing.assert_allclose(found, native, atol=LOGIT, rtol=0)
    whole = Reranker(folder).score(PAIRS, logits=True)
    assert np.corrcoef(native, whole)[0, 1] > 0.95
    if encoder == "native":
        at_load = Reranker(folder, precision="int8").score(PAIRS, logits=True)
        stored = Reranker(target, precision="int8").score(PAIRS, logits=True)
        np.testing.assert_array_equal(stored, at_load)


def test_vectors_and_the_gate(folder: Path, checkpoint: Callable[[str], Path]) -> None:
    plain = Embedder(checkpoint("multilingual-e5-small")).encode(TEXTS)
    np.testing.assert_array_equal(Embedder(folder).encode(TEXTS), plain)
    _, logits, _ = PairRun(Contender(str(folder), EngineConfig()), "rerank")(PAIRS)
    np.testing.assert_array_equal(logits[:, 0], Reranker(folder).score(PAIRS, logits=True))


def test_what_is_said_of_them(folder: Path) -> None:
    words = "0.3 x layer 0 + -0.7 x layer 2 + 1.1 x layer 3"
    assert f"A token's row is {words}." in Reranker(folder).info.notes[0]
    assert f", rows {words}, " in describe(read_checkpoint(folder))["tasks"]["classify"]


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (None, "layers must give the weight of one layer or more, not None"),
        ({}, "layers must give the weight of one layer or more, not {}"),
        ([9, 12], r"layers must give the weight of one layer or more, not \[9, 12\]"),
        ({"4": 1.0}, "layers are numbered 0 to 3, not '4'"),
        ({"-1": 1.0}, "layers are numbered 0 to 3, not '-1'"),
        ({"last": 1.0}, "layers are numbered 0 to 3, not 'last'"),
        ({"3": 1.0, "03": 1.0}, "layers are numbered 0 to 3, not '03'"),
        ({"3": "1"}, "the weight of layer 3 must be a finite number, not '1'"),
        ({"3": None}, "the weight of layer 3 must be a finite number, not None"),
        ({"3": True}, "the weight of layer 3 must be a finite number, not True"),
        ({"3": float("nan")}, "the weight of layer 3 must be a finite number, not nan"),
        ({"3": float("-inf")}, "the weight of layer 3 must be a finite number, not -inf"),
        ({"3": 1e39}, r"the weight of layer 3 must be a finite number, not 1e\+39"),
        ({"3": 10**400}, "the weight of layer 3 must be a finite number, not 1000"),
    ],
)
def test_blocks_that_cannot_be_read(
    block: object, message: str, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = made(checkpoint("multilingual-e5-small"), tmp_path, block)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_checkpoint(folder)
    assert str(folder / "config.json") in str(caught.value)


def test_the_cosine_needs_the_last_rows(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    source = checkpoint("multilingual-e5-small")
    folder = made(source, tmp_path, features=["match", "cosine"])
    with pytest.raises(CheckpointError, match="the feature cosine needs the last layer's rows"):
        read_checkpoint(folder)
