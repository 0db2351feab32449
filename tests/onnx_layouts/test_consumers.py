"""Each layout of `polyrank compress onnx`, opened by the library that it is for.

Runs in an environment of its own (`make test-onnx-layouts`): the folders are made by this project's
command there, of the model that ships and of a seeded reranker.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from polyrank import Embedder, Reranker

pytest.importorskip("fastembed")

HERE = Path(__file__).parent
QUERY = "How long do cats live?"
TEXTS = [
    QUERY,
    "室内で飼われている猫の平均寿命は約十五年です。",
    "Les chats vivent en moyenne quinze ans.",
    "Bread needs flour, water, salt and time.",
]
COSINE = {"float32": 0.9999, "float16": 0.9999, "int8": 0.98}


def export(model: str | Path, output: Path, layout: str, *weights: str, task: str = "auto") -> Path:
    command = [sys.executable, "-m", "polyrank", "compress", "onnx", str(model), str(output)]
    asked = [part for each in weights for part in ("--weights", each)]
    subprocess.run([*command, "--format", layout, "--task", task, *asked, "--quiet"], check=True)
    return output


@pytest.fixture(scope="session")
def reranker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A seeded cross-encoder, with the tokenizer of the model that ships."""
    import torch
    from transformers import AutoTokenizer, XLMRobertaConfig, XLMRobertaForSequenceClassification

    torch.manual_seed(0)
    plain = export(
        "polyrank-small", tmp_path_factory.mktemp("plain") / "out", "plain", task="embed"
    )
    folder = tmp_path_factory.mktemp("reranker") / "model"
    tokenizer = AutoTokenizer.from_pretrained(plain)
    config = XLMRobertaConfig(
        vocab_size=len(tokenizer) + 1,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=514,
        type_vocab_size=1,
        pad_token_id=1,
        num_labels=1,
    )
    XLMRobertaForSequenceClassification(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copyfile(plain / name, folder / name)
    return folder


@pytest.fixture(scope="session")
def vectors() -> np.ndarray:
    return Embedder(compute_dtype="float32").encode(TEXTS, input_type="query")


def check(found: np.ndarray, expected: np.ndarray, weights: str) -> None:
    found = np.asarray(found, np.float32)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    assert (found * expected).sum(axis=1).min() > COSINE[weights]


def prompted() -> list[str]:
    return [f"query: {text}" for text in TEXTS]


@pytest.mark.parametrize("weights", ["int8", "float32"])
def test_fastembed_embeds(tmp_path: Path, vectors: np.ndarray, weights: str) -> None:
    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType

    folder = export("polyrank-small", tmp_path / "out", "fastembed", weights, task="embed")
    name = f"polyrank/{weights}"
    file = "onnx/model_quantized.onnx" if weights == "int8" else "onnx/model.onnx"
    TextEmbedding.add_custom_model(
        model=name,
        pooling=PoolingType.DISABLED,
        normalization=False,
        sources=ModelSource(hf=name),
        dim=384,
        model_file=file,
    )
    model = TextEmbedding(model_name=name, specific_model_path=str(folder))
    check(np.stack(list(model.embed(prompted()))), vectors, weights)


def test_fastembed_reranks(tmp_path: Path, reranker: Path) -> None:
    from fastembed.common.model_description import ModelSource
    from fastembed.rerank.cross_encoder import TextCrossEncoder

    folder = export(reranker, tmp_path / "out", "fastembed", "float32")
    TextCrossEncoder.add_custom_model(
        model="polyrank/reranker",
        sources=ModelSource(hf="polyrank/reranker"),
        model_file="onnx/model.onnx",
    )
    model = TextCrossEncoder("polyrank/reranker", specific_model_path=str(folder))
    expected = Reranker(reranker).score([(QUERY, text) for text in TEXTS], logits=True)
    np.testing.assert_allclose(list(model.rerank(QUERY, TEXTS)), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("weights", "file"),
    [("float32", "onnx/model.onnx"), ("int8", "onnx/model_qint8_avx512_vnni.onnx")],
)
def test_sentence_transformers_embeds(
    tmp_path: Path, vectors: np.ndarray, weights: str, file: str
) -> None:
    from sentence_transformers import SentenceTransformer

    folder = export("polyrank-small", tmp_path / "out", "sentence-transformers", task="embed")
    model = SentenceTransformer(str(folder), backend="onnx", model_kwargs={"file_name": file})
    check(model.encode(prompted(), normalize_embeddings=True), vectors, weights)


def test_sentence_transformers_reranks(tmp_path: Path, reranker: Path) -> None:
    from sentence_transformers import CrossEncoder

    folder = export(reranker, tmp_path / "out", "sentence-transformers", "float32")
    model = CrossEncoder(str(folder), backend="onnx", model_kwargs={"file_name": "onnx/model.onnx"})
    pairs = [(QUERY, text) for text in TEXTS]
    np.testing.assert_allclose(model.predict(pairs), Reranker(reranker).score(pairs), atol=1e-4)


def by_transformers_js(folder: Path, task: str, dtype: str, texts: list) -> np.ndarray:
    modules = HERE / "node_modules"
    if not modules.is_dir():
        pytest.skip("node_modules is not there: make test-onnx-layouts installs it")
    done = subprocess.run(
        ["node", str(HERE / "embed.mjs"), str(folder.parent), folder.name, task, dtype],
        input=json.dumps(texts),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return np.array(json.loads(done.stdout), np.float32)


@pytest.mark.parametrize(
    ("weights", "dtype"), [("int8", "q8"), ("float32", "fp32"), ("float16", "fp16")]
)
def test_transformers_js_embeds(
    tmp_path: Path, vectors: np.ndarray, weights: str, dtype: str
) -> None:
    folder = export("polyrank-small", tmp_path / "out", "transformers.js", weights, task="embed")
    check(by_transformers_js(folder, "embed", dtype, prompted()), vectors, weights)


def test_transformers_js_reranks(tmp_path: Path, reranker: Path) -> None:
    folder = export(reranker, tmp_path / "out", "transformers.js", "float32")
    pairs = [(QUERY, text) for text in TEXTS]
    found = by_transformers_js(folder, "rerank", "fp32", pairs)
    expected = Reranker(reranker).score(pairs, logits=True)
    np.testing.assert_allclose(found[:, 0], expected, atol=1e-4)


def test_text_embeddings_inference_would_read_it(tmp_path: Path, reranker: Path) -> None:
    """By its rules, as documented and in its source; the server itself is not at hand."""
    import onnxruntime as ort

    for model, task, output, labels in (
        ("polyrank-small", "embed", "sentence_embedding", None),
        (reranker, "rerank", "logits", 1),
    ):
        folder = export(model, tmp_path / task, "tei", "int8", task=task)
        assert (folder / "model.onnx").is_file()  # the one name that it looks for
        session = ort.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
        assert output in [each.name for each in session.get_outputs()]
        assert {each.type for each in session.get_inputs()} == {"tensor(int64)"}
        config = json.loads((folder / "config.json").read_text())
        assert config["dtype"] == "float32"
        if labels is not None:  # one label: a reranker
            assert len(config["id2label"]) == len(config["label2id"]) == labels
