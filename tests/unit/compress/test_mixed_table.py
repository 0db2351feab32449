"""Mixed tables: format, tiers, codebooks, folders to train on, the commands."""

import gzip
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from sentence_transformers import SentenceTransformer

from polyrank import Embedder
from polyrank.checkpoint.formats.mixed import MixedTable, decode, pack_tiers, unpack_mixed
from polyrank.checkpoint.layouts import TABLE_FILE
from polyrank.checkpoint.reader import read_checkpoint
from polyrank.compress.quantize.writing import write_int8
from polyrank.compress.trim.run import open_vocabulary
from polyrank.compress.vocabulary.codes import learn_codewords, nearest
from polyrank.compress.vocabulary.corpus import CorpusConfig
from polyrank.compress.vocabulary.table import (
    TableConfig,
    compress_rows,
    load_table,
    make_table,
    measure_table,
    write_table_folder,
)
from polyrank.compress.vocabulary.tiers import (
    LARGE_PARTS,
    SMALL_PARTS,
    choose_tiers,
    fixed_bytes,
    row_bytes,
)
from polyrank.config import EngineConfig
from polyrank.encoder.choose import choose_encoder
from polyrank.encoder.native import NativeEncoder
from polyrank.encoder.smoothing import random_pieces
from polyrank.errors import (
    CheckpointError,
    CheckpointNotFoundError,
    ConfigError,
    CorruptWeightsError,
    MissingWeightError,
)
from polyrank.text.tokenizer import Tokenizer
from tests.texts import SENTENCES

EMBEDDER = "multilingual-e5-small"
WORDS = "embeddings.word_embeddings.weight"
PLACES = "embeddings.position_embeddings.weight"
PRECISIONS = (
    EngineConfig("native", compute_dtype="float32"),
    EngineConfig("native", compute_dtype="int8"),
)


def normals(rows, width=64, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)


def mixed_tiers(rows):
    return np.random.default_rng(1).integers(0, 4, rows).astype(np.uint8)


def widths(checkpoint):
    encoder = NativeEncoder(checkpoint, PRECISIONS[0])
    return encoder.measure_inputs(random_pieces(checkpoint.spec.body))


@pytest.fixture(scope="module")
def mixed(checkpoint, tmp_path_factory):
    """An int8 folder with a mixed table, and the same with its values in float32."""
    opened = read_checkpoint(checkpoint(EMBEDDER))
    exact = opened.body_float32(WORDS)
    table = compress_rows(exact, mixed_tiers(len(exact)))
    folders = []
    for kind in ("mixed", "float32"):
        folder = tmp_path_factory.mktemp(kind) / EMBEDDER
        folder.mkdir()
        given = table if kind == "mixed" else None
        write_int8(opened, widths(opened), folder, embeddings=kind, mixed=given)
        folders.append(folder)
    places = opened.body_float32(PLACES).astype(np.float16).astype(np.float32)
    values = {WORDS: unpack_mixed(table), PLACES: places}
    change_tensors(folders[1], lambda tensors: tensors.update(values))
    return folders


@pytest.fixture
def broken(mixed, tmp_path):
    """A copy that may be changed."""
    return Path(shutil.copytree(mixed[0], tmp_path / "broken"))


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl.gz"
    with gzip.open(path, "wt", encoding="utf8") as file:
        for language, text in SENTENCES.items():
            file.write(json.dumps({"lang": language, "text": text}) + "\n")
    return path


