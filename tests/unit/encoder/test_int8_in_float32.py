"""int8 folders in the encoders that have no int8 products: dequantised, in float32."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import AutoModel

from polyrank import Embedder, Reranker
from polyrank.checkpoint.formats.panels import unpack_panels
from polyrank.checkpoint.gate import fingerprint
from polyrank.checkpoint.modules import Modules
from polyrank.checkpoint.reader import read_checkpoint
from polyrank.checkpoint.spec import TABLE_TYPES
from polyrank.checkpoint.state import settings_fingerprint
from polyrank.compress.quantize.writing import write_int8
from polyrank.compress.vocabulary.table import compress_rows
from polyrank.config import EngineConfig
from polyrank.encoder import choose
from polyrank.encoder.choose import choose_encoder, plan_encoder
from polyrank.encoder.native import NativeEncoder
from polyrank.encoder.onnx import OnnxEncoder
from polyrank.encoder.onnx_graph import BodyGraph
from polyrank.encoder.pytorch import PytorchEncoder
from polyrank.encoder.smoothing import random_pieces
from polyrank.errors import ConfigError, CorruptWeightsError, MissingExtraError
from polyrank.types import PackedBatch
from tests.texts import SENTENCES

EXACT = 1e-5
"""Token rows (values up to about 4) of tiny models: float32 sums in another order."""

INT8_COSINE = 0.999
"""Pooled rows against int8 products of the same weights: the rounding of activations alone."""

TEXTS = list(SENTENCES.values())
EMBEDDER, RERANKER = "multilingual-e5-small", "bge-reranker-base"
WORDS = "embeddings.word_embeddings.weight"
SCALE = "roberta.encoder.layer.0.attention.self.query.weight_scale"


@pytest.fixture(scope="module")
def int8_folder(checkpoint, tmp_path_factory):
    """int8 folders by checkpoint and type of the table; do not change them."""
    made = {}

    def get(name, embeddings):
        if (name, embeddings) not in made:
            source = read_checkpoint(checkpoint(name))
            exact = NativeEncoder(source, EngineConfig(compute_dtype="float32"))
            table, mixed = source.body_float32(WORDS), None
            if embeddings == "mixed":
                mixed = compress_rows(table, np.arange(len(table), dtype=np.uint8) * 7 // 3 % 4)
            folder = tmp_path_factory.mktemp("int8") / name
            folder.mkdir()
            write_int8(
                source,
                exact.measure_inputs(random_pieces(source.spec.body)),
                folder,
                embeddings=embeddings,
                mixed=mixed,
                is_tokenizer_compressed=True,
            )
            record = {
                "passed": True,
                "weights_sha256": fingerprint([folder / "model.safetensors"]),
                "settings_sha256": settings_fingerprint(
                    Modules(folder), folder / "tokenizer.json.gz"
                ),
            }
            (folder / "polyrank_gate.json").write_text(json.dumps(record))
            made[name, embeddings] = folder
        return made[name, embeddings]

    return get


@pytest.fixture(params=[OnnxEncoder, PytorchEncoder], ids=["onnx", "pytorch"])
def make(request):
    return request.param


@pytest.fixture
def broken(int8_folder, tmp_path):
    """A copy that may be changed."""
    return Path(shutil.copytree(int8_folder(RERANKER, "mixed"), tmp_path / "broken"))


def change_tensors(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def pieces(opened):
    """Sequences of several lengths."""
    lengths = [9, 1, 30, 9, 2, 17]
    ids = random_pieces(opened.spec.body).input_ids[: sum(lengths)]
    return PackedBatch(ids, np.concatenate(([0], np.cumsum(lengths))).astype(np.int32))


def cosines(rows, others):
    norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(others, axis=1)
    return (rows * others).sum(axis=1) / norms


# The values of a folder, written out here from the checkpoint format alone, value by value.


def linear_weight(steps, scale, multiplier):
    weight = np.empty((len(scale), len(multiplier)), np.float64)
    for output in range(len(scale)):
        for column in range(len(multiplier)):
            step = steps[output // 16, column // 4, output % 16, column % 4]
            weight[output, column] = step * np.float64(scale[output]) * multiplier[column]
    return weight


def blocks_of(packed, scales):
    rows = np.empty((len(packed), 2 * packed.shape[1]), np.float64)
    for column in range(rows.shape[1]):
        block, place = divmod(column, 32)
        byte = packed[:, 16 * block + place % 16]
        number = byte >> 4 if place >= 16 else byte & 15
        rows[:, column] = (number.astype(np.float64) - 8) * scales[:, block]
    return rows


def mixed_rows(stored, name, num_rows):
    first = blocks_of(stored[name], stored[name + "_scale"])
    planes, coarse = stored[name + "_tiers"], stored[name + "_coarse"].astype(np.float64)
    rows, seen = np.empty((num_rows, coarse.shape[1]), np.float64), [0, 0, 0, 0]
    for row in range(num_rows):
        low, high = (int(plane[row // 8]) >> row % 8 & 1 for plane in planes)
        tier = low + 2 * high
        if tier == 0:
            rows[row] = first[seen[0]]
        else:
            code = stored[f"{name}_codes_{tier}"][seen[tier]]
            book = stored[f"{name}_codebook_{tier}"]
            words = [book[part, number] for part, number in enumerate(code[1:])]
            rows[row] = coarse[code[0]] + np.concatenate(words).astype(np.float64)
        seen[tier] += 1
    return rows


def float_weights(folder, num_rows):
    """Float32 weights of an int8 folder by the names of the float checkpoint."""
    stored, weights = load_file(folder / "model.safetensors"), {}
    for name, tensor in stored.items():
        if not name.endswith(("weight", "bias")):
            continue
        if tensor.ndim == 4:
            multiplier = stored[name.removesuffix("weight") + "input_multiplier"]
            values = linear_weight(tensor, stored[name + "_scale"], multiplier)
        elif name + "_tiers" in stored:
            values = mixed_rows(stored, name, num_rows)
        elif tensor.dtype == np.uint8:
            values = blocks_of(tensor, stored[name + "_scale"])
        elif tensor.dtype == np.int8:
            values = tensor * stored[name + "_scale"].astype(np.float64)[:, None]
        else:
            values = tensor
        weights[name] = values.astype(np.float32)
    return weights


def expected_rows(source, weights, batch, folder):
    """Token rows of transformers' own model on given weights, each sequence run alone."""
    shutil.copytree(source, folder)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    model = AutoModel.from_pretrained(folder).eval()
    rows = []
    with torch.inference_mode():
        for start, end in zip(batch.cu_seqlens[:-1], batch.cu_seqlens[1:], strict=True):
            ids = torch.from_numpy(batch.input_ids[None, start:end]).long()
            rows.append(model(ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0])
    return torch.cat(rows).numpy()


