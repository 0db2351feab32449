"""tokenizer.json.gz in place of tokenizer.json: reading, writing, broken files."""

import gzip
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from polyrank import Embedder, Reranker
from polyrank.checkpoint import files
from polyrank.checkpoint.files import compress_json, read_plain
from polyrank.checkpoint.reader import read_checkpoint
from polyrank.compress.quantize.writing import write_int8
from polyrank.compress.trim.run import TrimConfig, open_vocabulary, trim_vocabulary
from polyrank.compress.vocabulary.choice import ChoiceConfig
from polyrank.config import EngineConfig
from polyrank.encoder.native import NativeEncoder
from polyrank.encoder.smoothing import random_pieces
from polyrank.errors import CheckpointError, CheckpointNotFoundError
from polyrank.text.tokenizer import Tokenizer
from tests.texts import SENTENCES

NAMES = ("multilingual-e5-small", "bge-reranker-base", "bert-reranker", "dense-embedder")
TEXTS = list(SENTENCES.values())


@pytest.fixture
def compressed(checkpoint, tmp_path):
    """A copy of a checkpoint whose tokenizer is compressed."""

    def get(name):
        folder = Path(shutil.copytree(checkpoint(name), tmp_path / name))
        path = read_checkpoint(folder).tokenizer_file
        content = json.loads(path.read_text("utf8"))
        path.with_name("tokenizer.json.gz").write_bytes(compress_json(content))
        path.unlink()
        return folder

    return get


@pytest.mark.parametrize("name", NAMES)
def test_ids_are_the_same(checkpoint, compressed, name):
    opened = read_checkpoint(compressed(name))
    assert opened.tokenizer_file.name == "tokenizer.json.gz"
    plain, other = (
        Tokenizer(each.tokenizer_file) for each in (read_checkpoint(checkpoint(name)), opened)
    )
    assert plain.vocab_size == other.vocab_size
    for first, second in zip(plain.encode(TEXTS), other.encode(TEXTS), strict=True):
        assert first.tolist() == second.tolist()


def test_scores_and_vectors_are_the_same_to_the_bit(checkpoint, compressed):
    pairs = [(text[:20], text) for text in TEXTS]
    scores = [Reranker(f).score(pairs) for f in (checkpoint(NAMES[1]), compressed(NAMES[1]))]
    assert scores[0].tobytes() == scores[1].tobytes()
    vectors = [Embedder(f).encode(TEXTS) for f in (checkpoint(NAMES[3]), compressed(NAMES[3]))]
    assert vectors[0].tobytes() == vectors[1].tobytes()


@pytest.mark.parametrize("name", ["multilingual-e5-small", "dense-embedder"])
def test_a_quantised_folder_holds_one_form_and_the_other_is_a_command_away(
    checkpoint, tmp_path, name
):
    source = read_checkpoint(checkpoint(name))
    encoder = NativeEncoder(source, EngineConfig("native", compute_dtype="float32"))
    widths = encoder.measure_inputs(random_pieces(source.spec.body))
    for folder in (tmp_path / "int8", tmp_path / "again"):
        folder.mkdir()
        write_int8(source, widths, folder, is_tokenizer_compressed=True)
    opened = read_checkpoint(tmp_path / "int8")
    path = opened.tokenizer_file
    assert path.name == "tokenizer.json.gz"
    assert not list((tmp_path / "int8").rglob("tokenizer.json"))
    again = tmp_path / "again" / path.relative_to(tmp_path / "int8")
    assert path.read_bytes() == again.read_bytes()
    assert path.stat().st_size < source.tokenizer_file.stat().st_size / 2
    assert json.loads(read_plain(path)) == json.loads(source.tokenizer_file.read_text("utf8"))
    subprocess.run([sys.executable, "-m", "gzip", "-d", str(path)], check=True)
    theirs = AutoTokenizer.from_pretrained(path.parent)
    ours = Tokenizer(source.tokenizer_file)
    for text, ids in zip(TEXTS, ours.encode(TEXTS), strict=True):
        assert theirs(text, add_special_tokens=False)["input_ids"] == ids.tolist()
    # where both are, the plain one is read
    assert read_checkpoint(tmp_path / "int8").tokenizer_file.name == "tokenizer.json"


def test_a_trimmed_folder_has_the_plain_file_again(compressed, tmp_path):
    source = read_checkpoint(compressed(NAMES[0]))
    keep = int(open_vocabulary(source).required.sum()) + 100
    text = tmp_path / "texts.txt"
    text.write_text("\n".join(TEXTS), "utf8")
    config = TrimConfig(ChoiceConfig(keep=keep))
    folder = trim_vocabulary(source, tmp_path / "trimmed", [text], config).folder
    assert not list(folder.glob("*.gz"))
    assert Tokenizer(read_checkpoint(folder).tokenizer_file).vocab_size == keep


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data[: len(data) // 2], "cut short"),
        (lambda data: b"{" + data, "not gzip data"),
        (lambda data: data[:-8] + bytes(8), "not gzip data"),
        (lambda data: gzip.compress(b"{}"), "not a tokenizer"),
        (lambda data: b"", "cut short"),
    ],
)
def test_broken_files_are_named(compressed, change, words):
    path = read_checkpoint(compressed(NAMES[0])).tokenizer_file
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(CheckpointError, match=words) as caught:
        Tokenizer(path)
    assert "tokenizer.json.gz" in str(caught.value)


def test_a_file_that_expands_without_end_is_refused(compressed, monkeypatch):
    path = read_checkpoint(compressed(NAMES[0])).tokenizer_file
    size = len(read_plain(path))
    monkeypatch.setattr(files, "MAX_PLAIN_BYTES", size - 1)
    with pytest.raises(CheckpointError, match="expands beyond"):
        read_plain(path)


def test_a_folder_without_a_tokenizer_names_both_forms(compressed):
    folder = compressed(NAMES[0])
    (folder / "tokenizer.json.gz").unlink()
    with pytest.raises(CheckpointNotFoundError, match=r"tokenizer\.json or tokenizer\.json\.gz"):
        read_checkpoint(folder)