def change_tensors(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def rows_of(folder, config):
    checkpoint = read_checkpoint(folder)
    size = checkpoint.spec.body.vocab_size
    batch = random_pieces(checkpoint.spec.body)
    every = replace(batch, input_ids=np.arange(len(batch.input_ids), dtype=np.int32) * 7 % size)
    assert len(set(every.input_ids.tolist())) > min(200, size - 1)
    return choose_encoder(checkpoint, config).run(every, ("mean",))


def test_bit_order_of_tiers():
    tiers = np.zeros(70, np.uint8)
    tiers[[0, 9, 64]] = [1, 2, 3]
    planes = pack_tiers(tiers)
    assert planes.shape == (2, 16)
    assert np.flatnonzero(planes[0]).tolist() == [0, 8]
    assert (planes[0, 0], planes[0, 8], planes[1, 1], planes[1, 8]) == (1, 1, 2, 1)


@pytest.mark.parametrize("rows", [1, 64, 333])
def test_rows_come_back_in_their_places(rows):
    values, tiers = normals(rows), mixed_tiers(rows)
    table = compress_rows(values, tiers)
    assert np.array_equal(table.tiers, tiers)
    found = unpack_mixed(table)
    counts = [len(table.blocks), *(len(tier.codes) for tier in table.coded)]
    assert counts == np.bincount(tiers, minlength=4).tolist()
    # a table of fewer rows than codewords keeps them to float16's last bit
    assert np.abs(found - values)[tiers > 0].max(initial=0) < 0.01
    assert np.abs(found - values).max() < 0.6


def test_a_row_is_its_coarse_row_and_its_codewords():
    coarse, codebook = normals(256), normals(16 * 256, 4).reshape(16, 256, 4)
    codes = np.arange(17, dtype=np.uint8)[None] * 3
    expected = coarse[0] + np.concatenate([codebook[part, 3 * part + 3] for part in range(16)])
    assert np.array_equal(decode(codes, coarse, codebook)[0], expected)


def test_codewords_are_nearest_and_the_same_every_time():
    vectors = normals(2000, 8)
    first, second = (learn_codewords(vectors, np.random.default_rng(0)) for _ in range(2))
    assert first.tobytes() == second.tobytes()
    words = first.astype(np.float32)
    distances = np.square(vectors[:, None] - words).sum(axis=2)
    assert np.array_equal(nearest(vectors, words), distances.argmin(axis=1))
    assert distances.min(axis=1).mean() / 8 < 0.25
    assert not learn_codewords(vectors[:0], np.random.default_rng(0)).any()


def test_more_bits_lose_less():
    values = normals(6000)
    errors = []
    for tier in range(4):
        table = compress_rows(values, np.full(len(values), tier, np.uint8))
        errors.append(measure_table(table, values).error)
        assert table.num_rows == len(values)
    assert errors == sorted(errors)
    assert errors[0] < 0.01
    assert errors[2] < 0.363  # what signs and a scale leave of normal values


def test_tiers_fit_and_follow_worth():
    generator = np.random.default_rng(0)
    worth = generator.permutation(1 / np.arange(1, 5001))
    worth /= worth.sum()
    pinned = np.zeros(5000, bool)
    pinned[worth.argmin()] = True
    most = fixed_bytes(5000, 64) + 5000 * 11
    tiers, parts = choose_tiers(worth, pinned, 64, most)
    assert parts == LARGE_PARTS  # 64 is no multiple of 3
    sizes = np.array(row_bytes(64, parts))
    assert most - 64 <= fixed_bytes(5000, 64) + sizes[tiers].sum() <= most
    assert tiers[pinned].tolist() == [0]
    assert set(tiers.tolist()) == {0, 1, 2, 3}
    order = np.argsort(-worth[~pinned])
    assert (np.diff(tiers[~pinned][order].astype(int)) >= 0).all()
    assert not choose_tiers(worth, pinned, 64, 10**9).tiers.any()
    table = compress_rows(normals(5000), tiers)
    figures = measure_table(table, normals(5000))
    assert figures.size_bytes == fixed_bytes(5000, 64) + sizes[tiers].sum()
    with pytest.raises(ConfigError, match=r"takes 0\.16 MB or more, and 0\.10 MB"):
        choose_tiers(worth, pinned, 64, 100_000)


def test_parts_are_those_that_lose_least():
    worth = 1 / np.arange(1, 5001)
    worth /= worth.sum()
    pinned = np.zeros(5000, bool)
    for bytes_a_row, parts in ((10, LARGE_PARTS), (42, SMALL_PARTS)):
        most = fixed_bytes(5000, 96) + 5000 * bytes_a_row
        choice = choose_tiers(worth, pinned, 96, most)
        assert choice.part_sizes == parts
        table = compress_rows(normals(5000, 96), choice.tiers, part_sizes=parts)
        assert tuple(tier.codebook.shape[2] for tier in table.coded) == parts
        assert measure_table(table, normals(5000, 96)).size_bytes <= most


def test_pieces_of_every_sequence_are_of_tier_0(checkpoint, texts):
    opened = read_checkpoint(checkpoint(EMBEDDER))
    steps = []
    table = make_table(
        opened,
        [texts],
        TableConfig(0.16, CorpusConfig(held_out=0.0)),
        lambda step, done, total: steps.append((step, done, total)),
    )
    prompts = Tokenizer(opened.tokenizer_file).encode(list(opened.spec.prompts.by_name.values()))
    vocabulary = open_vocabulary(opened)
    special = np.flatnonzero(vocabulary.required & (vocabulary.probabilities == 0))
    assert len(special)
    assert not table.tiers[np.concatenate([special, *prompts])].any()
    assert set(table.tiers.tolist()) > {0, 3}
    assert sum(array.nbytes for array in table.tensors("").values()) <= 160_000
    assert {step for step, _, _ in steps} == {"texts", "codebooks"}
    assert steps[-1][1:] == (29, 29)
    with pytest.raises(ConfigError, match="more than 0"):
        TableConfig(0)


@pytest.mark.parametrize("config", PRECISIONS, ids=lambda config: config.compute_dtype)
def test_vectors_are_those_of_the_values_in_float32_to_the_bit(mixed, config):
    assert rows_of(mixed[0], config).tobytes() == rows_of(mixed[1], config).tobytes()


def test_tensors_that_lie_at_odd_places_are_read_too(mixed, tmp_path):
    folder = Path(shutil.copytree(mixed[0], tmp_path / "moved"))
    path = folder / "model.safetensors"
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    path.write_bytes(
        (length + 1).to_bytes(8, "little") + data[8 : 8 + length] + b" " + data[8 + length :]
    )
    for config in PRECISIONS:
        assert rows_of(folder, config).tobytes() == rows_of(mixed[0], config).tobytes()


def without(suffix):
    return lambda tensors: tensors.pop(WORDS + suffix)


def with_tensor(suffix, change):
    return lambda tensors: tensors.update({WORDS + suffix: change(tensors[WORDS + suffix])})


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (without("_tiers"), MissingWeightError, "weight_tiers"),
        (without("_codebook_2"), MissingWeightError, "weight_codebook_2"),
        (without("_scale"), MissingWeightError, "weight_scale"),
        (with_tensor("_tiers", lambda t: t[:1].copy()), CorruptWeightsError, "shape"),
        (with_tensor("_tiers", lambda t: t[:, ::-1].copy()), CorruptWeightsError, "four tiers"),
        (with_tensor("_codes_1", lambda t: t[:-1].copy()), CorruptWeightsError, "four tiers"),
        (with_tensor("_codes_3", lambda t: t[:, 1:].copy()), CorruptWeightsError, "shape"),
        (with_tensor("_codebook_1", lambda t: t[:15].copy()), CorruptWeightsError, "no divisor"),
        (with_tensor("_codebook_1", lambda t: t[:0].copy()), CorruptWeightsError, "no divisor"),
        (with_tensor("_coarse", np.float32), CorruptWeightsError, "F32 values; polyrank reads F16"),
        (with_tensor("_codes_2", np.int8), CorruptWeightsError, "I8 values; polyrank reads U8"),
        (with_tensor("", lambda t: t[:, :-1].copy()), CorruptWeightsError, "shape"),
    ],
)
def test_tensors_that_contradict_each_other_are_refused(broken, change, error, words):
    change_tensors(broken, change)
    with pytest.raises(error, match=words):
        rows_of(broken, PRECISIONS[1])


