"""What is Weaviate's own: its properties, its versions, its copies of vectors."""

from typing import Any

import numpy as np
import pytest

pytest.importorskip("weaviate")

from weaviate.classes.query import Filter

from polyrank.errors import CapabilityError, ConfigError, InputError, StoreError
from polyrank.stores import Entry, open_store
from tests.stores import weaviate_wire

QUERY = np.array([1, 0, 0], np.float32)


@pytest.fixture
def url() -> str:
    return f"weaviate://{weaviate_wire.serve()}"


def test_metadata_keep_their_names_and_types(url: str) -> None:
    facts = {"Lang": "de", "lang": "fr", "page": 3, "share": 2.0, "is_new": True, "name": "x"}
    with open_store(url, dimensions=3) as store:
        store.add([Entry("a", "text", QUERY, facts), Entry("b", "", QUERY, {"share": 2})])
        found = {hit.id: dict(hit.metadata) for hit in store.query(QUERY, 5)}
        assert found == {"a": facts, "b": {"share": 2}}
        assert {key: type(value) for key, value in found["a"].items()} == {
            key: type(value) for key, value in facts.items()
        }
        for filter, ids in (
            ({"Lang": "de"}, ["a"]),
            ({"Lang": "fr"}, []),
            ({"share": 2}, ["a", "b"]),
            ({"is_new": 1}, []),
            ({"page": "3"}, []),
            (Filter.by_property("_of_Lang").equal("de"), ["a"]),
        ):
            assert sorted(hit.id for hit in store.query(QUERY, 5, filter=filter)) == ids
        with pytest.raises(InputError, match=r"'page' must be of one type.*int there, and str"):
            store.add([Entry("c", "", QUERY, {"page": "three"})])
        with pytest.raises(InputError, match="'new' must be of one type"):
            store.add([Entry("c", "", QUERY, {"new": 1}), Entry("d", "", QUERY, {"new": 1.5})])
        assert store.count() == 2


def test_properties_of_another_process(url: str) -> None:
    with open_store(url, dimensions=3) as one, open_store(url, dimensions=3) as other:
        one.add([Entry("a", "", QUERY, {"page": 1})])
        assert [hit.id for hit in other.query(QUERY, 5, filter={"page": 1})] == ["a"]
        other.add([Entry("b", "", QUERY, {"page": 1})])
        assert one.count() == 2


@pytest.mark.parametrize(
    ("dtype", "copies"), [("float32", "NoneType"), ("int8", "_RQConfig"), ("binary", "_BQConfig")]
)
def test_the_copies_that_are_searched(url: str, dtype: str, copies: str) -> None:
    with open_store(url, dimensions=3, row_dimensions=2, dtype=dtype) as store:  # type: ignore[arg-type]
        held = store._client.collections.get("polyrank").config.get().vector_config
    index = held["vector"].vector_index_config
    assert type(index.quantizer).__name__ == copies
    assert index.distance_metric.value == "cosine"
    assert held["rows"].vector_index_config.multi_vector.aggregation == "maxSim"
    assert held["rows"].vector_index_config.quantizer is None


def test_an_older_server_keeps_no_rows(url: str) -> None:
    older = f"weaviate://{weaviate_wire.serve('1.28.4')}"
    with pytest.raises(CapabilityError, match=r"Weaviate 1\.28\.4, which keeps no rows.*1\.29"):
        open_store(older, dimensions=3, row_dimensions=2)


def test_an_object_that_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_store(url, dimensions=3) as store:
        store.add([Entry("a", "", QUERY)])
        put = weaviate_wire.Held.put

        def refusing(held: weaviate_wire.Held, given: Any) -> str | None:
            text = given.properties.non_ref_properties["text"]
            return "no tokens" if text == "bad" else put(held, given)

        monkeypatch.setattr(weaviate_wire.Held, "put", refusing)
        with pytest.raises(StoreError, match=r"1 of 2 entries: no tokens.*Add the entries again"):
            store.add([Entry("b", "", QUERY), Entry("c", "bad", QUERY)])
        with pytest.raises(StoreError, match="no tokens"):
            store.add([Entry("c", "bad", QUERY)])


def test_a_collection_of_someone_else(url: str) -> None:
    with open_store(url, dimensions=3) as store:
        store._client.collections.create("Other", description="mine")
        with pytest.raises(StoreError, match=r"other .*is none of polyrank's"):
            open_store(url, dimensions=3, collection="other")


def test_urls() -> None:
    with pytest.raises(ConfigError, match="needs the key of your cluster"):
        open_store("weaviate://mine.weaviate.cloud", dimensions=3)
    with pytest.raises(ConfigError, match="grpc must be a port"):
        open_store("weaviate://localhost:8080?grpc=x", dimensions=3)
