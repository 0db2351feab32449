"""Jobs on one machine: the library's bits, input order, and what is refused."""

import json
import os
import resource
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from polyrank import Classifier, Embedder, Reranker
from polyrank.bulk.estimate import estimate
from polyrank.bulk.inputs import measure, splits
from polyrank.bulk.job import SUMMARY, Job
from polyrank.bulk.partition import Reader
from polyrank.bulk.places import Place
from polyrank.bulk.run import prepare, run_job
from polyrank.bulk.settings import BulkSettings, JobSettings
from polyrank.errors import ConfigError, DataError, JobMismatchError, StorageError
from tests.bulk import jobs

Checkpoint = Callable[[str], Path]
COUNT = 60
EMBEDDER, RERANKER, CLASSIFIER = (
    "multilingual-e5-small",
    "bge-reranker-base",
    "three-way-classifier",
)


def vectors_of(table: pa.Table) -> np.ndarray:
    column = table.column("embedding").combine_chunks()
    return column.flatten().to_numpy().reshape(len(table), -1)


@pytest.mark.parametrize("kind", jobs.WRITERS)
def test_vectors_have_the_bits_of_the_library(
    kind: str, tmp_path: Path, checkpoint: Checkpoint
) -> None:
    if kind == "lance":
        pytest.importorskip("lance")
    given = jobs.rows(COUNT)
    source, model = jobs.WRITERS[kind](tmp_path, given), checkpoint(EMBEDDER)
    outcome = jobs.run(source, tmp_path / "out", jobs.embedding(model))
    table = jobs.read(tmp_path / "out")
    texts = [row["text"] for row in given]
    expected = Embedder(model).encode(texts, input_type="document")
    assert vectors_of(table).tobytes() == expected.tobytes()
    assert table.drop_columns(["embedding"]).to_pylist() == given
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), expected.shape[1])
    assert outcome.summary["rows"] == COUNT
    assert len(outcome.records) > 5
    assert json.loads((tmp_path / "out" / SUMMARY).read_text()) == outcome.summary


@pytest.mark.parametrize("dtype", ["float16", "int8", "ubinary"])
def test_smaller_vectors(dtype: str, tmp_path: Path, checkpoint: Checkpoint) -> None:
    given, model = jobs.rows(12), checkpoint(EMBEDDER)
    settings = jobs.embedding(model, output_dtype=dtype, dimensions=16, columns=("id",))
    jobs.run(jobs.write_parquet(tmp_path / "in", given), tmp_path / "out", settings)
    table = jobs.read(tmp_path / "out")
    own = "float32" if dtype == "float16" else dtype
    expected = Embedder(model).encode(
        [row["text"] for row in given], input_type="document", dimensions=16, output_dtype=own
    )
    if dtype == "float16":
        expected = expected.astype(np.float16)
    assert vectors_of(table).tobytes() == expected.tobytes()
    assert table.column_names == ["id", "embedding"]


def test_scores_and_labels_have_the_bits_of_the_library(
    tmp_path: Path, checkpoint: Checkpoint
) -> None:
    given = jobs.rows(30)
    source = jobs.write_lines(tmp_path / "in.jsonl", given)
    pairs = [(row["query"], row["text"]) for row in given]
    model = checkpoint(RERANKER)
    settings = JobSettings("rerank", str(model), query_field="query", partition_rows=2)
    jobs.run(source, tmp_path / "scored", settings)
    scores = jobs.read(tmp_path / "scored").column("score").to_numpy()
    assert scores.tobytes() == Reranker(model).score(pairs).tobytes()

    model = checkpoint(CLASSIFIER)
    settings = JobSettings("classify", str(model), query_field="query", partition_rows=2)
    jobs.run(source, tmp_path / "labelled", settings)
    table, expected = jobs.read(tmp_path / "labelled"), Classifier(model).classify(pairs)
    assert table.column("label").to_pylist() == [each.label for each in expected]
    assert table.column("label_score").to_pylist() == [each.score for each in expected]
    assert table.column("probabilities").to_pylist() == [dict(e.probabilities) for e in expected]


def test_the_model_that_ships_scores_with_probabilities(tmp_path: Path) -> None:
    given = jobs.rows(6)
    source = jobs.write_lines(tmp_path / "in.jsonl", given)
    settings = JobSettings("rerank", query="How long do cats live?", columns=("id",))
    jobs.run(source, tmp_path / "out", settings)
    table, reranker = jobs.read(tmp_path / "out"), Reranker()
    pairs = [("How long do cats live?", row["text"]) for row in given]
    assert table.column("score").to_numpy().tobytes() == reranker.score(pairs).tobytes()
    assert table.column("probability").to_pylist() == reranker.probabilities(pairs).tolist()


