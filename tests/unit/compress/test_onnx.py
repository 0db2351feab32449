"""ONNX files for other runtimes: the checkpoint's own results, in the folders they read."""

import json

import numpy as np
import onnxruntime as ort
import pytest

from polyrank import Classifier, Embedder, Reranker
from polyrank.checkpoint.hub import default_model_folder
from polyrank.checkpoint.reader import read_checkpoint
from polyrank.compress.onnx import layouts
from polyrank.compress.onnx.check import padded
from polyrank.compress.onnx.layouts import RECORD_FILE, export_onnx
from polyrank.errors import CapabilityError, ConfigError, EncoderError
from polyrank.text.tokenizer import Tokenizer
from polyrank.types import PackedBatch
from tests.texts import SENTENCES
from tests.unit.cli.test_evaluate import call_app

QUERY, TEXTS = SENTENCES["en"], [*SENTENCES.values()]
EMBEDDERS = [
    "multilingual-e5-small",
    "paraphrase-multilingual-mpnet-base-v2",
    "UAE-Large-V1",
    "dense-embedder",
]


def run(path, folder, texts, output):
    """What a runtime that knows nothing of polyrank gets, tokens by the folder's own tokenizer."""
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    made = [
        tokenizer.encode(*text) if isinstance(text, tuple) else tokenizer.encode(text)
        for text in texts
    ]
    ends = np.cumsum([0, *(len(each.ids) for each in made)]).astype(np.int32)
    batch = PackedBatch(
        np.concatenate([each.ids for each in made]).astype(np.int32),
        ends,
        np.concatenate([each.type_ids for each in made]).astype(np.int32),
    )
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    pad = json.loads((folder / "config.json").read_text())["pad_token_id"]
    feed = padded(batch, pad)
    named = {each.name for each in session.get_inputs()}
    (found,) = session.run([output], {name: feed[name] for name in named})
    return found


@pytest.mark.parametrize("name", EMBEDDERS)
def test_an_embedder_gives_its_vectors(checkpoint, tmp_path, name):
    folder = checkpoint(name)
    (written,) = export_onnx(
        read_checkpoint(folder), tmp_path / "out", "plain", weights=["float32"]
    )
    found = run(tmp_path / "out" / written.path, tmp_path / "out", TEXTS, "sentence_embedding")
    expected = Embedder(folder, encoder="pytorch").encode(TEXTS, prompt_name=None, input_type=None)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert written.distance.largest < 1e-4


@pytest.mark.parametrize("name", ["bge-reranker-base", "bge-reranker-v2-m3", "bert-reranker"])
def test_a_reranker_gives_its_logits(checkpoint, tmp_path, name):
    folder = checkpoint(name)
    export_onnx(read_checkpoint(folder), tmp_path / "out", "tei", weights=["float32"])
    pairs = [(QUERY, text) for text in TEXTS]
    found = run(tmp_path / "out" / "model.onnx", tmp_path / "out", pairs, "logits")
    expected = Reranker(folder, encoder="pytorch").score(pairs, logits=True)
    np.testing.assert_allclose(found[:, 0], expected, atol=1e-4)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert len(config["id2label"]) == len(config["label2id"]) == 1
    assert config["architectures"][0].endswith("ForSequenceClassification")


def test_a_classifier_keeps_its_labels(checkpoint, tmp_path):
    folder = checkpoint("three-way-classifier")
    export_onnx(read_checkpoint(folder), tmp_path / "out", "tei", weights=["float32"])
    pairs = [(QUERY, text) for text in TEXTS]
    found = run(tmp_path / "out" / "model.onnx", tmp_path / "out", pairs, "logits")
    labels = json.loads((tmp_path / "out" / "config.json").read_text())["id2label"]
    expected = Classifier(folder, encoder="pytorch").classify(pairs)
    assert [labels[str(row.argmax())] for row in found] == [each.label for each in expected]


