"""What is read of a checkpoint folder."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from polyrank import Classifier, Embedder, Reranker
from polyrank.checkpoint.reader import read_checkpoint, read_prompts
from polyrank.checkpoint.weights import Weights
from polyrank.errors import CheckpointError, CheckpointWarning
from tests.texts import SENTENCES

Checkpoint = Callable[[str], Path]
PAIRS = [(SENTENCES["en"], text) for text in SENTENCES.values()]


def copy(checkpoint: Checkpoint, name: str, parent: Path) -> Path:
    return Path(shutil.copytree(checkpoint(name), parent / name))


def test_conventions_of_xlm_roberta_and_bert(checkpoint: Checkpoint) -> None:
    large = read_checkpoint(checkpoint("bge-reranker-v2-m3")).spec
    assert (large.body.position_offset, large.body.type_vocab_size) == (2, 1)
    assert large.max_length == 8192
    assert large.body.prefix == "roberta."
    small = read_checkpoint(checkpoint("multilingual-e5-small")).spec
    assert (small.body.position_offset, small.body.type_vocab_size) == (0, 2)
    assert small.body.prefix == ""
    assert small.tasks == ("embed",)
    assert small.heads["embed"].pooling == ("mean",)
    assert small.heads["embed"].is_normalized
    assert read_checkpoint(checkpoint("UAE-Large-V1")).spec.heads["embed"].pooling == ("cls",)
    mpnet = read_checkpoint(checkpoint("paraphrase-multilingual-mpnet-base-v2")).spec
    assert mpnet.max_length == 128


def test_positions_bound_the_length(checkpoint: Checkpoint, tmp_path: Path) -> None:
    folder = copy(checkpoint, "bge-reranker-base", tmp_path)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["model_max_length"] = 10**30
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert read_checkpoint(folder).spec.max_length == 512  # 514 positions, two of them unused
    (folder / "tokenizer_config.json").unlink()
    assert read_checkpoint(folder).spec.max_length == 512


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("encoder", ["native", "onnx", "pytorch"])
def test_other_weight_types(
    dtype: torch.dtype, encoder: str, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    folder = copy(checkpoint, "bge-reranker-base", tmp_path)
    path = folder / "model.safetensors"
    rounded = {name: tensor.to(dtype) for name, tensor in load_file(path).items()}
    widened = {name: tensor.to(torch.float32) for name, tensor in rounded.items()}
    save_file(widened, path, {"format": "pt"})
    expected = Reranker(folder, encoder=encoder).score(PAIRS, logits=True)
    other = copy(checkpoint, "bge-reranker-base", tmp_path / "other")
    save_file(rounded, other / "model.safetensors", {"format": "pt"})
    found = Reranker(other, encoder=encoder).score(PAIRS, logits=True)
    np.testing.assert_allclose(found, expected, atol=1e-6, rtol=0)


def test_bfloat16_is_widened_exactly(tmp_path: Path) -> None:
    values = torch.randn(7, 5, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    save_file({"x": values}, tmp_path / "model.safetensors")
    found = Weights.open(tmp_path).get_float32("x")
    np.testing.assert_array_equal(found, values.to(torch.float32).numpy())


def test_old_layer_norm_names(checkpoint: Checkpoint, tmp_path: Path) -> None:
    folder = copy(checkpoint, "bert-reranker", tmp_path)
    expected = Reranker(folder).score(PAIRS)
    path = folder / "model.safetensors"
    renamed = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): tensor
        for name, tensor in load_file(path).items()
    }
    other = copy(checkpoint, "bert-reranker", tmp_path / "old")
    save_file(renamed, other / "model.safetensors", {"format": "pt"})
    np.testing.assert_array_equal(Reranker(other).score(PAIRS), expected)


def test_transformer_in_a_folder_of_its_own(checkpoint: Checkpoint, tmp_path: Path) -> None:
    folder = copy(checkpoint, "multilingual-e5-small", tmp_path)
    texts = list(SENTENCES.values())
    expected = Embedder(folder).encode(texts)
    old = copy(checkpoint, "multilingual-e5-small", tmp_path / "old")
    inner = old / "0_Transformer"
    inner.mkdir()
    for name in ("config.json", "model.safetensors", "sentence_bert_config.json"):
        (old / name).rename(inner / name)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (old / name).rename(inner / name)
    modules = json.loads((old / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (old / "modules.json").write_text(json.dumps(modules))
    np.testing.assert_array_equal(Embedder(old).encode(texts), expected)


def test_old_pooling_flags(checkpoint: Checkpoint, tmp_path: Path) -> None:
    folder = copy(checkpoint, "UAE-Large-V1", tmp_path)
    path = folder / "1_Pooling" / "config.json"
    path.write_text(
        json.dumps(
            {
                "word_embedding_dimension": 64,
                "pooling_mode_cls_token": True,
                "pooling_mode_mean_tokens": True,
                "pooling_mode_max_tokens": False,
            }
        )
    )
    spec = read_checkpoint(folder).spec
    assert spec.heads["embed"].pooling == ("cls", "mean")
    assert Embedder(folder).encode(["a"]).shape == (1, 128)


@pytest.mark.parametrize(
    ("place", "name", "expected"),
    [
        ("config_sentence_transformers.json", "torch.nn.modules.linear.Identity", "identity"),
        ("sentence_transformers", "torch.nn.modules.linear.Identity", "identity"),
        ("sbert_ce_default_activation_function", "torch.nn.modules.linear.Identity", "identity"),
        ("sentence_transformers", "torch.nn.modules.activation.Sigmoid", "sigmoid"),
    ],
)
def test_activation_in_each_place_of_its_history(
    place: str, name: str, expected: str, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    folder = copy(checkpoint, "bge-reranker-base", tmp_path)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    if place == "config_sentence_transformers.json":
        (folder / place).write_text(json.dumps({"activation_fn": name}))
    elif place == "sentence_transformers":
        config[place] = {"activation_fn": name}
    else:
        config[place] = name
    path.write_text(json.dumps(config))
    reranker = Reranker(folder)
    assert reranker.info.activation == expected
    scores, logits = reranker.score(PAIRS), reranker.score(PAIRS, logits=True)
    assert np.array_equal(scores, logits) == (expected == "identity")
    forced = Reranker(folder, activation="sigmoid")
    np.testing.assert_allclose(forced.score(PAIRS), 1 / (1 + np.exp(-logits)), atol=1e-6)
    assert any("activation" in note for note in forced.info.notes) == (expected == "identity")


def test_a_bare_body_embeds_by_the_mean_and_says_so(checkpoint: Checkpoint, tmp_path: Path) -> None:
    folder = copy(checkpoint, "multilingual-e5-small", tmp_path)
    texts = list(SENTENCES.values())
    expected = Embedder(folder).encode(texts)
    for name in ("modules.json", "config_sentence_transformers.json"):
        (folder / name).unlink()
    with pytest.warns(CheckpointWarning, match="multilingual-e5-small: .* the mean") as told:
        bare = Embedder(folder)
    assert Path(told[0].filename) == Path(__file__)
    assert "mean" in bare.info.notes[0]
    vectors = bare.encode(texts)
    assert not np.allclose(np.linalg.norm(vectors, axis=1), 1)
    normalized = Embedder(folder, normalize=True).encode(texts)
    np.testing.assert_allclose(normalized, expected, atol=1e-6)


def test_prompts_of_a_model_card_by_exact_id(tmp_path: Path) -> None:
    known = read_prompts(tmp_path, "intfloat/multilingual-e5-large")
    assert known.by_name == {"query": "query: ", "document": "passage: "}
    assert known.origin == "model card"
    assert not read_prompts(tmp_path, "someone/my-multilingual-e5-large").by_name


@pytest.mark.parametrize(
    "content", [{"prompts": {"query": 3}}, {"prompts": ["a"]}, {"default_prompt_name": "none"}]
)
def test_prompts_that_are_no_texts(content: object, tmp_path: Path) -> None:
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="config_sentence_transformers"):
        read_prompts(tmp_path, None)


def test_default_prompt(checkpoint: Checkpoint, tmp_path: Path) -> None:
    folder = copy(checkpoint, "multilingual-e5-small", tmp_path)
    path = folder / "config_sentence_transformers.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({**settings, "default_prompt_name": "query"}))
    embedder = Embedder(folder)
    np.testing.assert_array_equal(
        embedder.encode(["cats"]), embedder.encode(["cats"], input_type="query")
    )


def test_several_heads_on_one_body(checkpoint: Checkpoint, tmp_path: Path) -> None:
    folder = copy(checkpoint, "bge-reranker-base", tmp_path)
    generator = torch.Generator().manual_seed(5)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["heads.relevance.weight"] = torch.randn(3, 64, generator=generator)
    tensors["heads.relevance.bias"] = torch.randn(3, generator=generator)
    save_file(tensors, path, {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["polyrank_heads"] = {
        "classify": {
            "pooling": "mean",
            "layers": [{"weight": "heads.relevance.weight", "bias": "heads.relevance.bias"}],
            "activation": "softmax",
            "labels": ["irrelevant", "neutral", "relevant"],
        },
        "embed": {"pooling": "mean", "normalize": True},
    }
    (folder / "config.json").write_text(json.dumps(config))
    plain = Reranker(checkpoint("bge-reranker-base")).score(PAIRS)
    np.testing.assert_array_equal(Reranker(folder).score(PAIRS), plain)
    vectors = Embedder(folder).encode(list(SENTENCES.values()))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    results = Classifier(folder).classify(PAIRS)
    assert {result.label for result in results} <= {"irrelevant", "neutral", "relevant"}


@pytest.mark.parametrize(
    "head",
    [
        {"translate": {"pooling": "mean"}},
        {"embed": {"pooling": "middle"}},
        {"embed": {"pooling": "mean", "layers": [{"bias": "x"}]}},
        {"embed": 3},
    ],
)
def test_extra_heads_described_wrongly(
    head: object, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    folder = copy(checkpoint, "bge-reranker-base", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "polyrank_heads": head}))
    with pytest.raises(CheckpointError, match="polyrank_heads wrongly"):
        read_checkpoint(folder)


@pytest.mark.parametrize("key", ["similarity_weight", "pooling_mode", "layer"])
def test_keys_of_a_head_that_would_be_read_over(
    key: str, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    folder = copy(checkpoint, "multilingual-e5-small", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["polyrank_heads"] = {"embed": {"pooling": "mean", "normalize": True, key: 7.5}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=f"{key}.*7.5.*must be left out"):
        read_checkpoint(folder)


def test_fronts_share_one_loaded_model(checkpoint: Checkpoint) -> None:
    folder = checkpoint("multilingual-e5-small")
    first, second = Embedder(folder), Reranker(folder)
    assert first._engine is second._engine
    assert Embedder(folder, max_batch_tokens=77)._engine is not first._engine
    before = first.usage.num_sequences
    second.rank("cats", ["a", "b"])
    assert first.usage.num_sequences == before + 3


def test_an_embedder_ranks_by_cosine_and_says_so(checkpoint: Checkpoint) -> None:
    folder = checkpoint("multilingual-e5-small")
    reranker, embedder = Reranker(folder), Embedder(folder)
    assert "cosines" in reranker.info.notes[0]
    documents = list(SENTENCES.values())
    query = embedder.encode(["cats"], input_type="query")[0]
    cosines = embedder.encode(documents, input_type="document") @ query
    ranked = reranker.rank("cats", documents)
    assert [hit.index for hit in ranked] == np.argsort(-cosines, kind="stable").tolist()
    np.testing.assert_allclose([hit.score for hit in ranked], np.sort(cosines)[::-1], atol=1e-6)
    assert [hit.passage.text for hit in ranked] == [documents[hit.index] for hit in ranked]
