"""int8 folders: layout, loading, the gate's record and refusal, the command."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from polyrank import Classifier, Embedder, Reranker, _native
from polyrank.checkpoint.formats.int4 import pack_int4, unpack_int4
from polyrank.checkpoint.formats.panels import pack_panels, panels_shape, unpack_panels
from polyrank.checkpoint.gate import fingerprint
from polyrank.checkpoint.header import DTYPES
from polyrank.checkpoint.modules import Modules
from polyrank.checkpoint.reader import read_checkpoint
from polyrank.checkpoint.spec import TABLE_TYPES
from polyrank.checkpoint.state import settings_fingerprint
from polyrank.cli.info import describe
from polyrank.compress.gate.ranking import Agreement, objections, rank_correlation
from polyrank.compress.gate.record import ClassifierFigures, LabelFigures
from polyrank.compress.quantize import calibration as calibrate
from polyrank.compress.quantize.blocks import quantize_blocks
from polyrank.compress.quantize.calibration import record_inputs
from polyrank.compress.quantize.multipliers import fit_multipliers
from polyrank.compress.quantize.run import GateConfig, judge_folder, quantize_folder
from polyrank.compress.quantize.writing import quantize_rows, write_int8
from polyrank.compress.vocabulary.table import compress_rows
from polyrank.config import EngineConfig
from polyrank.encoder.choose import choose_encoder, plan_encoder
from polyrank.encoder.native import NativeEncoder
from polyrank.encoder.smoothing import input_multipliers, random_pieces
from polyrank.errors import (
    CapabilityError,
    CheckpointError,
    ConfigError,
    CorruptWeightsError,
    DataError,
    MissingWeightError,
    UnsupportedArchitectureError,
)
from polyrank.evaluation import Bm25Retriever, EvaluationConfig, load_dataset
from polyrank.evaluation.labelled import is_labelled, load_labelled, macro_f1
from tests.texts import SENTENCES

TEXTS = list(SENTENCES.values())
QUERIES = [text[:25] for text in TEXTS]
EMBEDDER, RERANKER, BERT = "multilingual-e5-small", "bge-reranker-base", "bert-reranker"
LAYOUT = Path(__file__).parents[3] / "docs" / "reference" / "checkpoint-format.md"
FLOAT32, INT8 = (
    EngineConfig("native", compute_dtype="float32"),
    EngineConfig("native", compute_dtype="int8"),
)
CLASSIFIER = "three-way-classifier"
WORDS = "embeddings.word_embeddings.weight"
QUERY_LAYER = "encoder.layer.0.attention.self.query."


def sizes(folder):
    """Widths as the encoder measures them when it quantises at load."""
    checkpoint = read_checkpoint(folder)
    return NativeEncoder(checkpoint, FLOAT32).measure_inputs(random_pieces(checkpoint.spec.body))


def some_mixed_table(checkpoint):
    table = checkpoint.body_float32(WORDS)
    return compress_rows(table, np.arange(len(table), dtype=np.uint8) * 7 // 3 % 4)


@pytest.fixture(scope="module")
def int8_folder(checkpoint, tmp_path_factory):
    made = {}

    def get(name, embeddings="float32"):
        if (name, embeddings) not in made:
            folder = tmp_path_factory.mktemp("int8") / name
            folder.mkdir()
            source = checkpoint(name)
            opened = read_checkpoint(source)
            mixed = some_mixed_table(opened) if embeddings == "mixed" else None
            write_int8(opened, sizes(source), folder, embeddings=embeddings, mixed=mixed)
            made[name, embeddings] = folder
        return made[name, embeddings]

    return get


@pytest.fixture
def broken(int8_folder, tmp_path):
    """A copy that may be changed."""
    return Path(shutil.copytree(int8_folder(RERANKER), tmp_path / "broken"))


def change_tensors(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def change_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def rows_of(folder, config):
    checkpoint = read_checkpoint(folder)
    return choose_encoder(checkpoint, config).run(random_pieces(checkpoint.spec.body), ("mean",))


@pytest.mark.parametrize("with_multipliers", [True, False])
def test_steps_are_half_a_step_from_the_weights(with_multipliers):
    generator = np.random.default_rng(0)
    matrix = generator.normal(size=(40, 32)).astype(np.float32)
    matrix[3] = 0
    multipliers = generator.uniform(0.1, 9, 32).astype(np.float32) if with_multipliers else None
    steps, scales = quantize_rows(matrix, multipliers)
    assert steps.dtype == np.int8
    assert scales.dtype == np.float32
    assert np.abs(steps).max(axis=1).tolist() == [0 if i == 3 else 127 for i in range(40)]
    scaled = matrix if multipliers is None else matrix / multipliers
    assert (np.abs(steps * scales[:, None] - scaled) <= scales[:, None] * 0.5001).all()


def blocks(seed, scales):
    steps = np.random.default_rng(seed).integers(-8, 8, (len(scales), 32 * scales.shape[1]))
    steps[:, ::32] = -8
    return unpack_int4(pack_int4(steps.astype(np.int8)), scales)


def test_byte_order_of_4_bit_blocks():
    steps = np.arange(64, dtype=np.int8).reshape(1, 64) % 16 - 8
    packed = pack_int4(steps)
    assert packed.shape == (1, 32)
    assert packed[0, 3] == 3 | 3 << 4
    steps[0, 32 + 3], steps[0, 32 + 19] = -8, 7
    assert pack_int4(steps)[0, 16 + 3] == 0 | 15 << 4
    scales = np.array([[2, -0.5]], np.float16)
    expected = steps * np.repeat(scales.astype(np.float32), 32, axis=1)
    assert np.array_equal(unpack_int4(pack_int4(steps), scales), expected)


def test_4_bit_blocks_come_back_without_loss():
    scales = np.random.default_rng(0).normal(size=(300, 2)).astype(np.float16)
    scales[0] = [0, 6e-8]  # no value at all, and float16's smallest
    table = blocks(1, scales)
    packed, found = quantize_blocks(table)
    assert np.array_equal(unpack_int4(packed, found), table)
    assert np.array_equal(found[1:], scales[1:])


def test_4_bit_blocks_lose_less_than_scales_by_the_widest_value_would():
    table = np.random.default_rng(0).normal(size=(200, 64)).astype(np.float32)
    steps_of_widest = np.abs(table.reshape(-1, 32)).max(axis=1) / np.float32(7)
    scales = steps_of_widest.astype(np.float16).reshape(200, 2)
    sizes = np.repeat(scales.astype(np.float32), 32, axis=1)
    by_widest = np.clip(np.rint(table / sizes), -8, 7) * sizes
    found = unpack_int4(*quantize_blocks(table))
    assert np.square(found - table).sum() < 0.8 * np.square(by_widest - table).sum()


def test_a_table_of_4_bit_blocks_gives_the_rows_of_its_float32_form(int8_folder, tmp_path):
    folder = Path(shutil.copytree(int8_folder(EMBEDDER, "int4"), tmp_path / "float32"))
    values = read_checkpoint(folder).body_float32(WORDS)

    def widen(tensors):
        tensors[WORDS] = values
        del tensors[WORDS + "_scale"]

    change_tensors(folder, widen)
    block = json.loads((folder / "config.json").read_text())["polyrank_quantization"]
    change_json(folder / "config.json", polyrank_quantization={**block, "embeddings": "float32"})
    for config in (INT8, FLOAT32):
        rows = rows_of(int8_folder(EMBEDDER, "int4"), config)
        assert rows.tobytes() == rows_of(folder, config).tobytes()


def test_a_table_of_4_bit_blocks_of_another_shape_or_type_is_refused(int8_folder, tmp_path):
    folder = Path(shutil.copytree(int8_folder(EMBEDDER, "int4"), tmp_path / "broken"))
    scales = load_file(folder / "model.safetensors")[WORDS + "_scale"]
    change_tensors(folder, lambda tensors: tensors.update({WORDS + "_scale": scales[:, :1].copy()}))
    with pytest.raises(CorruptWeightsError, match=r"weight_scale.*shape"):
        read_checkpoint(folder)
    wide = scales.astype(np.float32)
    change_tensors(folder, lambda tensors: tensors.update({WORDS + "_scale": wide}))
    with pytest.raises(CorruptWeightsError, match="holds F32 values; polyrank reads F16"):
        read_checkpoint(folder)
    change_json(folder / "config.json", hidden_size=48, num_attention_heads=3)
    with pytest.raises(CheckpointError, match="multiple of 32"):
        read_checkpoint(folder)


def test_parameters_of_4_bit_blocks_are_counted_one_by_one(int8_folder):
    folders = [int8_folder(EMBEDDER, kind) for kind in ("int4", "float16")]
    counts = [describe(read_checkpoint(folder))["parameters"] for folder in folders]
    assert counts[0] == counts[1]


def test_scores_of_the_folder_are_those_of_quantising_at_load_to_the_bit(checkpoint, int8_folder):
    pairs = [(query, text) for query, text in zip(QUERIES, TEXTS, strict=True)]
    for name in (RERANKER, BERT):
        at_load = Reranker(checkpoint(name), compute_dtype="int8").score(pairs, logits=True)
        stored = Reranker(int8_folder(name), compute_dtype="int8").score(pairs, logits=True)
        exact = Reranker(checkpoint(name), compute_dtype="float32").score(pairs, logits=True)
        assert at_load.tobytes() == stored.tobytes()
        assert not np.array_equal(exact, stored)
        assert np.abs(exact - stored).max() < 0.2


@pytest.mark.parametrize("embeddings", TABLE_TYPES)
@pytest.mark.parametrize("name", [EMBEDDER, BERT])
def test_snippet_of_the_layout_page_gives_what_polyrank_reads(
    checkpoint, int8_folder, tmp_path, name, embeddings
):
    folder = int8_folder(name, embeddings)
    (snippet,) = re.findall(r"```python\n(.*?)```", LAYOUT.read_text("utf8"), re.DOTALL)
    names = {"FOLDER": str(folder)}
    exec(snippet, names)
    found = names["weights"]
    opened, source = read_checkpoint(folder), read_checkpoint(checkpoint(name))
    for key, info in source.body_tensors.items():
        expected = source.body_float32(key)
        assert found[info.name].dtype == np.float32
        assert np.array_equal(found[info.name], opened.body_float32(key)), key
        off = {"int4": 0.25, "mixed": 1.0}.get(embeddings, 0.05) if key == WORDS else 0.05
        assert np.abs(found[info.name] - expected).max() <= np.abs(expected).max() * off, key
    assert not [key for key in found if key.endswith(("_scale", "input_multiplier"))]
    assert sorted(found) == sorted(key for key in source.weights if source.weights.is_float(key))


@pytest.mark.parametrize("embeddings", TABLE_TYPES)
def test_types_in_the_file(int8_folder, embeddings):
    tensors = load_file(int8_folder(EMBEDDER, embeddings) / "model.safetensors")
    kinds = {name: str(array.dtype) for name, array in tensors.items()}
    words = kinds.pop(WORDS)
    if embeddings == "mixed":
        pieces = {key: kinds.pop(key) for key in [*kinds] if key.startswith(WORDS)}
        assert words == pieces.pop(WORDS + "_tiers") == "uint8"
        assert len(pieces) == 8
        assert kinds.pop("embeddings.position_embeddings.weight") == "float16"
        assert all(
            kind == ("uint8" if "codes" in key else "float16") for key, kind in pieces.items()
        )
    elif embeddings == "int4":
        assert (words, kinds.pop(WORDS + "_scale")) == ("uint8", "float16")
        rows = len(tensors[WORDS])
        assert (tensors[WORDS].shape, tensors[WORDS + "_scale"].shape) == ((rows, 32), (rows, 2))
    else:
        assert words == embeddings
    int8 = [name for name, kind in kinds.items() if kind == "int8"]
    assert len(int8) == 3 * 6
    assert {kind for name, kind in kinds.items() if name not in int8} == {"float32"}
    for name in int8:
        (outputs,) = tensors[name + "_scale"].shape
        (inputs,) = tensors[name.removesuffix("weight") + "input_multiplier"].shape
        assert tensors[name].shape == panels_shape((outputs, inputs))


def in_rows(tensors):
    for name in [name for name, array in tensors.items() if array.ndim == 4]:
        multiplier = tensors[name.removesuffix("weight") + "input_multiplier"]
        tensors[name] = np.ascontiguousarray(unpack_panels(tensors[name], len(multiplier)))


@pytest.mark.parametrize("isa", _native.usable_paths())
def test_panels_are_read_where_they_lie_and_rows_and_unaligned_panels_give_the_same_bits(
    int8_folder, broken, monkeypatch, isa
):
    monkeypatch.setenv("POLYRANK_ISA", isa)
    config = EngineConfig("native", compute_dtype="int8")
    folder = int8_folder(RERANKER)
    expected = rows_of(folder, config)
    weights = read_checkpoint(folder).weights
    for name in weights:
        if len(weights.info(name, dtypes=tuple(DTYPES)).shape) == 4:
            assert weights.get_int8(name).ctypes.data % 64 == 0
    assert NativeEncoder(read_checkpoint(folder), config)._body.packed_bytes == 0
    change_tensors(broken, lambda tensors: None)  # the safetensors library aligns nothing
    assert np.array_equal(rows_of(broken, config), expected)
    change_tensors(broken, in_rows)
    assert np.array_equal(rows_of(broken, config), expected)


def test_panels_and_rows_in_one_layer_are_refused(broken):
    def change(tensors):
        name = next(name for name in tensors if name.endswith("self.key.weight"))
        multiplier = name.removesuffix("weight") + "input_multiplier"
        part = {key: tensors[key] for key in (name, multiplier)}
        in_rows(part)
        tensors.update(part)

    change_tensors(broken, change)
    with pytest.raises(CorruptWeightsError, match="partly in panels"):
        rows_of(broken, EngineConfig("native", compute_dtype="int8"))


@pytest.mark.parametrize("shape", [(32, 64), (48, 96), (16, 4)])
def test_panels_and_back(shape):
    steps = np.random.default_rng(0).integers(-127, 128, shape, np.int8)
    panels = pack_panels(steps)
    assert panels.shape == panels_shape(shape)
    assert panels[1 % len(panels), 0, 3, 2] == steps[16 * (1 % len(panels)) + 3, 2]
    assert np.array_equal(unpack_panels(panels, shape[1]), steps)


@pytest.mark.parametrize("embeddings", TABLE_TYPES)
def test_all_tables_run_in_both_compute_dtypes(checkpoint, int8_folder, embeddings):
    exact = rows_of(checkpoint(EMBEDDER), FLOAT32)
    for config in (INT8, FLOAT32):
        rows = rows_of(int8_folder(EMBEDDER, embeddings), config)
        cosines = (rows * exact).sum(1) / np.linalg.norm(rows, axis=1)
        assert (cosines / np.linalg.norm(exact, axis=1)).min() > 0.995


def test_the_rest_of_the_folder_is_copied(checkpoint, int8_folder):
    def names(folder):
        return {path.relative_to(folder).as_posix() for path in folder.rglob("*.json")}

    assert names(int8_folder(EMBEDDER)) >= names(checkpoint(EMBEDDER))
    assert Embedder(int8_folder(EMBEDDER)).info.dimensions == 64


def test_an_int8_folder_is_not_quantised_again(int8_folder, tmp_path, dataset):
    opened = read_checkpoint(int8_folder(RERANKER))
    with pytest.raises(ConfigError, match="int8 already"):
        write_int8(opened, np.ones((3, 4, 96), np.float32), tmp_path)
    with pytest.raises(ConfigError, match="int8 already"):
        judge_folder(opened, dataset, gate_config())


def test_a_matrix_of_another_type_is_refused(broken):
    def widen(tensors):
        key = "roberta." + QUERY_LAYER + "weight"
        tensors[key] = tensors[key].astype(np.float32)

    change_tensors(broken, widen)
    with pytest.raises(CorruptWeightsError, match="holds F32 values; polyrank reads I8"):
        read_checkpoint(broken)


def test_int8_without_the_block_is_refused(broken):
    path = broken / "config.json"
    config = json.loads(path.read_text())
    del config["polyrank_quantization"]
    path.write_text(json.dumps(config))
    with pytest.raises(CorruptWeightsError, match=r"holds I8 values.*unquantised"):
        read_checkpoint(broken)


def test_missing_and_impossible_scales(broken):
    key = "roberta." + QUERY_LAYER
    change_tensors(broken, lambda tensors: tensors[key + "weight_scale"].fill(np.nan))
    with pytest.raises(CorruptWeightsError, match=r"query\.weight_scale.*NaN"):
        Reranker(broken, compute_dtype="int8")
    change_tensors(broken, lambda tensors: tensors[key + "weight_scale"].fill(1))
    change_tensors(broken, lambda tensors: tensors[key + "input_multiplier"].fill(2))
    with pytest.raises(CorruptWeightsError, match="share"):
        Reranker(broken, compute_dtype="int8")
    change_tensors(broken, lambda tensors: tensors.pop(key + "input_multiplier"))
    with pytest.raises(MissingWeightError, match="neighbours"):
        Reranker(broken, compute_dtype="int8")
    change_tensors(broken, lambda tensors: tensors.pop(key + "weight_scale"))
    with pytest.raises(MissingWeightError, match="weight_scale"):
        read_checkpoint(broken)


def test_layers_without_multipliers_run(broken):
    def drop(tensors):
        for key in [key for key in tensors if key.endswith("input_multiplier")]:
            del tensors[key]

    change_tensors(broken, drop)
    int8, exact = rows_of(broken, INT8), rows_of(broken, FLOAT32)
    assert not np.array_equal(int8, exact)
    assert np.abs(int8 - exact).max() < 0.3


@pytest.mark.parametrize(
    ("block", "error"),
    [
        ({"version": 2, "scheme": "int8-per-channel"}, UnsupportedArchitectureError),
        ({"version": 1, "scheme": "int4"}, UnsupportedArchitectureError),
        ({"version": 1, "scheme": "int8-per-channel", "embeddings": "int3"}, CheckpointError),
        ("int8", CheckpointError),
    ],
)
def test_unknown_blocks(broken, block, error):
    change_json(broken / "config.json", polyrank_quantization=block)
    with pytest.raises(error, match=r"int8|polyrank_quantization"):
        read_checkpoint(broken)


def record_into(folder, **changes):
    opened = read_checkpoint(folder)
    record = {
        "passed": True,
        "weights_sha256": fingerprint(opened.weights.paths),
        "settings_sha256": settings_fingerprint(Modules(folder), opened.tokenizer_file),
    }
    (folder / "polyrank_gate.json").write_text(json.dumps(record | changes))


@pytest.mark.parametrize("make_int8", [True, False])
def test_auto_is_int8_only_after_a_passed_gate_on_these_weights(
    checkpoint, broken, tmp_path, make_int8
):
    folder = broken
    if not make_int8:
        folder = Path(shutil.copytree(checkpoint(RERANKER), tmp_path / "float"))

    def compute_dtype():
        reranker = Reranker(folder, encoder="native")
        notes = [note for note in reranker.info.notes if "int8" in note]
        assert bool(notes) == (reranker.info.encoder.compute_dtype == "int8")
        plan = plan_encoder(read_checkpoint(folder), EngineConfig())
        assert (plan.encoder, plan.compute_dtype) == ("native", reranker.info.encoder.compute_dtype)
        return plan.compute_dtype, plan.reason

    assert compute_dtype() == ("float32", "the folder has no record of a quality gate for int8")
    record_into(folder, dataset="xquad", created="2026-01-31")
    assert compute_dtype() == ("int8", "int8 passed its quality gate (xquad, 2026-01-31)")
    record_into(folder, passed=False)
    assert compute_dtype() == ("float32", "int8 failed its quality gate")
    record_into(folder, weights_sha256="0" * 64)
    assert compute_dtype()[0] == "float32"
    assert "other weights" in compute_dtype()[1]
    record_into(folder)
    # the same shapes and sizes, other values
    change_tensors(folder, lambda tensors: tensors["classifier.dense.weight"].fill(0.5))
    assert compute_dtype()[0] == "float32"


def change_pooling(folder):
    change_json(folder / "1_Pooling" / "config.json", pooling_mode="cls")


def change_tokenizer(folder):
    path = folder / "tokenizer.json"
    path.write_bytes(path.read_bytes() + b"\n")


SETTINGS = {
    "config": lambda folder: change_json(folder / "config.json", layer_norm_eps=1e-6),
    "pooling": change_pooling,
    "modules": lambda folder: (folder / "modules.json").write_text(
        json.dumps(json.loads((folder / "modules.json").read_text())[:2])
    ),
    "prompts": lambda folder: change_json(
        folder / "config_sentence_transformers.json", prompts={"query": "ask: "}
    ),
    "length": lambda folder: change_json(folder / "sentence_bert_config.json", max_seq_length=9),
    "tokenizer limit": lambda folder: change_json(
        folder / "tokenizer_config.json", model_max_length=9
    ),
    "tokenizer": change_tokenizer,
    "dense": lambda folder: save_file(
        {name: 2 * value for name, value in load_file(folder / DENSE_FILE).items()},
        folder / DENSE_FILE,
    ),
}
DENSE_FILE = "2_Dense/model.safetensors"


@pytest.mark.parametrize("what", list(SETTINGS))
def test_the_record_speaks_of_settings_too(what, checkpoint, tmp_path):
    folder = Path(shutil.copytree(checkpoint("dense-embedder"), tmp_path / "float"))
    record_into(folder)
    assert read_checkpoint(folder).gate().passed
    before = read_checkpoint(folder).state
    # learnt after the gate has measured, and nothing that int8 changes
    change_json(folder / "config.json", polyrank_first_stage_weights={"lexical": 0.5})
    assert read_checkpoint(folder).gate().passed
    SETTINGS[what](folder)
    found = read_checkpoint(folder)
    assert not found.gate().passed
    assert "other settings" in found.gate().reason
    assert found.state != before


def test_a_record_of_weights_alone_is_no_longer_enough(checkpoint, tmp_path):
    folder = Path(shutil.copytree(checkpoint(RERANKER), tmp_path / "float"))
    record_into(folder, settings_sha256=None)
    assert not read_checkpoint(folder).gate().passed


def test_one_number_of_a_head_changes_the_fingerprint(checkpoint, tmp_path):
    folder = Path(shutil.copytree(checkpoint(RERANKER), tmp_path / "float"))
    paths = (folder / "model.safetensors",)
    seen = {fingerprint(paths)}
    assert seen == {fingerprint(paths)}
    for place in ((0, 0), (17, 3), (-1, -1)):

        def nudge(tensors, place=place):
            tensors["classifier.dense.weight"][place] += 1.0

        change_tensors(folder, nudge)
        seen.add(fingerprint(paths))
    assert len(seen) == 4


def test_the_other_encoders_ignore_a_passed_gate_of_a_float_folder(checkpoint, tmp_path):
    folder = Path(shutil.copytree(checkpoint(RERANKER), tmp_path / "float"))
    record_into(folder)
    assert Reranker(folder, encoder="onnx").info.encoder.compute_dtype == "float32"
    plan = plan_encoder(read_checkpoint(folder), EngineConfig("onnx"))
    assert plan.compute_dtype == "float32"
    assert "onnx encoder has no int8 products" in plan.reason


@pytest.mark.parametrize(
    "record", ["[]", "{", '{"passed": 1}', '{"passed": true, "weights_sha256": "", "tasks": 5}']
)
def test_a_record_that_cannot_be_read_is_an_error(broken, record):
    (broken / "polyrank_gate.json").write_text(record)
    with pytest.raises(CheckpointError, match=r"polyrank_gate\.json"):
        Reranker(broken)


def test_rank_correlation_against_scipy():
    stats = pytest.importorskip("scipy.stats")
    generator = np.random.default_rng(0)
    for _ in range(5):
        first, second = generator.integers(0, 6, (2, 20))
        expected = stats.spearmanr(first, second).statistic
        assert rank_correlation(first, second) == pytest.approx(expected, abs=1e-12)
    assert rank_correlation(np.arange(3), np.ones(3)) == 0


def test_agreement_of_equal_values_is_perfect():
    agreement = Agreement()
    rows = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
    agreement.add_rows((rows, rows))
    agreement.add_scores((rows[0], rows[0]))
    agreement.add_scores((rows[0, :1], rows[0, :1] + 1))  # too few to be ordered
    assert agreement.cosines[0] == pytest.approx(np.ones(4))
    assert agreement.correlations == [pytest.approx(1)]
    assert agreement.largest_change == 1


@pytest.fixture(scope="module")
def data(checkpoint, tmp_path_factory):
    """A set whose grades are float32's own order, so that any change of order is a loss."""
    folder = tmp_path_factory.mktemp("data") / "ordered"
    folder.mkdir()
    documents = [text[4 * i :] for text in TEXTS for i in range(3)]
    write_lines(
        folder / "corpus.jsonl", [{"_id": f"d{i}", "text": t} for i, t in enumerate(documents)]
    )
    write_lines(
        folder / "queries.jsonl", [{"_id": f"q{i}", "text": t} for i, t in enumerate(QUERIES)]
    )
    embedder = Embedder(checkpoint(EMBEDDER), compute_dtype="float32")
    scores = (
        embedder.encode(QUERIES, input_type="query")
        @ embedder.encode(documents, input_type="document").T
    )
    lines = ["query-id\tcorpus-id\tscore"]
    for query, row in enumerate(scores):
        for grade, document in enumerate(np.argsort(row)[-10:], start=1):
            lines.append(f"q{query}\td{document}\t{grade}")
    (folder / "qrels.tsv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def dataset(data):
    return [load_dataset(data)]


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf8")


def gate_config(tolerance=1.0):
    return GateConfig(
        evaluation=EvaluationConfig(top_k=20),
        retriever=Bm25Retriever(),
        retriever_name="bm25",
        created="2026-01-31",
        tolerance=tolerance,
        num_threads=2,
    )


@pytest.mark.parametrize(("name", "task"), [(EMBEDDER, "embed"), (RERANKER, "rerank")])
def test_a_folder_that_passes_is_int8_for_whoever_loads_it(
    checkpoint, dataset, tmp_path, name, task
):
    steps = []
    outcome = quantize_folder(
        read_checkpoint(checkpoint(name)),
        dataset,
        tmp_path / "made" / "out",
        gate_config(),
        progress=lambda step, done, total: steps.append((step, done == total)),
    )
    assert outcome.folder == tmp_path / "made" / "out"
    assert os.listdir(tmp_path / "made") == ["out"]
    assert {"calibration", "documents", "queries", "rankings"} == {step for step, _ in steps}
    (figures,) = outcome.record.tasks
    assert (figures.task, figures.top_k) == (task, 20)
    assert 0.9 < figures.cosine_lowest < figures.cosine_mean < 1
    assert 0 < figures.largest_score_change < 0.2
    # two documents of nearly the same score may change places
    assert -1 <= figures.rank_correlation_lowest <= figures.rank_correlation <= 1
    assert figures.languages["all"].num_queries == len(QUERIES)
    assert figures.num_rows == (84 if task == "embed" else figures.num_rows)
    written = json.loads(outcome.record_path.read_text("utf8"))
    assert written["passed"] is True
    assert written["tasks"][0]["ndcg_int8"] == figures.ndcg_int8
    reranker = Reranker(outcome.folder)
    assert reranker.info.encoder.compute_dtype == "int8"
    assert any("passed its quality gate (ordered, 2026-01-31)" in n for n in reranker.info.notes)


def test_figures_are_those_of_polyrank_eval(checkpoint, dataset, tmp_path):
    outcome = quantize_folder(
        read_checkpoint(checkpoint(EMBEDDER)), dataset, tmp_path / "out", gate_config()
    )
    (figures,) = outcome.record.tasks
    assert figures.ndcg_float32 == pytest.approx(1)  # the grades are its own order
    assert figures.ndcg_int8 < 1
    exact, int8 = (
        Embedder(folder).encode(TEXTS[:1], input_type="document")
        for folder in (checkpoint(EMBEDDER), tmp_path / "out")
    )
    assert figures.cosine_lowest <= float((exact * int8).sum()) <= 1


def test_beyond_the_tolerance_only_the_report_remains(checkpoint, dataset, tmp_path):
    outcome = quantize_folder(
        read_checkpoint(checkpoint(EMBEDDER)), dataset, tmp_path / "out", gate_config(0.0)
    )
    assert outcome.folder is None
    assert os.listdir(tmp_path) == ["out.gate.json"]
    report = json.loads((tmp_path / "out.gate.json").read_text("utf8"))
    assert report["passed"] is False
    assert "mean nDCG@10 falls from 1.0000" in report["reasons"][0]


def test_record_only_lets_auto_quantise_at_load(checkpoint, dataset, tmp_path):
    folder = Path(shutil.copytree(checkpoint(EMBEDDER), tmp_path / "float"))
    failed = judge_folder(read_checkpoint(folder), dataset, gate_config(0.0))
    assert failed.folder is None
    assert Embedder(folder).info.encoder.compute_dtype == "float32"
    passed = judge_folder(read_checkpoint(folder), dataset, gate_config())
    assert passed.folder == folder
    assert Embedder(folder, num_threads=1).info.encoder.compute_dtype == "int8"


def test_a_folder_in_the_way_is_left_alone(checkpoint, dataset, tmp_path):
    with pytest.raises(ConfigError, match="exists already"):
        quantize_folder(read_checkpoint(checkpoint(EMBEDDER)), dataset, tmp_path, gate_config())


def write_labelled(folder, rows_by_file):
    folder.mkdir(parents=True)
    for name, rows in rows_by_file.items():
        write_lines(folder / name, rows)
    return folder


@pytest.fixture(scope="module")
def labelled(checkpoint, tmp_path_factory):
    """Pairs labelled by float32 itself, so that any change of label is a loss."""
    pairs = [(query, text) for query in QUERIES[:6] for text in TEXTS[:10]]
    results = Classifier(checkpoint(CLASSIFIER), compute_dtype="float32").classify(pairs)
    rows = [
        {"_id": str(i), "query": pair[0], "passage": pair[1], "label": result.label, "lang": lang}
        for i, (pair, result) in enumerate(zip(pairs, results, strict=True))
        for lang in [("en", "th")[i % 2]]
    ]
    files = {f"{lang}.jsonl": [row for row in rows if row["lang"] == lang] for lang in ("en", "th")}
    return write_labelled(tmp_path_factory.mktemp("labelled") / "pairs", files)


def test_labelled_folders_are_told_by_their_content(labelled, data, tmp_path):
    assert is_labelled(labelled)
    assert not is_labelled(data)
    assert not is_labelled(tmp_path)
    found = load_labelled(labelled)
    assert (found.name, found.languages, len(found.pairs)) == ("pairs", ("en", "th"), 60)
    part = found.sample(["th"], 7, seed=0)
    assert [pair.language for pair in part.pairs] == ["th"] * 7
    assert part == found.sample(["th"], 7, seed=0)
    assert len({pair.query for pair in found.sample(None, 7, seed=1).pairs}) > 1
    with pytest.raises(ConfigError, match="no rows in de"):
        found.sample(["de", "en"], None, 0)


def test_languages_of_rows_without_one_are_the_names_of_files(tmp_path):
    row = {"query": "q", "passage": "", "label": "a"}
    folder = write_labelled(tmp_path / "one", {"ja.jsonl": [row]})
    assert load_labelled(folder).languages == ("all",)
    folder = write_labelled(tmp_path / "two", {"ja.jsonl": [row], "ko.jsonl": [row]})
    assert load_labelled(folder).languages == ("ja", "ko")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"query": "q", "passage": "p"}, "lacks the key 'label'"),
        ({"query": " ", "passage": "p", "label": "a"}, "empty"),
        ({"query": "q", "passage": 3, "label": "a"}, "must be a string"),
    ],
)
def test_broken_labelled_rows_are_named(tmp_path, row, words):
    folder = write_labelled(tmp_path / "broken", {"en.jsonl": [row]})
    with pytest.raises(DataError, match=rf"en\.jsonl, line 1: .*{words}"):
        load_labelled(folder)


