"""Token rows of sequences that come again: what is kept, for how long, and that no bit changes."""

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyrank import Classifier, Embedder, Reranker
from polyrank.cli.memory import free_bytes, row_cache_bytes
from polyrank.config import EngineConfig
from polyrank.encoder.base import Capabilities
from polyrank.engine.engine import Engine, Usage
from polyrank.engine.row_cache import RowCache
from polyrank.errors import ConfigError
from polyrank.inference import pair_runs
from polyrank.types import Float32Array, PackedBatch
from tests.checkpoints import late_interaction
from tests.texts import AWKWARD, SENTENCES
from tests.unit.cli.test_evaluate import call, report_of
from tests.unit.evaluation.test_run import SAMPLE

WIDTH = 4
TEXTS = list(SENTENCES.values())
QUERIES = ["How long do cats live?", "猫", "", AWKWARD["emoji"]]


class Rows:
    """An encoder whose rows say which token of which sequence they are of."""

    capabilities = Capabilities("rows", False, "float32", "cpu", 0.0)

    def __init__(self) -> None:
        self.num_sequences = 0

    def run(self, batch: PackedBatch, pooling: tuple[str, ...]) -> Float32Array:
        self.num_sequences += len(batch)
        types = 0 if batch.token_type_ids is None else batch.token_type_ids
        rows = np.repeat(batch.input_ids + 1000 * types, WIDTH).reshape(-1, WIDTH)
        if pooling:
            return np.add.reduceat(rows, batch.cu_seqlens[:-1]).astype(np.float32)
        return rows.astype(np.float32)

    def close(self) -> None:
        pass


def batch_of(*sequences: list[int], types: list[int] | None = None) -> PackedBatch:
    ends = np.cumsum([0, *map(len, sequences)]).astype(np.int32)
    ids = np.concatenate([np.array(each, np.int32) for each in sequences])
    return PackedBatch(ids, ends, None if types is None else np.array(types, np.int32))


def engine_of(max_bytes: int = 1_000_000, max_batch_tokens: int = 4) -> Engine:
    return Engine(Rows(), max_batch_tokens, RowCache(max_bytes))


def cache_of(engine: Engine) -> RowCache:
    assert engine.row_cache is not None
    return engine.row_cache


def size_of_one(length: int) -> int:
    cache = RowCache(1_000_000)
    cache.keep(batch_of([1] * length), np.zeros((length, WIDTH), np.float32))
    return cache.num_bytes


def test_what_was_run_is_not_run_again():
    engine = engine_of()
    first, again = batch_of([1, 2], [3], [4, 5, 6]), batch_of([4, 5, 6], [7], [1, 2])
    engine.run(first, (), WIDTH)
    rows = engine.run(again, (), WIDTH)
    assert rows[:, 0].tolist() == [4, 5, 6, 7, 1, 2]
    assert (cache_of(engine).hits, cache_of(engine).misses, len(cache_of(engine))) == (2, 4, 4)
    assert engine.usage.num_sequences == 4
    assert engine.usage.num_tokens == 7


@given(st.lists(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=3), min_size=1)))
def test_rows_are_those_of_an_engine_that_keeps_none(batches: list[list[list[int]]]) -> None:
    for max_bytes in (1, size_of_one(2), 5 * size_of_one(2), 1_000_000):
        kept, plain = engine_of(max_bytes), Engine(Rows(), 4)
        for sequences in batches:
            batch = batch_of(*sequences)
            wanted = plain.run(batch, (), WIDTH)
            np.testing.assert_array_equal(kept.run(batch, (), WIDTH), wanted)
            assert cache_of(kept).num_bytes <= max_bytes


def test_the_oldest_go_first():
    cache = RowCache(2 * size_of_one(1))
    for i in (1, 2):
        cache.keep(batch_of([i]), np.full((1, WIDTH), i, np.float32))
    assert cache.find(batch_of([1]))[0] is not None  # and is the newest now
    cache.keep(batch_of([3]), np.zeros((1, WIDTH), np.float32))
    found = cache.find(batch_of([1], [2], [3]))
    assert [rows is not None for rows in found] == [True, False, True]
    assert cache.num_bytes == 2 * size_of_one(1)
    assert (cache.hits, cache.misses) == (3, 1)


