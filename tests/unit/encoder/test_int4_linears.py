"""Linear layers stored as 4-bit blocks: layout, loading, products in int8 and float32."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from polyrank import Reranker, _native
from polyrank.checkpoint.formats.int4 import unpack_int4
from polyrank.checkpoint.reader import read_checkpoint
from polyrank.compress.quantize.blocks import quantize_blocks
from polyrank.compress.quantize.writing import write_int8
from polyrank.config import EngineConfig
from polyrank.encoder.choose import choose_encoder
from polyrank.encoder.native import NativeEncoder
from polyrank.encoder.onnx import OnnxEncoder
from polyrank.encoder.paths import BLOCK_PATHS
from polyrank.encoder.pytorch import PytorchEncoder
from polyrank.encoder.smoothing import random_pieces
from polyrank.errors import CapabilityError, CheckpointError, CorruptWeightsError
from tests.texts import SENTENCES

RERANKER, EMBEDDER = "bge-reranker-base", "multilingual-e5-small"
LAYOUT = Path(__file__).parents[3] / "docs" / "reference" / "checkpoint-format.md"
WEIGHTS = "model.safetensors"
INNER = "roberta.encoder.layer.1.intermediate.dense."
QUERY = "roberta.encoder.layer.0.attention.self.query."
INT8, FLOAT32 = (EngineConfig("native", compute_dtype=kind) for kind in ("int8", "float32"))


def is_linear(name):
    return re.search(r"encoder\.layer\.\d+\.(?!.*LayerNorm).*weight$", name) is not None


def change_tensors(folder, change):
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})


def to_blocks(tensors):
    for name in filter(is_linear, [*tensors]):
        tensors[name] = unpack_int4(*quantize_blocks(tensors[name]))


def shrink(source, folder, linears="int4"):
    opened = read_checkpoint(source)
    widths = NativeEncoder(opened, FLOAT32).measure_inputs(random_pieces(opened.spec.body))
    folder.mkdir()
    write_int8(opened, widths, folder, linears=linears, embeddings="float32")
    return folder


@pytest.fixture(scope="module")
def folders(checkpoint, tmp_path_factory):
    """By name: a checkpoint that was 4-bit before, its folder of 4-bit blocks, one of int8."""
    made = {}

    def get(name):
        if name not in made:
            base = tmp_path_factory.mktemp("int4")
            source = Path(shutil.copytree(checkpoint(name), base / "source"))
            change_tensors(source, to_blocks)
            made[name] = source, *(shrink(source, base / kind, kind) for kind in ("int4", "int8"))
        return made[name]

    return get


@pytest.fixture
def broken(folders, tmp_path):
    """A copy that may be changed."""
    return Path(shutil.copytree(folders(RERANKER)[1], tmp_path / "broken"))


def loss(rows, exact):
    return (
        1
        - (
            (rows * exact).sum(axis=1)
            / np.linalg.norm(rows, axis=1)
            / np.linalg.norm(exact, axis=1)
        ).mean()
    )


def rows_of(folder, config):
    opened = read_checkpoint(folder)
    return choose_encoder(opened, config).run(random_pieces(opened.spec.body), ())


@pytest.mark.parametrize("isa", _native.usable_paths())
@pytest.mark.parametrize("name", [RERANKER, EMBEDDER])
def test_a_checkpoint_that_was_4_bit_before_loses_nothing(folders, monkeypatch, isa, name):
    monkeypatch.setenv("POLYRANK_ISA", isa)
    source, blocks, int8 = folders(name)
    exact = rows_of(source, FLOAT32)
    assert rows_of(blocks, FLOAT32).tobytes() == exact.tobytes()
    by_blocks, by_steps = rows_of(blocks, INT8), rows_of(int8, INT8)
    if isa in BLOCK_PATHS:  # blocks are not rounded to int8 steps: nearer to float32
        assert loss(by_blocks, exact) < loss(by_steps, exact)
    else:
        assert by_blocks.tobytes() == by_steps.tobytes()


@pytest.mark.parametrize("isa", sorted(BLOCK_PATHS & {*_native.usable_paths()}))
def test_blocks_give_a_text_the_same_bits_in_any_batch(folders, monkeypatch, isa):
    monkeypatch.setenv("POLYRANK_ISA", isa)
    reranker = Reranker(folders(RERANKER)[1], compute_dtype="int8", encoder="native")
    pairs = [(SENTENCES["en"], text) for text in SENTENCES.values()]
    together = reranker.score(pairs)
    assert together.tobytes() == np.concatenate([reranker.score([p]) for p in pairs]).tobytes()


@pytest.mark.parametrize("isa", sorted(BLOCK_PATHS & {*_native.usable_paths()}))
def test_a_scale_of_blocks_that_is_no_number_is_refused(broken, monkeypatch, isa):
    monkeypatch.setenv("POLYRANK_ISA", isa)
    change_tensors(broken, lambda tensors: tensors[INNER + "weight_scale"].fill(np.inf))
    with pytest.raises(CorruptWeightsError, match=r"intermediate\.dense\.weight_scale"):
        rows_of(broken, INT8)


def test_another_checkpoint_loses_what_4_bits_cost(checkpoint, tmp_path):
    source = checkpoint(EMBEDDER)
    folder = shrink(source, tmp_path / "small")
    found, wanted = rows_of(folder, FLOAT32), rows_of(source, FLOAT32)
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(wanted, axis=1)
    cosines = (found * wanted).sum(axis=1) / norms
    assert 0.95 < cosines.mean() < 0.9999


@pytest.mark.parametrize("make", [OnnxEncoder, PytorchEncoder])
def test_encoders_without_int8_products_read_them(folders, make):
    source, folder = (read_checkpoint(path) for path in folders(RERANKER)[:2])
    batch = random_pieces(source.spec.body)
    rows = [make(opened, EngineConfig()).run(batch, ()) for opened in (source, folder)]
    assert np.abs(rows[0] - rows[1]).max() < 1e-5


def test_types_and_size_in_the_file(folders):
    source, folder, _ = folders(RERANKER)
    before, tensors = load_file(source / WEIGHTS), load_file(folder / WEIGHTS)
    names = list(filter(is_linear, before))
    assert len(names) == 3 * 6
    for name in names:
        outputs, inputs = before[name].shape
        scales, multiplier = tensors[name + "_scale"], name.removesuffix("weight")
        assert (tensors[name].dtype, tensors[name].shape) == (np.uint8, (outputs, inputs // 2))
        assert (scales.dtype, scales.shape) == (np.float16, (outputs, inputs // 32))
        assert tensors[multiplier + "input_multiplier"].shape == (inputs,)
    config = json.loads((folder / "config.json").read_text())
    assert config["polyrank_quantization"]["scheme"] == "int4-blocks"
    spec = read_checkpoint(folder).spec
    assert spec.quantization.linears == "int4"


def test_snippet_of_the_layout_page_gives_the_weights(folders):
    source, folder, _ = folders(RERANKER)
    (snippet,) = re.findall(r"```python\n(.*?)```", LAYOUT.read_text("utf8"), re.DOTALL)
    names = {"FOLDER": str(folder)}
    exec(snippet, names)
    wanted = load_file(source / WEIGHTS)
    found = names["weights"]
    assert sorted(found) == sorted(name for name in wanted if "position_ids" not in name)
    assert all(np.array_equal(found[name], wanted[name]) for name in found)


def test_multipliers_may_be_absent(folders, broken):
    def remove(tensors):
        for name in [name for name in tensors if name.endswith("input_multiplier")]:
            del tensors[name]

    change_tensors(broken, remove)
    source = folders(RERANKER)[0]
    assert rows_of(broken, FLOAT32).tobytes() == rows_of(source, FLOAT32).tobytes()
    pairs = [(text[:20], text) for text in SENTENCES.values()]
    scores = [
        Reranker(path, compute_dtype="int8").score(pairs, logits=True) for path in (broken, source)
    ]
    assert np.abs(scores[0] - scores[1]).max() < 0.2


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (QUERY + "input_multiplier", 0.0, "differs from"),
        (INNER + "input_multiplier", 0.0, "holds 0"),
        (INNER + "input_multiplier", np.nan, "NaN, infinity or a negative"),
        (INNER + "weight_scale", np.nan, r"intermediate\.dense\.weight.*NaN"),
    ],
)
def test_numbers_that_cannot_be_are_named(broken, name, value, message):
    def spoil(tensors):
        tensors[name] = tensors[name].copy()
        tensors[name].flat[3] = value

    change_tensors(broken, spoil)
    with pytest.raises(CorruptWeightsError, match=message):
        rows_of(broken, INT8)


def test_another_shape_or_scheme_is_refused(broken):
    change_tensors(
        broken, lambda tensors: tensors.update({INNER + "weight": tensors[INNER + "weight"][:, 1:]})
    )
    with pytest.raises(CorruptWeightsError, match=r"intermediate\.dense\.weight.*shape"):
        read_checkpoint(broken)
    path = broken / "config.json"
    config = json.loads(path.read_text())
    config["polyrank_quantization"]["scheme"] = "int3"
    path.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="'int8-per-channel' or 'int4-blocks'"):
        read_checkpoint(broken)


def test_weights_beyond_float16_are_not_stored(folders, tmp_path):
    wide = Path(shutil.copytree(folders(RERANKER)[0], tmp_path / "wide"))
    change_tensors(wide, lambda tensors: tensors[INNER + "weight"].__setitem__((0, 0), 1e6))
    with pytest.raises(CapabilityError, match="--weights int8"):
        shrink(wide, tmp_path / "small")