def test_macro_f1_against_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    generator = np.random.default_rng(0)
    for true, predicted in [*generator.integers(0, 3, (5, 2, 20)), ([0, 0], [0, 2])]:
        expected = metrics.f1_score(true, predicted, average="macro")
        assert macro_f1(np.array(true), np.array(predicted)) == pytest.approx(expected)


def test_macro_f1_by_hand():
    expected = np.array([0, 0, 1, 1, 2, 2])
    given = np.array([0, 1, 1, 1, 2, 0])
    assert macro_f1(expected, given) == pytest.approx((0.5 + 0.8 + 2 / 3) / 3)


def test_a_classifier_is_measured_on_labelled_pairs(checkpoint, labelled, tmp_path):
    steps = []
    outcome = quantize_folder(
        read_checkpoint(checkpoint(CLASSIFIER)),
        [load_labelled(labelled)],
        tmp_path / "out",
        gate_config(),
        progress=lambda step, done, total: steps.append((step, done == total)),
    )
    assert steps[-1] == ("pairs", True)
    (figures,) = outcome.record.tasks
    assert (figures.task, figures.num_rows, figures.counts) == (
        "classify",
        60,
        {"en": 30, "th": 30},
    )
    assert figures.accuracy_float32 == figures.f1_float32 == 1
    assert figures.accuracy_int8 == figures.equal_labels
    pairs = [(pair.query, pair.passage) for pair in load_labelled(labelled).pairs]
    results = [
        Classifier(folder, compute_dtype=kind).classify(pairs)
        for folder, kind in ((checkpoint(CLASSIFIER), "float32"), (outcome.folder, "auto"))
    ]
    equal = np.mean([one.label == other.label for one, other in zip(*results, strict=True)])
    assert figures.equal_labels == pytest.approx(equal)
    changes = [
        abs(one.probabilities[label] - other.probabilities[label])
        for one, other in zip(*results, strict=True)
        for label in one.probabilities
    ]
    assert figures.largest_probability_change == pytest.approx(max(changes), abs=1e-6)
    assert max(changes) > 0
    written = json.loads(outcome.record_path.read_text("utf8"))
    assert written["tasks"][0]["languages"]["th"]["num_rows"] == 30
    shown = describe(read_checkpoint(outcome.folder))["gate"]["classify"]
    assert shown["equal_labels"] == figures.equal_labels