def test_values_that_are_no_numbers_are_named(broken):
    change_tensors(broken, lambda tensors: tensors[WORDS + "_coarse"].fill(np.nan))
    with pytest.raises(CorruptWeightsError, match=r"weight_coarse.*NaN"):
        rows_of(broken, PRECISIONS[1])


def test_rows_that_are_no_whole_blocks_are_refused(broken):
    path = broken / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "hidden_size": 48, "num_attention_heads": 3}))
    with pytest.raises(CheckpointError, match="multiple of 32"):
        read_checkpoint(broken)


def test_a_mixed_table_is_given_where_it_is_asked_for(checkpoint, tmp_path):
    opened = read_checkpoint(checkpoint(EMBEDDER))
    table = compress_rows(opened.body_float32(WORDS), mixed_tiers(opened.spec.body.vocab_size))
    for kind, given in (("mixed", None), ("int4", table)):
        with pytest.raises(ConfigError, match="mixed table"):
            write_int8(opened, widths(opened), tmp_path, embeddings=kind, mixed=given)


@pytest.fixture(scope="module")
def to_train(checkpoint, texts, tmp_path_factory):
    opened = read_checkpoint(checkpoint(EMBEDDER))
    output = tmp_path_factory.mktemp("table") / "folder"
    write_table_folder(opened, make_table(opened, [texts], TableConfig(0.16)), output)
    return output