def test_a_line_is_read_once_wherever_files_are_cut(tmp_path: Path) -> None:
    given = jobs.rows(25)
    source = jobs.write_lines(tmp_path / "in.jsonl", given)
    place, size = Place(str(source)), source.stat().st_size
    files, columns = measure(place, ["text"], 1)
    for step in (1, 2, 7, 100, 1023, size - 1, size):
        cut = replace(files[0], step=step)
        job = Job(str(source), JobSettings("embed"), {}, (cut,), columns)
        reader = Reader(place, job)
        found = [row for split in splits([cut]) for row in reader.read(split).table.to_pylist()]
        assert found == given
        backwards = [reader.read(split).table.to_pylist() for split in reversed(splits([cut]))]
        assert [row for part in reversed(backwards) for row in part] == given
        reader.close()


def test_refused_rows_go_to_files_of_their_own(tmp_path: Path, checkpoint: Checkpoint) -> None:
    lines = [
        '{"id": 1, "text": "sound"}',
        '{"id": 2, "text": null}',
        '{"id": 3}',
        '{"id": 4, "text": 5}',
        '{"id": 5, "text": "' + "long " * 50 + '"}',
        "not JSON",
        "[1, 2]",
        '{"id": 6, "text": "half \\ud800"}',
        '{"id": "seven", "text": "another type"}',
        '{"id": 8, "text": "more", "unheard": 1}',
        '{"id": 9, "text": "sound, too"}',
    ]
    source = tmp_path / "in.jsonl"
    source.write_text("\n".join(lines))
    # columns are known by the first rows
    settings = jobs.embedding(checkpoint(EMBEDDER), max_text_bytes=200)
    with pytest.raises(DataError, match=r"'id' holds values of several types"):
        jobs.run(source, tmp_path / "out", settings)
    source.write_text(
        "\n".join(line for line in lines if "unheard" not in line and "seven" not in line)
    )
    outcome = jobs.run(source, tmp_path / "out", settings)
    assert jobs.read(tmp_path / "out").column("id").to_pylist() == [1, 9]
    refused = jobs.poison(tmp_path / "out")
    assert outcome.summary["poison"] == len(refused) == 7
    told = (
        "text is missing",
        "text is missing",
        "does not hold string",
        "and 200 are taken",
        "not a JSON object",
        "not a JSON object",
        "half a character",
    )
    for row, words in zip(refused, told, strict=True):
        assert words in row["reason"]
    assert all(source.read_bytes()[row["byte"] :].strip() for row in refused)


def test_rows_that_the_sample_did_not_show(tmp_path: Path, checkpoint: Checkpoint) -> None:
    source = tmp_path / "in.jsonl"
    first = [json.dumps({"id": i, "text": "sound"}) for i in range(1000)]
    late = ['{"id": "x", "text": "y"}', '{"id": 1, "text": "y", "unheard": {"a": 1}}']
    source.write_text("\n".join([*first, *late]))
    settings = jobs.embedding(checkpoint(EMBEDDER), partition_rows=1024)
    jobs.run(source, tmp_path / "out", settings)
    assert [row["reason"][:12] for row in jobs.poison(tmp_path / "out")] == [
        "field 'id' d",
        "field 'unhea",
    ]


def test_null_texts_of_tables_are_refused(tmp_path: Path, checkpoint: Checkpoint) -> None:
    table = pa.table({"text": ["a", None, "c"], "n": [1, 2, 3]})
    pq.write_table(table, tmp_path / "in.parquet")
    jobs.run(tmp_path / "in.parquet", tmp_path / "out", jobs.embedding(checkpoint(EMBEDDER)))
    assert jobs.read(tmp_path / "out").column("n").to_pylist() == [1, 3]
    (refused,) = jobs.poison(tmp_path / "out")
    assert (refused["row"], refused["reason"]) == (1, "text is missing")


