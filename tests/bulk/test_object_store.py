"""Jobs from and to an object store, a real server of the S3 protocol: moto."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

pytest.importorskip("s3fs")
pytest.importorskip("moto")

import fsspec

from polyrank.bulk.run import prepare, run_job
from polyrank.bulk.settings import BulkSettings
from polyrank.errors import DataError, StorageError
from tests.bulk import jobs
from tests.bulk.servers import Way, object_store

Checkpoint = Callable[[str], Path]
EMBEDDER = "multilingual-e5-small"


@pytest.fixture(scope="module")
def store() -> Iterator[Way]:
    with object_store() as (way, _):
        yield way


def put(folder: Path, url: str) -> None:
    fs = fsspec.filesystem("s3", use_listings_cache=False, skip_instance_cache=True)
    for path in folder.iterdir():
        fs.pipe_file(f"{url}/{path.name}", path.read_bytes())


def get(url: str, folder: Path) -> Path:
    fs = fsspec.filesystem("s3", use_listings_cache=False, skip_instance_cache=True)
    for path in fs.find(url):
        target = folder / path.partition(f"{url.removeprefix('s3://')}/")[2]
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(fs.cat_file(path))
    return folder


@pytest.mark.parametrize("kind", ["parquet", "datasets", "jsonl.gz"])
def test_the_output_is_that_of_a_disk(
    kind: str, store: Way, tmp_path: Path, checkpoint: Checkpoint
) -> None:
    source = jobs.WRITERS[kind](tmp_path, jobs.rows(40))
    folder = source if source.is_dir() else source.parent
    put(folder, f"s3://bucket/{kind}/in")
    settings = jobs.embedding(checkpoint(EMBEDDER))
    jobs.run(source, tmp_path / "out", settings)
    url = f"s3://bucket/{kind}/out"
    jobs.run(f"s3://bucket/{kind}/in", url, settings)
    assert jobs.content(get(url, tmp_path / "got")) == jobs.content(tmp_path / "out")
    assert jobs.run(f"s3://bucket/{kind}/in", url, settings).num_found > 1
    fsspec.filesystem("s3").pipe_file(f"{url}/part-00001.parquet", b"damaged")
    jobs.run(f"s3://bucket/{kind}/in", url, settings)
    assert jobs.content(get(url, tmp_path / "mended")) == jobs.content(tmp_path / "out")


def test_what_is_not_there(store: Way, tmp_path: Path, checkpoint: Checkpoint) -> None:
    settings = jobs.embedding(checkpoint(EMBEDDER))
    with pytest.raises(DataError, match="nothing is there"):
        jobs.run("s3://bucket/nowhere", tmp_path / "out", settings)
    source = jobs.write_parquet(tmp_path / "in", jobs.rows(4))
    with pytest.raises((DataError, StorageError), match="no-such-bucket"):
        jobs.run(source, "s3://no-such-bucket/out", settings, patience_s=1)


def test_a_store_that_is_away_for_ten_seconds(
    store: Way, tmp_path: Path, checkpoint: Checkpoint
) -> None:
    source = jobs.write_parquet(tmp_path / "in", jobs.rows(400))
    put(source, "s3://bucket/away/in")
    settings = jobs.embedding(checkpoint(EMBEDDER))
    prepared = prepare("s3://bucket/away/in", "s3://bucket/away/out", settings, BulkSettings())
    cut = threading.Event()

    def go_away() -> None:
        while not prepared.output.names("_done"):
            time.sleep(0.02)
        store.cut()
        cut.set()
        time.sleep(10)
        store.mend()

    thread = threading.Thread(target=go_away)
    thread.start()
    begun = time.monotonic()
    outcome = run_job(prepared)
    thread.join()
    assert cut.is_set()
    assert time.monotonic() - begun > 10
    assert outcome.summary["rows"] == 400
    table = jobs.read(get("s3://bucket/away/out", tmp_path / "got"))
    assert table.column("number").to_pylist() == list(range(400))
    assert len(outcome.records) == len(list((tmp_path / "got").glob("part-*.parquet")))


def test_a_store_that_stays_away_ends_the_job(
    store: Way, tmp_path: Path, checkpoint: Checkpoint
) -> None:
    source = jobs.write_parquet(tmp_path / "in", jobs.rows(16))
    settings = jobs.embedding(checkpoint(EMBEDDER))
    prepared = prepare(str(source), "s3://bucket/gone/out", settings, BulkSettings(patience_s=1.0))
    store.cut()
    try:
        with pytest.raises(StorageError, match="did not answer for 1 s"):
            run_job(prepared)
    finally:
        store.mend()
    assert run_job(prepared).summary["rows"] == 16
    assert pq.read_table(source).num_rows == 16
