"""What had to be assumed of a checkpoint is said once; what decides an output is looked at anew."""

import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from polyrank import Embedder, Reranker
from polyrank.checkpoint.reader import read_checkpoint
from polyrank.errors import CheckpointWarning
from tests.texts import SENTENCES

Checkpoint = Callable[[str], Path]
TEXTS = list(SENTENCES.values())[:4]


@pytest.fixture
def embedder(checkpoint: Checkpoint, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint("multilingual-e5-small"), tmp_path / "e5"))


def add_head(folder: Path) -> None:
    path = folder / "model.safetensors"
    head = {f"cls.{name}.bias": np.zeros(9, "f4") for name in ("predictions", "seq_relationship")}
    save_file(load_file(path) | head, path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["BertForMaskedLM"]}))


def test_a_body_of_a_language_model_embeds_where_modules_say_so(embedder: Path) -> None:
    plain = Embedder(embedder).encode(TEXTS)
    add_head(embedder)
    with pytest.warns(CheckpointWarning, match=r"hold the masked-language-model head.*not used"):
        found = Embedder(embedder)
    np.testing.assert_array_equal(found.encode(TEXTS), plain)
    assert "masked-language-model head" in found.info.notes[0]


@pytest.mark.parametrize("name", ["embeddings.position_ids", "pooler.dense.weight"])
def test_harmless_leftovers_are_not_spoken_of(name: str, embedder: Path) -> None:
    path = embedder / "model.safetensors"
    save_file(load_file(path) | {name: np.zeros((64, 64), "f4")}, path)
    assert not read_checkpoint(embedder).spec.assumptions


def test_prompts_of_a_model_card_are_an_assumption(embedder: Path) -> None:
    (embedder / "config_sentence_transformers.json").unlink()
    spec = read_checkpoint(embedder, "intfloat/multilingual-e5-small").spec
    assert "those of the model card are used (query 'query: '" in spec.assumptions[0]


def test_the_default_model_says_nothing() -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert not Reranker().info.notes[0].startswith("The folder")
    assert not told


def test_one_loaded_model_warns_once(embedder: Path) -> None:
    (embedder / "modules.json").unlink()
    with pytest.warns(CheckpointWarning) as told:
        first = Embedder(embedder)
    assert len(told) == 1
    assert first.spec is Embedder(embedder).spec  # a second warning would be an error


@pytest.mark.parametrize("quiet", [True, False])
def test_the_command_line_says_it_in_a_remark(quiet: bool, embedder: Path) -> None:
    (embedder / "modules.json").unlink()
    command = [sys.executable, "-m", "polyrank.cli.main", "rerank", "cat", "-m", str(embedder)]
    done = subprocess.run(
        command + ["--quiet"] * quiet, input="a cat\n", capture_output=True, text=True, check=True
    )
    told = " ".join(done.stderr.split())
    assert told.count("The folder describes no head") == (0 if quiet else 1)
    assert "CheckpointWarning" not in told


def swap(folder: Path, name: str, text: str) -> None:
    """Replace a file by one of the same size and times, as a copy of a whole folder does."""
    path, new = folder / name, folder / "new"
    before = path.stat()
    new.write_text(text.ljust(before.st_size))
    os.utime(new, ns=(before.st_atime_ns, before.st_mtime_ns))
    new.rename(path)
    assert path.stat().st_size == before.st_size


def test_a_changed_folder_is_read_again(embedder: Path) -> None:
    first = Embedder(embedder)
    mean = first.encode(TEXTS)
    swap(embedder, "1_Pooling/config.json", json.dumps({"pooling_mode_cls_token": True}))
    second = Embedder(embedder)
    assert second.spec.heads["embed"].pooling == ("cls",)
    assert not np.allclose(second.encode(TEXTS), mean)
    # who loaded it before keeps what was loaded
    np.testing.assert_array_equal(first.encode(TEXTS), mean)
    assert Embedder(embedder).spec is second.spec
