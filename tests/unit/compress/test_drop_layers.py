"""Checkpoints with fewer layers: the layers that stay, bit for bit, and what cannot be."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel

from polyrank import Classifier, Embedder, Reranker
from polyrank.checkpoint.hub import default_model_folder
from polyrank.checkpoint.reader import read_checkpoint
from polyrank.compress.layers.drop import drop_layers, spread_layers
from polyrank.errors import ConfigError
from tests.texts import SENTENCES
from tests.unit.cli.test_evaluate import call_app

TEXTS = [*SENTENCES.values()]
PAIRS = [(TEXTS[0], text) for text in TEXTS]


def test_layers_are_spread_with_both_ends():
    assert spread_layers(12, 6) == (0, 2, 4, 7, 9, 11)
    assert spread_layers(12, 12) == tuple(range(12))
    assert spread_layers(12, 2) == (0, 11)
    assert spread_layers(12, 1) == (11,)
    for kept in (0, 13):
        with pytest.raises(ConfigError, match="1 to 12"):
            spread_layers(12, kept)


@pytest.mark.parametrize("name", ["multilingual-e5-small", "bge-reranker-base", "bert-reranker"])
def test_the_body_is_that_of_the_layers_that_stay(checkpoint, tmp_path, name):
    folder = checkpoint(name)
    opened = read_checkpoint(folder)
    kept = (opened.spec.body.num_layers - 1,)
    made = drop_layers(opened, tmp_path / "out", kept)
    assert made.spec.body.num_layers == 1
    before, after = (load_file(path / "model.safetensors") for path in (folder, tmp_path / "out"))
    prefix = f"{opened.spec.body.prefix}encoder.layer."
    for tensor in after:
        source = tensor.replace(f"{prefix}0.", f"{prefix}{kept[0]}.")
        assert torch.equal(after[tensor], before[source])
    assert sum(tensor.startswith(prefix) for tensor in after) == 16
    assert AutoModel.from_pretrained(tmp_path / "out").config.num_hidden_layers == 1
    run = (lambda model: model.score(PAIRS)) if "reranker" in name else (lambda m: m.encode(TEXTS))
    front = Reranker if "reranker" in name else Embedder
    native, exact = (run(front(tmp_path / "out", encoder=each)) for each in ("native", "pytorch"))
    np.testing.assert_allclose(native, exact, atol=1e-5)


def test_heads_and_labels_stay(checkpoint, tmp_path):
    folder = checkpoint("three-way-classifier")
    drop_layers(read_checkpoint(folder), tmp_path / "out", (0,))
    labels = {each.label for each in Classifier(tmp_path / "out").classify(PAIRS)}
    assert labels <= {"irrelevant", "neutral", "relevant"}


def test_all_layers_give_the_same_bits(checkpoint, tmp_path):
    folder = checkpoint("bge-reranker-base")
    opened = read_checkpoint(folder)
    drop_layers(opened, tmp_path / "out", range(opened.spec.body.num_layers))
    assert (
        Reranker(folder).score(PAIRS).tobytes() == Reranker(tmp_path / "out").score(PAIRS).tobytes()
    )


@pytest.mark.parametrize("kept", [(), (0, 0), (0, 99), (-1,)])
def test_layers_that_cannot_stay_are_refused(checkpoint, tmp_path, kept):
    with pytest.raises(ConfigError, match="different numbers from 0"):
        drop_layers(read_checkpoint(checkpoint("bge-reranker-base")), tmp_path / "out", kept)
    assert list(tmp_path.iterdir()) == []


def test_a_quantised_folder_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="quantised already"):
        drop_layers(read_checkpoint(default_model_folder()), tmp_path / "out", (0,))


def test_command_drops(checkpoint, tmp_path):
    folder = str(checkpoint("multilingual-e5-small"))
    result = call_app("compress", "drop-layers", folder, str(tmp_path / "out"), "--layers", "1")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["layers"] == 1
    for arguments in ((), ("--layers", "1", "--keep", "0")):
        with pytest.raises(ConfigError, match="either --layers"):
            call_app("compress", "drop-layers", folder, str(tmp_path / "no"), *arguments)
    with pytest.raises(ConfigError, match="by number"):
        call_app("compress", "drop-layers", folder, str(tmp_path / "no"), "--keep", "a,b")