@pytest.mark.parametrize("name", ["multilingual-e5-small", "bge-reranker-base"])
def test_smaller_weights_stay_near_and_are_smaller(checkpoint, tmp_path, name):
    written = export_onnx(
        read_checkpoint(checkpoint(name)),
        tmp_path / "out",
        "plain",
        weights=["float32", "float16", "int8"],
    )
    exact, half, steps = written
    assert half.size_bytes < 0.6 * exact.size_bytes
    assert steps.size_bytes < 0.45 * exact.size_bytes
    assert exact.distance.largest <= half.distance.largest <= 2e-3
    assert steps.distance.least_cosine > 0.98
    record = json.loads((tmp_path / "out" / RECORD_FILE).read_text())
    assert [each["weights"] for each in record["files"]] == ["float32", "float16", "int8"]


def test_each_consumer_finds_its_files(checkpoint, tmp_path):
    opened = read_checkpoint(checkpoint("multilingual-e5-small"))
    wanted = {
        "transformers.js": ["onnx/model_quantized.onnx"],
        "fastembed": ["onnx/model_quantized.onnx"],
        "tei": ["model.onnx"],
        "sentence-transformers": [
            "onnx/model.onnx",
            "onnx/model_qint8_avx512_vnni.onnx",
            "modules.json",
            "1_Pooling/config.json",
        ],
        "plain": ["model_int8.onnx"],
    }
    for layout, names in wanted.items():
        out = tmp_path / layout
        export_onnx(opened, out, layout)
        beside = ["config.json", "tokenizer.json", "tokenizer_config.json"]
        for name in [*names, *beside, "special_tokens_map.json"]:
            assert (out / name).is_file(), (layout, name)
        settings = json.loads((out / "tokenizer_config.json").read_text())
        assert settings["model_max_length"] == 512
        assert settings["pad_token"] == "<pad>"


def test_the_model_that_ships_gives_its_vectors(tmp_path):
    folder = default_model_folder()
    with pytest.raises(CapabilityError, match=r"token by token.*--task embed"):
        export_onnx(read_checkpoint(folder), tmp_path / "out", "plain", task="rerank")
    (written,) = export_onnx(read_checkpoint(folder), tmp_path / "out", "fastembed")
    assert written.distance.least_cosine > 0.98
    assert written.size_bytes < 125_000_000
    assert "polyrank_heads" not in (tmp_path / "out" / "config.json").read_text()
    Tokenizer(tmp_path / "out" / "tokenizer.json", is_lowercased=False)


def test_nothing_is_written_where_it_cannot_be(checkpoint, tmp_path, monkeypatch):
    opened = read_checkpoint(checkpoint("bge-reranker-base"))
    with pytest.raises(ConfigError, match="reads one file alone"):
        export_onnx(opened, tmp_path / "out", "tei", weights=["float32", "int8"])
    (tmp_path / "taken").mkdir()
    with pytest.raises(ConfigError, match="exists already"):
        export_onnx(opened, tmp_path / "taken", "plain")
    monkeypatch.setitem(layouts._LAYOUTS, "plain", layouts._LAYOUTS["tei"])
    monkeypatch.setattr("polyrank.compress.onnx.check.LEAST_COSINE", 1.1)
    with pytest.raises(EncoderError, match="does not compute what"):
        export_onnx(opened, tmp_path / "out", "plain")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_a_folder_without_a_padding_token_is_refused(checkpoint, tmp_path):
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(checkpoint("bge-reranker-base"), folder)
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).unlink(missing_ok=True)
    with pytest.raises(CapabilityError, match="names no pad_token"):
        export_onnx(read_checkpoint(folder), tmp_path / "out", "plain")
    assert not (tmp_path / "out").exists()


def test_command_exports(checkpoint, tmp_path):
    folder = checkpoint("multilingual-e5-small")
    result = call_app(
        *("compress", "onnx", str(folder), str(tmp_path / "web"), "--format", "transformers.js"),
        *("--weights", "int8", "--weights", "float16"),
    )
    assert result.exit_code == 0, result.output
    (line,) = result.stdout.splitlines()
    assert [each["path"] for each in json.loads(line)] == [
        "onnx/model_quantized.onnx",
        "onnx/model_fp16.onnx",
    ]
    config = json.loads((tmp_path / "web" / "config.json").read_text())
    assert config["transformers.js_config"] == {"dtype": "q8"}