def test_input_that_cannot_be_used(tmp_path: Path, checkpoint: Checkpoint) -> None:
    model = checkpoint(EMBEDDER)
    out = tmp_path / "out"

    def refused(source: Path, error: type[Exception], words: str, **changes: object) -> None:
        with pytest.raises(error, match=words):
            jobs.run(source, out, jobs.embedding(model, **changes))
        assert not out.exists()

    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("x")
    refused(tmp_path / "nowhere", DataError, "nothing is there")
    refused(tmp_path / "empty", DataError, "it has 1 others")
    source = jobs.write_parquet(tmp_path / "in", jobs.rows(10))
    refused(source, DataError, "no column 'body'; it has id, text", text_field="body")
    refused(source, DataError, "'number' holds int64, not texts", text_field="number")
    refused(source, ConfigError, "has no column 'nope'", columns=("nope",))
    pq.write_table(pa.table({"text": ["a"], "embedding": [1]}), tmp_path / "taken.parquet")
    refused(tmp_path / "taken.parquet", ConfigError, "column 'embedding' already")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and nothing more PAR1")
    refused(tmp_path / "broken.parquet", DataError, "broken.parquet cannot be read")
    pq.write_table(pa.table({"text": ["a"], "number": ["x"]}), source / "c.parquet")
    refused(source, DataError, "c.parquet has columns of other types")
    with pytest.raises(ConfigError, match="lie in each other"):
        jobs.run(source, source / "out", jobs.embedding(model))


def test_a_file_that_breaks_later_leaves_the_others(tmp_path: Path, checkpoint: Checkpoint) -> None:
    source = jobs.write_parquet(tmp_path / "in", jobs.rows(40))
    settings = jobs.embedding(checkpoint(EMBEDDER))
    whole = (source / "a.parquet").read_bytes()
    broken = bytearray(whole)
    broken[len(whole) // 4 : len(whole) // 2] = bytes(len(whole) // 2 - len(whole) // 4)
    prepared = prepare(str(source), str(tmp_path / "out"), settings, BulkSettings())
    times = (source / "a.parquet").stat()
    (source / "a.parquet").write_bytes(broken)
    os.utime(source / "a.parquet", ns=(times.st_atime_ns, times.st_mtime_ns))
    outcome = run_job(prepared)
    assert outcome.failures
    assert not outcome.summary
    assert all("a.parquet cannot be read" in reason for reason in outcome.failures.values())
    (source / "a.parquet").write_bytes(whole)
    os.utime(source / "a.parquet", ns=(times.st_atime_ns, times.st_mtime_ns))
    outcome = jobs.run(source, tmp_path / "out", settings)
    assert outcome.num_found
    assert jobs.read(tmp_path / "out").column("number").to_pylist() == list(range(40))


def test_a_folder_belongs_to_one_job(tmp_path: Path, checkpoint: Checkpoint) -> None:
    source = jobs.write_parquet(tmp_path / "in", jobs.rows(20))
    model, out = checkpoint(EMBEDDER), tmp_path / "out"
    jobs.run(source, out, jobs.embedding(model))
    before = jobs.content(out)
    for changes, words in (
        ({"partition_rows": 9}, "its partition_rows is 8, not 9"),
        ({"output_dtype": "int8"}, 'its output_dtype is "float32", not "int8"'),
        ({"prompt": "x"}, "its prompt is null"),
        ({"columns": ("id",)}, "its columns is null"),
    ):
        with pytest.raises(JobMismatchError, match=words):
            jobs.run(source, out, jobs.embedding(model, **changes))
    with pytest.raises(JobMismatchError, match="its model is"):
        jobs.run(source, out, jobs.embedding(checkpoint("multilingual-e5-large")))
    pq.write_table(pa.Table.from_pylist(jobs.rows(3)), source / "new.parquet")
    with pytest.raises(JobMismatchError, match=r"new\.parquet is new"):
        jobs.run(source, out, jobs.embedding(model))
    (source / "new.parquet").unlink()
    os.utime(source / "a.parquet")
    with pytest.raises(JobMismatchError, match=r"a\.parquet has changed since"):
        jobs.run(source, out, jobs.embedding(model))
    assert jobs.content(out) == before
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.tex").write_text("x")
    with pytest.raises(JobMismatchError, match=r"files of something else, such as thesis\.tex"):
        jobs.run(source, tmp_path / "foreign", jobs.embedding(model))


def test_what_is_damaged_is_done_again(tmp_path: Path, checkpoint: Checkpoint) -> None:
    source = jobs.write_parquet(tmp_path / "in", jobs.rows(40))
    settings, out = jobs.embedding(checkpoint(EMBEDDER)), tmp_path / "out"
    whole = jobs.run(source, out, settings)
    before = jobs.content(out)
    names = list(before)
    changed = bytearray(before[names[0]])
    changed[len(changed) // 2] ^= 1
    (out / names[0]).write_bytes(changed)
    (out / names[1]).write_bytes(before[names[1]][:-100])
    (out / names[2]).unlink()
    (out / "_done" / "00003.json").write_text("{")
    again = jobs.run(source, out, settings)
    assert again.num_found == len(names) - 4
    assert jobs.content(out) == before
    assert again.summary["rows"] == whole.summary["rows"] == 40
    assert jobs.run(source, out, settings).num_found == len(names)


def test_a_killed_job_goes_on(tmp_path: Path, checkpoint: Checkpoint) -> None:
    kill_many(tmp_path, checkpoint, kills=3)


@pytest.mark.slow
def test_a_job_goes_on_after_thirty_kills(tmp_path: Path, checkpoint: Checkpoint) -> None:
    kill_many(tmp_path, checkpoint, kills=30)


def kill_many(tmp_path: Path, checkpoint: Checkpoint, *, kills: int) -> None:
    count = 150 * kills
    source = jobs.write_parquet(tmp_path / "in", jobs.rows(count))
    model, out = checkpoint(EMBEDDER), tmp_path / "out"
    call = ("embed", source, "-o", out, "--model", model, "--partition-rows", 8, "--quiet")
    assert jobs.killed_until_done(call, out, kills, seed=kills) == kills
    jobs.run(source, tmp_path / "at-once", jobs.embedding(model))
    assert jobs.read(out).column("number").to_pylist() == list(range(count))
    assert jobs.content(out) == jobs.content(tmp_path / "at-once")
    left = [path.name for path in out.rglob("*") if ".part" in path.suffix]
    assert not left


def test_a_full_disk(tmp_path: Path, checkpoint: Checkpoint) -> None:
    source = jobs.write_parquet(tmp_path / "in", jobs.rows(20))
    model, out = checkpoint(EMBEDDER), tmp_path / "out"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, hard))
    try:
        with pytest.raises(StorageError, match=r"no room is left.*run the same command again"):
            jobs.run(source, out, jobs.embedding(model))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    jobs.run(source, out, jobs.embedding(model))
    assert jobs.read(out).column("number").to_pylist() == list(range(20))