@pytest.mark.parametrize(
    ("name", "embeddings"), [*((EMBEDDER, kind) for kind in TABLE_TYPES), (RERANKER, "mixed")]
)
def test_rows_are_those_of_transformers_on_the_dequantised_weights(
    checkpoint, int8_folder, tmp_path, make, name, embeddings
):
    folder = int8_folder(name, embeddings)
    opened = read_checkpoint(folder)
    batch, weights = pieces(opened), float_weights(folder, opened.spec.body.vocab_size)
    expected = expected_rows(checkpoint(name), weights, batch, tmp_path / "float32")
    encoder = make(opened, EngineConfig())
    assert encoder.capabilities.compute_dtype == "float32"
    rows = encoder.run(batch, ())
    assert rows.dtype == np.float32
    assert np.abs(rows - expected).max() < EXACT
    for stored in (WORDS, "encoder.layer.2.output.dense.weight"):
        reference = weights[opened.spec.body.prefix + stored]
        np.testing.assert_allclose(opened.body_float32(stored), reference, rtol=3e-7, atol=0)


@pytest.mark.parametrize("embeddings", TABLE_TYPES)
def test_rows_are_close_to_int8_products_of_the_native_encoder(int8_folder, make, embeddings):
    opened = read_checkpoint(int8_folder(EMBEDDER, embeddings))
    batch = pieces(opened)
    int8 = NativeEncoder(opened, EngineConfig(compute_dtype="int8")).run(batch, ("mean",))
    exact = NativeEncoder(opened, EngineConfig(compute_dtype="float32")).run(batch, ("mean",))
    rows = make(opened, EngineConfig()).run(batch, ("mean",))
    assert cosines(rows, int8).min() > INT8_COSINE
    assert np.abs(rows - exact).max() < EXACT