def classifier_figures(**changes):
    one = LabelFigures(30, 0.9, changes.pop("of_th", 0.9), 0.8, 0.8, 0.99)
    figures = ClassifierFigures("classify", {"th": one}, 0.9, 0.9, 0.8, 0.8, 0.99, 0.1, 1, 1, 30)
    return replace(figures, **changes)


def test_classifiers_are_refused_for_accuracy_and_for_macro_f1():
    assert objections([classifier_figures()], 0.0) == ()
    assert objections([classifier_figures(f1_int8=0.79)], 0.02) == ()
    (reason,) = objections([classifier_figures(f1_int8=0.79)], 0.002)
    assert reason == "classify: mean macro-F1 falls from 0.8000 to 0.7900, by more than 0.002"
    (reason,) = objections([classifier_figures(of_th=0.88)], 0.002)
    assert reason == "classify: accuracy of th falls from 0.9000 to 0.8800, by more than 0.01"


@pytest.mark.parametrize("name", [CLASSIFIER, EMBEDDER])
def test_data_for_a_head_that_is_not_there_leave_nothing_behind(
    checkpoint, data, labelled, tmp_path, name
):
    wrong = load_labelled(labelled) if name == EMBEDDER else load_dataset(data)
    with pytest.raises(CapabilityError, match="Give --data"):
        quantize_folder(read_checkpoint(checkpoint(name)), [wrong], tmp_path / "o", gate_config())
    assert os.listdir(tmp_path) == []