def test_a_folder_to_train_on_holds_the_values_and_the_table(checkpoint, to_train):
    source, opened = read_checkpoint(checkpoint(EMBEDDER)), read_checkpoint(to_train)
    table = load_table(to_train, opened)
    assert isinstance(table, MixedTable)
    assert np.array_equal(unpack_mixed(table), opened.body_float32(WORDS))
    for name in source.body_tensors:
        if name != WORDS:
            assert np.array_equal(opened.body_float32(name), source.body_float32(name))
    lines = list(SENTENCES.values())[:5]
    theirs = SentenceTransformer(str(to_train), device="cpu").encode(lines)
    ours = Embedder(to_train, encoder="native").encode(lines)
    assert np.abs(theirs - ours).max() < 1e-5


def test_a_table_is_taken_over_as_it_is_unless_it_was_trained(to_train, tmp_path):
    trained = Path(shutil.copytree(to_train, tmp_path / "trained"))
    (trained / TABLE_FILE).unlink()
    change_tensors(trained, lambda tensors: tensors["encoder.layer.0.output.dense.bias"].fill(0.5))
    opened = read_checkpoint(trained)
    folder = tmp_path / "int8"
    folder.mkdir()
    table = load_table(to_train, opened)
    write_int8(opened, widths(opened), folder, embeddings="mixed", mixed=table)
    assert np.array_equal(read_checkpoint(folder).body_float32(WORDS), opened.body_float32(WORDS))
    with pytest.raises(CheckpointNotFoundError, match="compress table"):
        load_table(trained, opened)
    change_tensors(trained, lambda tensors: tensors[WORDS][7:9].__iadd__(1e-3))
    with pytest.raises(ConfigError, match=r"2 of .* word embeddings .* trained"):
        load_table(to_train, read_checkpoint(trained))
    with pytest.raises(ConfigError, match="int8 already"):
        load_table(to_train, read_checkpoint(folder))


def run(*arguments):
    command = [sys.executable, "-m", "polyrank", "compress", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "small"
    folder.mkdir()
    lines = list(SENTENCES.values())
    for name, rows in (("corpus", lines), ("queries", [line[:25] for line in lines])):
        content = [json.dumps({"_id": f"{name}{i}", "text": row}) for i, row in enumerate(rows)]
        (folder / f"{name}.jsonl").write_text("\n".join(content) + "\n", "utf8")
    pairs = [f"queries{i}\tcorpus{i}\t1" for i in range(len(lines))]
    (folder / "qrels.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *pairs]) + "\n")
    return folder


def test_commands(checkpoint, texts, data, tmp_path):
    first = tmp_path / "table"
    done = run("table", checkpoint(EMBEDDER), first, "--text", texts, "--table-mb", "0.16")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["folder"] == str(first)
    assert facts["size_bytes"] <= 160_000
    assert 0 < facts["error"] < 1
    assert sum(facts["num_rows"]) == read_checkpoint(first).spec.body.vocab_size
    common = ("quantize", first, "--data", data, "--tolerance", "1", "--embeddings", "mixed")
    common += ("--weights", "int4")
    done = run(*common, "--table", first, "-o", tmp_path / "int8")
    assert done.returncode == 0, done.stderr
    opened = read_checkpoint(tmp_path / "int8")
    assert opened.spec.quantization.embeddings == "mixed"
    assert opened.spec.quantization.linears == "int4"
    assert np.array_equal(opened.body_float32(WORDS), read_checkpoint(first).body_float32(WORDS))
    assert not (tmp_path / "int8" / TABLE_FILE).exists()
    assert Embedder(tmp_path / "int8").info.encoder.compute_dtype == "int8"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--embeddings", "mixed"], "needs --text"),
        (["--embeddings", "mixed", "--text", "a", "--table", "b"], "one of them"),
        (["--embeddings", "int4", "--text", "a"], "for --embeddings mixed"),
    ],
)
def test_options_that_contradict_each_other(checkpoint, data, tmp_path, options, words):
    output = tmp_path / "int8"
    done = run("quantize", checkpoint(EMBEDDER), "--data", data, "-o", output, *options)
    assert done.returncode == 2
    assert words in done.stderr
    assert not output.exists()
