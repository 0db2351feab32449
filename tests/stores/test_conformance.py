"""What every store must do, run on each whose client is installed."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from polyrank.errors import CapabilityError, ConfigError, InputError, StoreError, StoreMismatchError
from polyrank.stores import Entry, Store
from tests.stores.places import (
    DIMENSIONS,
    DTYPES,
    ROW_DIMENSIONS,
    TOLERANCES,
    Place,
    entries,
    exact,
)

QUERY = np.random.default_rng(7).normal(size=DIMENSIONS).astype(np.float32)


def ids(store: Store, **options: object) -> list[str]:
    return [found.id for found in store.query(QUERY, 20, **options)]


def test_finds_what_exact_search_finds(place: Place, dtype: str, tmp_path: Path) -> None:
    given = entries(300)
    with place.open(tmp_path, dtype=dtype) as store:
        assert store.query(QUERY, 3) == []
        seen = []
        assert store.add(given, total=300, progress=lambda *at: seen.append(at)) == 300
        assert seen[-1] == (300, 300)
        assert store.count() == 300
        found = store.query(QUERY, 20)
    truth = dict(exact(given, QUERY, 300))
    by_id = {entry.id: entry for entry in given}
    for hit in found:
        assert hit.score == pytest.approx(truth[hit.id], abs=TOLERANCES[dtype])
        assert (hit.text, hit.metadata) == (by_id[hit.id].text, by_id[hit.id].metadata)
        assert hit.rows is None
    scores = [hit.score for hit in found]
    assert scores == sorted(scores, reverse=True)
    if dtype in ("float32", "float16"):
        assert [hit.id for hit in found] == [name for name, _ in exact(given, QUERY, 20)]
    else:
        nearest = {name for name, _ in exact(given, QUERY, 10)}
        assert len(nearest & {hit.id for hit in found}) >= 9


def test_upsert_replaces_the_whole_entry(place: Place, dtype: str, tmp_path: Path) -> None:
    given = entries(30)
    with place.open(tmp_path, dtype=dtype) as store:
        store.add(given)
        name = given[4].id
        store.add([Entry(name, "old", -QUERY), Entry(name, "new", QUERY, {"lang": "it"})])
        assert store.count() == 30
        best = store.query(QUERY, 1)[0]
        assert (best.id, best.text, best.metadata) == (name, "new", {"lang": "it"})
        assert best.score == pytest.approx(1, abs=TOLERANCES[dtype])
        assert ids(store, filter={"lang": "it"}) == [name]
        assert name not in ids(store, filter={"page": 4})


def test_deletes(place: Place, dtype: str, tmp_path: Path) -> None:
    given = entries(50)
    with place.open(tmp_path, dtype=dtype) as store:
        store.add(given)
        gone = ids(store)[:5]
        store.delete([*gone, "never there"])
        store.delete([])
        assert store.count() == 45
        assert not set(gone) & set(ids(store))
        store.delete(entry.id for entry in given)
        assert (store.count(), ids(store)) == (0, [])
        store.add(given[:3])
        assert len(ids(store)) == 3


def test_filters(place: Place, dtype: str, tmp_path: Path) -> None:
    given = entries(60)
    with place.open(tmp_path, dtype=dtype) as store:
        store.add(given)
        for filter, fits in (
            ({"lang": "日本"}, lambda m: m["lang"] == "日本"),
            ({"lang": "de", "is_new": True}, lambda m: m["lang"] == "de" and m["is_new"]),
            ({"page": 7}, lambda m: m["page"] == 7),
            ({"share": 0.5}, lambda m: m["share"] == 0.5),
            ({"lang": "x' OR '1'='1"}, lambda m: False),
            ({"nowhere": 1}, lambda m: False),
            ({}, lambda m: True),
        ):
            fitting = [entry for entry in given if fits(entry.metadata)]
            expected = [name for name, _ in exact(fitting, QUERY, 20)] if fitting else []
            assert set(ids(store, filter=filter)) == set(expected), filter
        if place.native is not None:
            found = store.query(QUERY, 20, filter=place.native())
            assert {hit.metadata["page"] for hit in found} == {0, 3}
        with pytest.raises(InputError, match="cannot be a key"):
            store.query(QUERY, 1, filter={"a b": 1})


def test_stays_after_close(place: Place, dtype: str, tmp_path: Path) -> None:
    given = entries(40)
    with place.open(tmp_path, dtype=dtype) as store:
        store.add(given)
        store.delete([given[0].id])
        before = store.query(QUERY, 20)
    store.close()
    with place.open(tmp_path, dtype=dtype, create=False) as store:
        assert store.count() == 39
        after = store.query(QUERY, 20)
        assert [replace(hit, score=0) for hit in after] == [replace(hit, score=0) for hit in before]
        scores = [[hit.score for hit in hits] for hits in (after, before)]
        np.testing.assert_allclose(*scores, atol=1e-6)
        store.add(given[:1])
        assert store.count() == 40


def test_rows_come_back(place: Place, dtype: str, tmp_path: Path) -> None:
    if "rows" not in place.capabilities:
        with pytest.raises(CapabilityError, match=r"keeps no rows.*Leave them out"):
            place.open(tmp_path, dtype=dtype, row_dimensions=ROW_DIMENSIONS)
        with place.open(tmp_path, dtype=dtype) as store, pytest.raises(CapabilityError):
            store.get_rows(["a"])
        return
    given = entries(30, rows=True)
    with place.open(tmp_path, dtype=dtype, row_dimensions=ROW_DIMENSIONS) as store:
        store.add(given)
        found = store.query(QUERY, 30, return_rows=True)
        assert all(hit.rows is None for hit in store.query(QUERY, 30))
        fetched = store.get_rows([*(entry.id for entry in given[3:]), "never there"])
        assert store.get_rows([]) == {}
        with pytest.raises(InputError, match="rows"):
            store.add([Entry("wide", "", QUERY, rows=np.zeros((2, 9), np.float32))])
    by_id = {entry.id: entry for entry in given}
    for hit in found:
        rows = by_id[hit.id].rows
        if rows is None or not len(rows):
            assert hit.rows is None or not len(hit.rows)
        else:
            np.testing.assert_allclose(hit.rows, rows, atol=0 if dtype == "float32" else 2e-3)
    kept = {hit.id: hit.rows for hit in found if hit.rows is not None and len(hit.rows)}
    assert fetched.keys() == kept.keys() - {entry.id for entry in given[:3]}
    for name, own in fetched.items():
        np.testing.assert_array_equal(own, kept[name])


def test_lists_what_it_holds(place: Place, tmp_path: Path) -> None:
    given = entries(min(2_100, place.count))
    with place.open(tmp_path) as store:
        if "scan" not in place.capabilities:
            with pytest.raises(CapabilityError, match="list"):
                list(store.scan())
            return
        store.add(given)
        assert dict(store.scan()) == {entry.id: dict(entry.metadata) for entry in given}


def test_finds_words(place: Place, tmp_path: Path) -> None:
    with place.open(tmp_path) as store:
        if "text" not in place.capabilities:
            with pytest.raises(CapabilityError, match="words"):
                store.query_text("a", 1)
            return
        store.add(entries(20))
        store.add(
            [
                Entry("cat", "Katzen leben lange.", QUERY, {"lang": "de"}),
                Entry("dog", "Hunde bellen", QUERY, {"lang": "de"}),
            ]
        )
        assert [hit.id for hit in store.query_text("Wie lange leben KATZEN?", 5)] == ["cat"]
        assert store.query_text("lange", 5, filter={"lang": "fr"}) == []
        assert store.query_text("zzz", 5) == store.query_text("  ", 5) == []
        assert store.query_text("'\"*() AND -", 5) == []
        store.add([Entry("cow", "Eine Kuh", QUERY)])
        assert [hit.id for hit in store.query_text("Kuh", 5)] == ["cow"]
        store.delete(["cow"])
        assert store.query_text("Kuh", 5) == []


def test_refuses_what_does_not_fit(place: Place, tmp_path: Path) -> None:
    with place.open(tmp_path) as store:
        for entry, message in (
            (Entry("a", "", np.zeros(DIMENSIONS + 1, np.float32)), "25"),
            (Entry("a", "", np.full(DIMENSIONS, np.nan, np.float32)), "finite"),
            (Entry("", "", QUERY), "id"),
            (Entry("a", "", QUERY, {"text": "x"}), "text"),
            (Entry("a", "", QUERY, {"no space": "x"}), "no space"),
            (Entry("a", "", QUERY, {"list": [1]}), "list"),  # type: ignore[dict-item]
        ):
            with pytest.raises(InputError, match=message):
                store.add([Entry("fits", "", QUERY), entry])
        assert store.count() == 0
        with pytest.raises(InputError, match="25"):
            store.query(np.zeros(DIMENSIONS + 1, np.float32), 1)
        with pytest.raises(ConfigError, match="top_k"):
            store.query(QUERY, 0)


def test_refuses_a_store_of_other_vectors(place: Place, tmp_path: Path) -> None:
    with place.open(tmp_path) as store:
        store.add(entries(3))
    with pytest.raises(StoreMismatchError, match="24"):
        place.open(tmp_path, dimensions=DIMENSIONS + 8)
    for dtype in set(place.dtypes) - {"float32"}:
        with pytest.raises(StoreMismatchError, match=dtype):
            place.open(tmp_path, dtype=dtype)
    for dtype in set(DTYPES) - set(place.dtypes):
        with pytest.raises(CapabilityError, match="float32"):
            place.open(tmp_path, dtype=dtype)
    with pytest.raises(StoreError, match="elsewhere"):
        place.open(tmp_path, collection="elsewhere", create=False)
    with place.open(tmp_path) as store:
        assert store.count() == 3


def test_takes_ten_thousand(place: Place, tmp_path: Path) -> None:
    given = entries(place.count)
    with place.open(tmp_path) as store:
        assert store.add(iter(given)) == place.count
        if "index" in place.capabilities:
            store.optimize()
        assert store.count() == place.count
        found = {hit.id for hit in store.query(QUERY, 100)}
        assert len(found & {name for name, _ in exact(given, QUERY, 100)}) >= 90
        # an index may find fewer, never more
        assert place.count // 3 <= len(store.query(QUERY, place.count // 2)) <= place.count // 2


KILLED = """
import sys
from pathlib import Path
from tests.stores.places import PLACES, entries
place = next(place for place in PLACES if place.scheme == sys.argv[1])
store = place.open(Path(sys.argv[2]))
print("open", flush=True)
for start in range(0, 60_000, 2_000):
    store.add(entries(2_000, seed=start))
    print(start, flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGKILL")
def test_is_whole_after_a_kill(place: Place, tmp_path: Path) -> None:
    if not place.is_embedded:
        pytest.skip("its server writes, or it writes entry by entry")
    given = entries(2_000)
    root = Path(__file__).resolve().parents[2]
    for wait_s in (0.02, 0.3, 0.9):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, place.scheme, str(tmp_path)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(root)},
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        time.sleep(wait_s)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        with place.open(tmp_path) as store:
            # batches are whole or not there
            assert store.count() in (0, 1_000, 2_000)
            if "scan" in place.capabilities:
                assert len(list(store.scan())) == store.count()
            store.add(given)
            assert store.count() == 2_000
            found = [hit.id for hit in store.query(QUERY, 20)]
        assert found == [name for name, _ in exact(given, QUERY, 20)]