def test_a_sequence_larger_than_the_bound_leaves_the_others():
    engine = engine_of(size_of_one(2))
    engine.run(batch_of([1, 2]), (), WIDTH)
    engine.run(batch_of([1, 2, 3, 4, 5, 6, 7, 8]), (), WIDTH)
    assert cache_of(engine).find(batch_of([1, 2]))[0] is not None


def test_segments_tell_sequences_apart():
    engine = engine_of()
    for types, wanted in (([0, 1], [1, 1002]), ([1, 1], [1001, 1002]), (None, [1, 2])):
        rows = engine.run(batch_of([1, 2], types=types), (), WIDTH)
        assert rows[:, 0].tolist() == wanted
    # the bytes of two ids and their segments are those of four ids
    assert engine.run(batch_of([1, 2, 1, 1]), (), WIDTH)[:, 0].tolist() == [1, 2, 1, 1]
    assert cache_of(engine).hits == 0
    engine.run(batch_of([1, 2], types=[0, 0]), (), WIDTH)
    assert cache_of(engine).hits == 1


def test_kept_rows_are_copies_that_nobody_can_change():
    engine = engine_of(max_batch_tokens=100)
    batch = batch_of([1, 2], [3])
    first = engine.run(batch, (), WIDTH)
    first[:] = 0
    kept = cache_of(engine).find(batch)
    assert [rows[:, 0].tolist() for rows in kept if rows is not None] == [[1, 2], [3]]
    for rows in kept:
        assert rows is not None
        assert rows.base is None
        assert rows.dtype == np.float32
        with pytest.raises(ValueError, match="read-only"):
            rows[0] = 1


def test_pooled_rows_are_not_kept():
    engine = engine_of()
    for _ in range(2):
        assert engine.run(batch_of([1, 2]), ("mean",), WIDTH)[0, 0] == 3
    assert engine.usage == Usage(2, 4, 2)
    assert len(cache_of(engine)) == cache_of(engine).misses == 0


def test_progress_counts_what_was_kept():
    engine = engine_of()
    engine.run(batch_of([1, 2], [3]), (), WIDTH)
    for sequences, wanted in (
        ([[1, 2], [3]], [(3, 3)]),
        ([[1, 2], [4, 4], [5, 5, 5]], [(2, 7), (5, 7), (7, 7)]),
        ([[6], [6, 6]], [(3, 3)]),
    ):
        calls: list[tuple[int, int]] = []
        engine.run(batch_of(*sequences), (), WIDTH, lambda *done, to=calls: to.append(done))
        assert calls == wanted


def test_threads_share_the_rows():
    max_bytes = 20 * size_of_one(3)
    engine, failures = engine_of(max_bytes), []
    sequences = [[i, i + 1, i + 2] for i in range(40)]

    def work(seed: int) -> None:
        random = np.random.default_rng(seed)
        for _ in range(60):
            chosen = [sequences[i] for i in random.integers(0, 40, 8)]
            rows = engine.run(batch_of(*chosen), (), WIDTH)
            if rows[:, 0].tolist() != [value for each in chosen for value in each]:
                failures.append(chosen)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    cache = cache_of(engine)
    assert not failures
    assert cache.hits + cache.misses == 6 * 60 * 8
    assert cache.num_bytes <= max_bytes
    found = cache.find(batch_of(*sequences))
    assert cache.num_bytes == size_of_one(3) * sum(rows is not None for rows in found)


def test_a_size_below_0_is_refused():
    with pytest.raises(ConfigError, match="row_cache_bytes must be 0 or more, not -1"):
        EngineConfig(row_cache_bytes=-1)