def test_labels_that_the_checkpoint_has_not_are_named(checkpoint, tmp_path):
    row = {"query": "q", "passage": "p", "label": "entailment"}
    folder = write_labelled(tmp_path / "nli", {"en.jsonl": [row]})
    with pytest.raises(ConfigError, match=r"entailment; the checkpoint's are irrelevant"):
        quantize_folder(
            read_checkpoint(checkpoint(CLASSIFIER)),
            [load_labelled(folder)],
            tmp_path / "o",
            gate_config(),
        )


def test_a_checkpoint_with_two_heads_is_measured_on_both(checkpoint, data, labelled, tmp_path):
    folder = Path(shutil.copytree(checkpoint(CLASSIFIER), tmp_path / "two-heads"))
    change_tensors(
        folder,
        lambda tensors: tensors.update(
            {"rank.weight": tensors["classifier.out_proj.weight"][2:].copy()}
        ),
    )
    labels = ["irrelevant", "neutral", "relevant"]
    dense = {
        "weight": "classifier.dense.weight",
        "bias": "classifier.dense.bias",
        "nonlinearity": "tanh",
    }
    out = {"weight": "classifier.out_proj.weight", "bias": "classifier.out_proj.bias"}
    heads = {
        "classify": {
            "pooling": "cls",
            "layers": [dense, out],
            "activation": "softmax",
            "labels": labels,
        },
        "rerank": {
            "pooling": "cls",
            "layers": [{"weight": "rank.weight"}],
            "activation": "sigmoid",
        },
    }
    change_json(folder / "config.json", polyrank_heads=heads)
    call = ["compress", "quantize", folder, "--tolerance", 1, "--set", "top_k=10"]
    output = ["--output", tmp_path / "out"]
    done = polyrank(*call, "--data", data, "--data", labelled, *output)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert [task["task"] for task in facts["tasks"]] == ["rerank", "classify"]
    assert facts["dataset"] == "ordered, pairs"
    assert "not measured" not in done.stderr
    alone = polyrank(*call, "--data", labelled, "--output", tmp_path / "alone")
    assert (alone.returncode, "not measured: rerank" in alone.stderr) == (0, True)