def test_an_estimate_writes_nothing(tmp_path: Path, checkpoint: Checkpoint) -> None:
    source = jobs.write_lines(tmp_path / "in.jsonl", jobs.rows(200))
    settings = jobs.embedding(checkpoint(EMBEDDER), partition_rows=16)
    prepared = prepare(str(source), str(tmp_path / "out"), settings, BulkSettings())
    told = estimate(prepared, prepared.job.splits, workers=2, price_per_hour=0.1)
    assert told.rows == pytest.approx(200, rel=0.4)
    assert told.price == pytest.approx(told.seconds * 2 / 3600 * 0.1)
    assert "rows in" in told.text()
    assert not (tmp_path / "out").exists()


def test_two_jobs_do_not_share_a_folder(tmp_path: Path, checkpoint: Checkpoint) -> None:
    source = jobs.write_parquet(tmp_path / "in", jobs.rows(10))
    prepared = prepare(
        str(source), str(tmp_path / "out"), jobs.embedding(checkpoint(EMBEDDER)), BulkSettings()
    )
    with prepared.output.held(), pytest.raises(ConfigError, match="another process"):
        jobs.run(source, tmp_path / "out", jobs.embedding(checkpoint(EMBEDDER)))


def test_the_command_says_what_it_does(tmp_path: Path, checkpoint: Checkpoint) -> None:
    given = jobs.rows(30)
    given[3]["text"] = None
    source = jobs.write_lines(tmp_path / "in.jsonl", given)
    out = tmp_path / "out"
    call = ("embed", source, "-o", out, "--model", checkpoint(EMBEDDER), "--partition-rows", 4)
    told = jobs.finish(jobs.driver(*call))
    assert "29 rows written" in told
    assert "1 rows were refused" in told
    assert "partitions were there already" in jobs.finish(jobs.driver(*call))
    other = jobs.driver(*call, "--dimensions", "8")
    _, told = other.communicate(timeout=60)
    assert other.returncode == 1
    assert "holds another job: its dimensions is null, not 8" in told
    assert "Traceback" not in told
