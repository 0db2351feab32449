"""Trimmed checkpoints: folders, weights to the bit, choice, reading of texts, the command."""

import gzip
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from transformers import AutoModel, AutoTokenizer

from polyrank import Classifier, Embedder, Reranker
from polyrank.checkpoint.reader import read_checkpoint
from polyrank.compress.trim.check import TrimCheck
from polyrank.compress.trim.plot import draw_trim
from polyrank.compress.trim.run import TrimConfig, open_vocabulary, trim_vocabulary
from polyrank.compress.vocabulary.choice import ChoiceConfig, choose_pieces
from polyrank.compress.vocabulary.corpus import CorpusConfig, read_texts
from polyrank.compress.vocabulary.counting import PieceCounts
from polyrank.compress.vocabulary.pieces import Vocabulary, read_vocabulary, scripts_of
from polyrank.errors import CapabilityError, CheckpointError, ConfigError, DataError
from polyrank.evaluation import Bm25Retriever, EvaluationConfig, load_dataset
from polyrank.text.tokenizer import Tokenizer
from tests.texts import SENTENCES

NAMES = (
    "multilingual-e5-small",
    "bge-reranker-base",
    "three-way-classifier",
    "UAE-Large-V1",
    "dense-embedder",
    "bert-reranker",
)
TABLE = "embeddings.word_embeddings.weight"


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Half of the sentences, word by word too, so that some are held out."""
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl.gz"
    with gzip.open(path, "wt", encoding="utf8") as file:
        for language, text in [*SENTENCES.items()][::2]:
            for part in (text, *text.split()):
                file.write(json.dumps({"lang": language, "text": part}) + "\n")
    return path


def least(folder):
    return int(open_vocabulary(read_checkpoint(folder)).required.sum())


@pytest.fixture(scope="module")
def trimmed(checkpoint, texts, tmp_path_factory):
    made = {}

    def get(name):
        if name not in made:
            source = checkpoint(name)
            config = TrimConfig(ChoiceConfig(keep=least(source) + 150), created="2026-01-31")
            output = tmp_path_factory.mktemp("trimmed") / name
            made[name] = trim_vocabulary(read_checkpoint(source), output, [texts], config)
        return made[name]

    return get


def kept_rows(source, folder):
    """Old id of each new one, told by the pieces."""
    old, new = (open_vocabulary(read_checkpoint(place)).pieces for place in (source, folder))
    return [old.index(piece) for piece in new]


def unchanged_texts(source, folder, candidates):
    """Texts that the trimmed tokenizer cuts as the whole one."""
    old, new = (Tokenizer(read_checkpoint(place).tokenizer_file) for place in (source, folder))
    rows = np.array(kept_rows(source, folder))
    pairs = zip(old.encode(candidates), new.encode(candidates), strict=True)
    return [
        text
        for text, (before, after) in zip(candidates, pairs, strict=True)
        if rows[after].tolist() == before.tolist()
    ]


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_those_of_before_but_for_rows_that_went(checkpoint, trimmed, name):
    source, folder = checkpoint(name), trimmed(name).folder
    before, after = (load_file(place / "model.safetensors") for place in (source, folder))
    rows = kept_rows(source, folder)
    assert rows == sorted(rows)
    assert set(after) == set(before)
    for tensor, values in before.items():
        expected = values[rows] if tensor.endswith(TABLE) else values
        assert after[tensor].dtype == expected.dtype
        assert after[tensor].tobytes() == np.ascontiguousarray(expected).tobytes()
    config = json.loads((folder / "config.json").read_text())
    assert config["vocab_size"] == len(rows) == trimmed(name).record.pieces_after
    old = json.loads((source / "config.json").read_text())
    for key in old:
        if key.endswith("_token_id") and old[key] is not None:
            assert rows[config[key]] == old[key]


def test_everything_else_is_copied(checkpoint, trimmed):
    source, folder = checkpoint("dense-embedder"), trimmed("dense-embedder").folder
    changed = {"model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"}
    for path in source.rglob("*"):
        relative = path.relative_to(source)
        if path.is_file() and str(relative) not in changed:
            assert (folder / relative).read_bytes() == path.read_bytes(), relative
    assert {path.name for path in folder.glob("polyrank_*")} == {"polyrank_trim.json"}


WORDS = sorted({word for text in SENTENCES.values() for word in text.split()})


def test_vectors_of_unchanged_texts_are_the_same_to_the_bit(checkpoint, trimmed):
    for name in ("multilingual-e5-small", "UAE-Large-V1", "dense-embedder"):
        source, folder = checkpoint(name), trimmed(name).folder
        same = unchanged_texts(source, folder, WORDS)
        assert len(same) > 30
        before, after = (
            Embedder(place, compute_dtype="float32").encode(same, prompt="")
            for place in (source, folder)
        )
        assert before.tobytes() == after.tobytes()


def test_scores_of_unchanged_pairs_are_the_same_to_the_bit(checkpoint, trimmed):
    for name in ("bge-reranker-base", "bert-reranker"):
        source, folder = checkpoint(name), trimmed(name).folder
        same = unchanged_texts(source, folder, WORDS)
        pairs = list(zip(same, reversed(same), strict=True))
        before, after = (Reranker(place).score(pairs, logits=True) for place in (source, folder))
        assert before.tobytes() == after.tobytes()
    source, folder = checkpoint("three-way-classifier"), trimmed("three-way-classifier").folder
    same = unchanged_texts(source, folder, WORDS)
    assert Classifier(source).classify(same) == Classifier(folder).classify(same)


@pytest.mark.parametrize("name", ["bge-reranker-base", "bert-reranker"])
def test_transformers_reads_the_folder_alike(trimmed, name):
    folder = trimmed(name).folder
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    ours = Tokenizer(folder / "tokenizer.json")
    for text in SENTENCES.values():
        ids = tokenizer(text)["input_ids"]
        assert ids == np.concatenate(ours.single.join(ours.encode([text]))[0]).tolist()
        assert max(ids) < model.get_input_embeddings().num_embeddings
    assert tokenizer.convert_ids_to_tokens(tokenizer.mask_token_id) == tokenizer.mask_token
    assert tokenizer.pad_token_id == model.config.pad_token_id


def test_figures_are_of_texts_held_out(trimmed):
    record = trimmed("multilingual-e5-small").record
    assert set(record.languages) <= set(list(SENTENCES)[::2])
    assert sum(figures.num_texts for figures in record.languages.values()) > 5
    for figures in record.languages.values():
        assert 0 <= figures.unchanged <= 1
        assert figures.growth >= 0
        assert figures.unknown == figures.unknown_after == 0
        assert figures.kept < 1 or figures.unchanged == 1
    assert record.scripts["latin"].pieces > record.scripts["latin"].pieces_after
    assert json.loads(trimmed("multilingual-e5-small").record_path.read_text()) == json.loads(
        json.dumps(record.as_dict())
    )
    assert draw_trim(record).axes


def test_shards_types_and_language_model_heads(checkpoint, texts, tmp_path):
    source = shutil.copytree(checkpoint("bge-reranker-base"), tmp_path / "source")
    tensors = load_file(source / "model.safetensors")
    rows = len(tensors[f"roberta.{TABLE}"])
    tensors["lm_head.bias"] = np.arange(rows, dtype=np.float16)
    tensors["roberta.embeddings.position_ids"] = np.arange(514, dtype=np.int64)
    (source / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {
        "model-00001-of-00002.safetensors": names[::2],
        "model-00002-of-00002.safetensors": names[1::2],
    }
    for file, members in parts.items():
        save_file({name: tensors[name] for name in members}, source / file)
    index = {name: file for file, members in parts.items() for name in members}
    (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    config = TrimConfig(ChoiceConfig(keep=least(source) + 100))
    folder = trim_vocabulary(read_checkpoint(source), tmp_path / "out", [texts], config).folder
    after = load_file(folder / "model.safetensors")
    assert after["lm_head.bias"].tolist() == kept_rows(source, folder)
    assert after["roberta.embeddings.position_ids"].tolist() == list(range(514))
    assert not list(folder.glob("*.index.json"))
    assert not list(folder.glob("model-*"))


def counts_of(**languages):
    owners = [i for i, found in enumerate(languages.values()) for _ in found]
    entries = [entry for found in languages.values() for entry in found.items()]
    ids, counts = (np.array(values) for values in zip(*entries, strict=True))
    return PieceCounts(tuple(languages), np.array(owners), ids, counts, 12)


SMALL = Vocabulary(
    kind="Unigram",
    pieces=("<unk>", *(f"piece{'abcdefghijk'[i]}" for i in range(11))),
    probabilities=np.r_[0.0, np.full(11, 1 / 11)],
    required=np.arange(12) == 0,
    unknown_id=0,
)


def test_a_small_language_is_not_drowned_by_a_large_one():
    counts = counts_of(
        large={i: 100_000 - 9_000 * i for i in range(1, 7)}, small={i: 4_000 for i in (8, 9, 10)}
    )
    pooled, balanced = (
        choose_pieces(SMALL, counts, ChoiceConfig(keep=7, balance=balance))
        for balance in ("pooled", "balanced")
    )
    assert np.flatnonzero(pooled).tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert balanced.sum() == 7
    assert balanced[[8, 9, 10]].sum() >= 2


def test_coverage_is_met_by_the_fewest_pieces():
    counts = counts_of(first={1: 9_000, 2: 900, 3: 100}, second={4: 5_000, 5: 5_000})
    kept = choose_pieces(SMALL, counts, ChoiceConfig(coverage=0.98))
    assert (counts.by_language(kept) / counts.totals >= 0.98).all()
    assert np.flatnonzero(kept).tolist() == [0, 1, 2, 4, 5]


def test_settings_that_cannot_be_met(checkpoint, texts, tmp_path):
    with pytest.raises(ConfigError, match="either keep or coverage"):
        ChoiceConfig()
    with pytest.raises(ConfigError, match="coverage must be"):
        ChoiceConfig(coverage=1.5)
    with pytest.raises(ConfigError, match="held_out"):
        CorpusConfig(held_out=0.9)
    opened = read_checkpoint(checkpoint("bge-reranker-base"))
    with pytest.raises(ConfigError, match="must stay"):
        trim_vocabulary(opened, tmp_path / "x", [texts], TrimConfig(ChoiceConfig(keep=10)))
    (tmp_path / "taken").mkdir()
    with pytest.raises(ConfigError, match="exists already"):
        trim_vocabulary(opened, tmp_path / "taken", [texts], TrimConfig(ChoiceConfig(keep=999)))
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_quantised_folders_and_other_tokenizers_are_refused(checkpoint, tmp_path):
    source = shutil.copytree(checkpoint("bge-reranker-base"), tmp_path / "model")
    tokenizer = json.loads((source / "tokenizer.json").read_text())
    words = {**tokenizer, "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}
    with pytest.raises(CapabilityError, match="WordLevel"):
        read_vocabulary(words)
    marked = {"type": "BPE", "vocab": {"a": 0}, "merges": [], "end_of_word_suffix": "</w>"}
    with pytest.raises(CapabilityError, match="BPE"):
        read_vocabulary({**tokenizer, "model": marked})
    with pytest.raises(CheckpointError, match="different checkpoints"):
        read_vocabulary(tokenizer, [10**6])
    opened = read_checkpoint(source)
    object.__setattr__(opened.spec, "quantization", object())
    with pytest.raises(ConfigError, match="then quantise"):
        open_vocabulary(opened)


def test_texts_of_all_forms(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.txt").write_text("one\n\ntwo\none\n", "utf8")
    row = {"src": "cat", "tgt": "Katze", "lang": "de", "id": "x"}
    more = {"title": "gato", "keywords": ["uno", "dos"], "text": "", "lang": "es"}
    with gzip.open(tmp_path / "deep" / "b.jsonl.gz", "wt") as file:
        file.write(json.dumps(row) + "\n" + json.dumps(more) + "\n")
    (tmp_path / "ignored.png").write_bytes(b"\x00")
    steps = []
    found = [
        (text.language, text.text)
        for text in read_texts([tmp_path], CorpusConfig(), lambda *step: steps.append(step))
    ]
    assert found == [
        ("und", "one"),
        ("und", "two"),
        ("und", "cat"),
        ("de", "Katze"),
        ("es", "gato"),
        ("es", "uno"),
        ("es", "dos"),
    ]
    assert steps[-1][1] == steps[-1][2]
    again = [text.is_held_out for text in read_texts([tmp_path / "a.txt"], CorpusConfig(seed=1))]
    other = [text.is_held_out for text in read_texts([tmp_path / "a.txt"], CorpusConfig(seed=1))]
    assert again == other


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", b'{"body_of": "x"}\n', "--text-field"),
        ("a.jsonl", b"[1]\n", "not an object"),
        ("a.jsonl", b"plain\n", "not JSON"),
        ("a.txt", b"\xff\xfe\n", "UTF-8"),
        ("a.txt.gz", b"not gzip", "gzip"),
    ],
)
def test_unreadable_texts(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=words):
        list(read_texts([tmp_path / name], CorpusConfig()))


def test_missing_texts(tmp_path):
    with pytest.raises(DataError, match="no file or folder"):
        list(read_texts([tmp_path / "absent"], CorpusConfig()))
    with pytest.raises(DataError, match="no texts"):
        list(read_texts([tmp_path], CorpusConfig()))


def test_scripts_are_those_of_first_letters():
    names, numbers = scripts_of(["▁kat", "##кот", "12", None, "猫", "▁", "ねこ"])
    assert [names[i] for i in numbers] == [
        "latin",
        "cyrillic",
        "common",
        "common",
        "cjk",
        "common",
        "hiragana",
    ]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("beir")
    documents = [{"_id": code, "text": text} for code, text in SENTENCES.items()]
    queries = [
        {"_id": code, "text": " ".join(text.split()[:3])} for code, text in SENTENCES.items()
    ]
    for file, rows in (("corpus.jsonl", documents), ("queries.jsonl", queries)):
        (folder / file).write_text("".join(json.dumps(row) + "\n" for row in rows), "utf8")
    lines = [f"{code}\t{code}\t1" for code in SENTENCES]
    (folder / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n" + "\n".join(lines), "utf8")
    return folder


@pytest.mark.parametrize("name", ["multilingual-e5-small", "bge-reranker-base"])
def test_a_check_measures_and_may_refuse(checkpoint, texts, data, tmp_path, name):
    source = checkpoint(name)
    config = TrimConfig(ChoiceConfig(keep=least(source)))
    check = TrimCheck(
        source, load_dataset(data), EvaluationConfig(top_k=10), Bm25Retriever(), tolerance=1.0
    )
    opened = read_checkpoint(source)
    outcome = trim_vocabulary(opened, tmp_path / "kept", [texts], config, check=check)
    (figures,) = (found["all"] for found in outcome.record.check.tasks.values())
    assert outcome.folder == tmp_path / "kept"
    assert figures.num_queries == len(SENTENCES)

    def refuse(folder):
        record = check(folder)
        return type(record)(record.dataset, 0.0, ("worse",), record.tasks)

    refused = trim_vocabulary(opened, tmp_path / "no", [texts], config, check=refuse)
    assert refused.folder is None
    assert json.loads(refused.record_path.read_text())["passed"] is False
    assert {path.name for path in tmp_path.iterdir()} == {"kept", "no.trim.json"}


def test_a_classifier_cannot_be_checked(checkpoint, data, tmp_path):
    source = checkpoint("three-way-classifier")
    check = TrimCheck(source, load_dataset(data), EvaluationConfig(), Bm25Retriever())
    with pytest.raises(CapabilityError, match="ranking"):
        check(source)


def test_the_command(checkpoint, texts, data, tmp_path):
    source, output = checkpoint("multilingual-e5-small"), tmp_path / "out"
    command = [sys.executable, "-m", "polyrank", "compress", "trim", str(source), str(output)]
    command += ["--text", str(texts), "--keep", str(least(source) + 100), "--data", str(data)]
    done = subprocess.run([*command, "--tolerance", "1"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["folder"] == str(output)
    assert facts["passed"] is True
    assert (output / "polyrank_trim.png").stat().st_size > 10_000
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 2
    assert "exists already" in again.stderr