@pytest.fixture(scope="module")
def folder(checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    name = "multilingual-e5-small"
    parent = tmp_path_factory.mktemp("rows")
    return late_interaction(Path(shutil.copytree(checkpoint(name), parent / name)))


@pytest.mark.parametrize("max_bytes", [1, 20_000, 10_000_000])
def test_scores_have_the_same_bits(
    folder: Path, max_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pair_runs, "PART_TOKENS", 100)
    pairs = [(query, text) for query in QUERIES for text in [*TEXTS, "", *AWKWARD.values()]]
    plain = Reranker(folder, encoder="native").score(pairs, logits=True)
    reranker = Reranker(folder, encoder="native", row_cache_bytes=max_bytes)
    for seed in range(4):
        order = np.random.default_rng(seed).permutation(len(pairs))
        scores = reranker.score([pairs[i] for i in order], logits=True)
        assert scores.tobytes() == plain[order].tobytes()


def test_a_second_query_reads_no_document_again(folder: Path) -> None:
    reranker = Reranker(folder, row_cache_bytes=10_000_000)
    reranker.rank("cats", TEXTS)
    used = reranker.usage
    calls: list[tuple[int, int]] = []
    ranked = reranker.rank("dogs", TEXTS, progress=lambda *done: calls.append(done))
    assert reranker.usage.num_sequences == used.num_sequences + 1
    assert calls[-1][0] == calls[-1][1]
    assert len(calls) == 2
    assert ranked == Reranker(folder).rank("dogs", TEXTS)


def test_a_classifier_reads_what_a_reranker_has_kept(folder: Path) -> None:
    reranker = Reranker(folder, row_cache_bytes=9_000_000)
    classifier = Classifier(folder, row_cache_bytes=9_000_000)
    pairs = [("cats", text) for text in TEXTS]
    reranker.score(pairs)
    used = reranker.usage
    assert classifier.logits(pairs).tobytes() == Classifier(folder).logits(pairs).tobytes()
    assert classifier.usage == used


def test_models_with_and_without_kept_rows_have_one_encoder(folder: Path) -> None:
    plain, kept = Embedder(folder), Reranker(folder, row_cache_bytes=8_000_000)
    assert kept._engine.encoder is plain._engine.encoder
    assert plain._engine.row_cache is None
    before = plain.usage
    kept.score([("cats", "dogs")])
    assert plain.usage == before


def test_evaluation_keeps_rows_unless_told_not_to(folder: Path, tmp_path: Path) -> None:
    arguments = [SAMPLE, "--retriever", "bm25", "--reranker", folder, "--top-k", 4]
    reports = {
        size: report_of(call(*arguments, *([] if size is None else ["--row-cache-mb", size])))
        for size in (None, 0, 50)
    }
    sizes = {size: report["settings"]["row_cache_bytes"] for size, report in reports.items()}
    assert sizes == {None: row_cache_bytes(None), 0: 0, 50: 50_000_000}
    figures = [json.dumps(report["groups"], sort_keys=True) for report in reports.values()]
    assert len(set(figures)) == 1
    assert call(*arguments, "--row-cache-mb", -1).exit_code == 2


def write(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def test_free_memory_is_what_the_kernel_and_the_control_groups_leave(tmp_path: Path) -> None:
    assert free_bytes(tmp_path) is None
    assert row_cache_bytes(None, tmp_path) == 1_024_000_000
    write(tmp_path, "proc/meminfo", "MemTotal: 90000000 kB\nMemAvailable:   40000000 kB\n")
    assert free_bytes(tmp_path) == 40_960_000_000
    assert row_cache_bytes(None, tmp_path) == 4_096_000_000
    write(tmp_path, "proc/self/cgroup", "4:memory:/box\n0::/outer/inner\n")
    write(tmp_path, "sys/fs/cgroup/memory.max", "max\n")
    write(tmp_path, "sys/fs/cgroup/outer/memory.max", "8000000000\n")
    assert row_cache_bytes(None, tmp_path) == 2_000_000_000
    write(tmp_path, "sys/fs/cgroup/memory/box/memory.limit_in_bytes", "400000000\n")
    assert row_cache_bytes(None, tmp_path) == 100_000_000
    assert row_cache_bytes(7, tmp_path) == 7_000_000