def widths_of(folder, texts):
    """Largest magnitude of each input, laid end to end."""
    recorded = record_inputs(str(folder), texts).rows
    return np.concatenate([np.abs(rows).max(axis=0) for layer in recorded for rows in layer])


def test_inputs_of_several_heads_are_of_texts_apart_and_together(checkpoint, tmp_path):
    folder = Path(shutil.copytree(checkpoint(RERANKER), tmp_path / "both"))
    pairs = [(QUERIES[0], TEXTS[0])]
    together = widths_of(folder, pairs)
    apart = widths_of(folder, list(pairs[0]))
    change_json(folder / "config.json", polyrank_heads={"embed": {"pooling": "mean"}})
    assert np.array_equal(widths_of(folder, pairs), np.maximum(together, apart))


def test_widths_grow_with_texts(checkpoint):
    folder = checkpoint(RERANKER)
    few = widths_of(folder, TEXTS[:2])
    more = widths_of(folder, TEXTS[:6])
    assert few.shape == (3 * (64 + 64 + 64 + 96),)
    assert (more >= few).all()
    assert (more > few).any()
    assert widths_of(folder, [(QUERIES[0], TEXTS[0])]).shape == few.shape


def test_recorded_inputs_are_those_measured(checkpoint):
    opened = read_checkpoint(checkpoint(RERANKER))
    encoder = NativeEncoder(opened, FLOAT32)
    batch = random_pieces(opened.spec.body)
    rows = encoder.record_inputs(batch)
    assert rows.shape == (3, 4, batch.total_tokens, 96)
    assert np.array_equal(np.abs(rows).max(axis=2), encoder.measure_inputs(batch))
    alone = encoder.record_inputs(batch.select(np.array([2])))
    start, end = batch.cu_seqlens[2:4]
    assert np.array_equal(alone, rows[:, :, start:end])