def test_plain_steps_and_absent_multipliers(broken, make):
    def rewrite(tensors):
        for name in [name for name, tensor in tensors.items() if tensor.ndim == 4]:
            multiplier = tensors.pop(name.removesuffix("weight") + "input_multiplier")
            tensors[name] = np.ascontiguousarray(unpack_panels(tensors[name], len(multiplier)))

    change_tensors(broken, rewrite)
    opened = read_checkpoint(broken)
    batch = pieces(opened)
    exact = NativeEncoder(opened, EngineConfig(compute_dtype="float32")).run(batch, ())
    assert np.abs(make(opened, EngineConfig()).run(batch, ()) - exact).max() < EXACT


def test_only_steps_and_codes_are_given_to_onnx_runtime(int8_folder):
    opened = read_checkpoint(int8_folder(EMBEDDER, "mixed"))
    graph = BodyGraph(opened.spec.body, opened.body_tensors)
    graph.build()
    assert graph.takes_rows
    assert len(graph.given) == 6 * opened.spec.body.num_layers
    assert {opened.body_tensors[name].dtype for name in graph.given} == {"I8"}
    assert opened.body_tensors["embeddings.position_embeddings.weight"].dtype == "F16"


@pytest.mark.parametrize("embeddings", ["mixed", "int4", "int8"])
def test_rows_that_are_looked_up_are_those_of_the_whole_table(int8_folder, embeddings):
    opened = read_checkpoint(int8_folder(EMBEDDER, embeddings))
    look_up, table = opened.body_rows(WORDS), opened.body_float32(WORDS)
    everyone = np.arange(len(table), dtype=np.int32)
    for ids in (everyone, everyone[::-7], np.array([3, 3, 0, 5, 3], np.int32), everyone[:0]):
        rows = look_up(ids)
        assert rows.flags.c_contiguous
        assert rows.dtype == np.float32
        assert np.array_equal(rows, table[ids])


def test_a_quantised_table_is_not_kept_in_float32(int8_folder):
    opened = read_checkpoint(int8_folder(EMBEDDER, "mixed"))
    assert WORDS not in PytorchEncoder(opened, EngineConfig())._parameters


def test_a_table_of_16_bits_keeps_its_type_in_pytorch(int8_folder):
    opened = read_checkpoint(int8_folder(EMBEDDER, "float16"))
    parameters = PytorchEncoder(opened, EngineConfig())._parameters
    assert parameters[WORDS].dtype == torch.float16
    assert not any(name.endswith(("_scale", "input_multiplier")) for name in parameters)


def test_scales_that_are_not_numbers_are_named(broken, make):
    change_tensors(broken, lambda tensors: tensors[SCALE].fill(np.nan))
    encoder = make(read_checkpoint(broken), EngineConfig())
    with pytest.raises(CorruptWeightsError, match=r"query\.weight_scale.*NaN"):
        encoder.run(pieces(read_checkpoint(broken)), ("cls",))


def test_tiers_that_contradict_their_rows_are_refused(broken, make):
    change_tensors(broken, lambda tensors: tensors[f"roberta.{WORDS}_tiers"].fill(0))
    with pytest.raises(CorruptWeightsError, match="four tiers"):
        make(read_checkpoint(broken), EngineConfig())


def hide(monkeypatch, *hidden):
    monkeypatch.setattr(choose, "is_installed", lambda *modules: not set(hidden) & set(modules))