def test_more_rows_than_fit_are_drawn_by_the_seed(checkpoint, monkeypatch):
    folder = str(checkpoint(RERANKER))
    everything = record_inputs(folder, TEXTS).rows[0][0]
    monkeypatch.setattr(calibrate, "MOST_ROWS", 50)
    few, again, others = (record_inputs(folder, TEXTS, seed).rows[0][0] for seed in (0, 0, 1))
    assert len(few) == 50 < len(everything)
    assert np.array_equal(few, again)
    assert not np.array_equal(few, others)
    assert {row.tobytes() for row in few} <= {row.tobytes() for row in everything}


def _int8_error(rows, matrix, multipliers):
    steps, scales = quantize_rows(matrix, multipliers)
    scaled = rows * multipliers
    row_scales = np.abs(scaled).max(axis=1, keepdims=True) / 127
    products = (np.rint(scaled / row_scales) @ steps.T.astype(np.float32)) * row_scales * scales
    exact = rows @ matrix.T
    return np.square(products - exact).sum() / np.square(exact).sum()


@pytest.mark.parametrize("kind", ["wide channels", "rare peaks", "nothing", "even"])
def test_fitted_multipliers_lose_less_than_widths_alone(kind):
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(600, 64)).astype(np.float32)
    matrix = generator.normal(size=(32, 64)).astype(np.float32)
    if kind == "wide channels":
        rows[:, :3] *= 40
        matrix[:, :3] *= 0.02
    elif kind == "rare peaks":
        rows[generator.random(rows.shape) < 0.002] *= 50
    elif kind == "nothing":
        rows[:, 5:9], matrix[:, 20] = 0, 0
    fitted = fit_multipliers([matrix[:20], matrix[20:]], rows[:300])
    plain = input_multipliers([matrix[:20], matrix[20:]], np.abs(rows[:300]).max(axis=0), 0.5)
    assert fitted.dtype == np.float32
    assert (fitted > 0).all()
    assert np.isfinite(fitted).all()
    assert abs(np.log(fitted).mean()) < 1e-5
    assert np.array_equal(fitted, fit_multipliers([matrix[:20], matrix[20:]], rows[:300]))
    ratio = _int8_error(rows[300:], matrix, fitted) / _int8_error(rows[300:], matrix, plain)
    assert ratio < {"rare peaks": 0.8, "wide channels": 1.0}.get(kind, 1.02)


def polyrank(*arguments):
    command = [sys.executable, "-m", "polyrank", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_the_command_from_end_to_end(checkpoint, data, tmp_path):
    call = ["compress", "quantize", checkpoint(EMBEDDER), "--data", data, "--set", "top_k=20"]
    output = ["--output", tmp_path / "out"]
    refused = polyrank(*call, *output, "--tolerance", 0)
    assert refused.returncode == 3
    assert "refused: int8 of multilingual-e5-small is beyond the tolerance" in refused.stderr
    assert json.loads(refused.stdout)["folder"] is None
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(TEXTS), "utf8")
    done = polyrank(*call, *output, "--tolerance", 1, "--calibration", texts, "--quiet")
    assert (done.returncode, done.stderr) == (0, "")
    facts = json.loads(done.stdout)
    assert facts["folder"] == str(tmp_path / "out")
    assert facts["calibration"] == f"{len(TEXTS)} texts given"
    shown = json.loads(polyrank("info", tmp_path / "out").stdout)
    assert shown["compute_dtype"] == "int8"
    assert shown["compute_dtype_because"].startswith("int8 passed its quality gate (ordered, ")
    assert shown["gate"]["embed"]["cosine_mean"] == facts["tasks"][0]["cosine_mean"]


def test_wrong_calls_end_before_any_work(checkpoint, data, tmp_path):
    start = ["compress", "quantize", checkpoint(EMBEDDER), "--data", data]
    for arguments, words in (
        ([], "--record-only"),
        (["--output", tmp_path / "o", "--record-only"], "one of them"),
        (["--output", tmp_path], "exists already"),
    ):
        called = polyrank(*start, *arguments)
        assert called.returncode == 2
        assert words in called.stderr
    hub = polyrank("compress", "quantize", "some/model", "--data", data, "--record-only")
    assert hub.returncode == 2
    assert "folder" in hub.stderr