def test_without_the_native_encoder_auto_is_onnx_then_pytorch(int8_folder, monkeypatch):
    opened = read_checkpoint(int8_folder(RERANKER, "mixed"))
    batch = pieces(opened)
    assert choose_encoder(opened, EngineConfig()).capabilities.name == "native"
    int8 = choose_encoder(opened, EngineConfig()).run(batch, ("cls",))
    hidden = ["polyrank._native"]
    for name, next_hidden in (("onnx", "onnxruntime"), ("pytorch", "torch")):
        hide(monkeypatch, *hidden)
        encoder = choose_encoder(opened, EngineConfig())
        assert (encoder.capabilities.name, encoder.capabilities.compute_dtype) == (name, "float32")
        assert cosines(encoder.run(batch, ("cls",)), int8).min() > INT8_COSINE
        plan = plan_encoder(opened, EngineConfig())
        assert (plan.encoder, plan.compute_dtype) == (name, "float32")
        assert plan.reason == (
            f"int8 passed its quality gate, but the {name} encoder has no int8 products; "
            "the folder's int8 weights are computed in float32"
        )
        hidden.append(next_hidden)
    hide(monkeypatch, *hidden)
    # where nothing is installed, what pip can bring is named
    assert plan_encoder(opened, EngineConfig()).encoder == "onnx"


def test_a_folder_without_a_passed_gate_says_what_becomes_of_its_weights(broken):
    (broken / "polyrank_gate.json").unlink()
    plan = plan_encoder(read_checkpoint(broken), EngineConfig("pytorch"))
    assert plan.compute_dtype == "float32"
    assert plan.reason == (
        "the folder has no record of a quality gate for int8; "
        "the folder's int8 weights are computed in float32"
    )


def test_int8_products_are_refused_by_encoders_that_have_none(int8_folder, monkeypatch):
    opened = read_checkpoint(int8_folder(RERANKER, "mixed"))
    for name in ("onnx", "pytorch"):
        config = EngineConfig(name, compute_dtype="int8")
        for act in (choose_encoder, plan_encoder):
            with pytest.raises(ConfigError, match=f"{name} encoder has no int8 products"):
                act(opened, config)
    hide(monkeypatch, "polyrank._native")
    with pytest.raises(MissingExtraError, match="native encoder was not built"):
        choose_encoder(opened, EngineConfig(compute_dtype="int8"))


def test_other_devices_take_pytorch(int8_folder):
    opened = read_checkpoint(int8_folder(RERANKER, "mixed"))
    plan = plan_encoder(opened, EngineConfig(device="cuda"))
    assert (plan.encoder, plan.compute_dtype) == ("pytorch", "float32")


def test_scores_and_vectors_from_a_compressed_tokenizer(int8_folder):
    pairs = [(text[:20], text) for text in TEXTS]
    for name in (RERANKER, EMBEDDER):
        assert read_checkpoint(int8_folder(name, "mixed")).tokenizer_file.suffix == ".gz"
    scores, vectors = (
        [
            make(int8_folder(name, "mixed"), encoder=encoder, compute_dtype=compute_dtype)
            for encoder, compute_dtype in (
                ("native", "float32"),
                ("onnx", "auto"),
                ("pytorch", "float32"),
            )
        ]
        for make, name in ((Reranker, RERANKER), (Embedder, EMBEDDER))
    )
    first, *others = (each.score(pairs, logits=True) for each in scores)
    for other in others:
        assert np.abs(other - first).max() < 1e-4
    exact, *others = (each.encode(TEXTS) for each in vectors)
    for other in others:
        assert np.abs(other - exact).max() < EXACT


PROGRAM = """
import sys

for module in sys.argv[2:]:
    sys.modules[module] = None  # as good as not installed, to find_spec as to import

from polyrank import Embedder

embedder = Embedder(sys.argv[1])
vectors = embedder.encode(["ein Satz", "another one"])
print(embedder.info.encoder.name, embedder.info.encoder.compute_dtype, vectors.shape)
"""


@pytest.mark.parametrize(
    ("hidden", "name"),
    [(["polyrank._native"], "onnx"), (["polyrank._native", "onnx", "onnxruntime"], "pytorch")],
)
def test_a_process_without_the_native_library(int8_folder, hidden, name):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(int8_folder(EMBEDDER, "mixed")), *hidden],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split("\n")[0] == f"{name} float32 (2, 64)"
