"""Rows of late interaction kept in a store: reranking without reading the documents again."""

import json
from pathlib import Path

import numpy as np
import pytest

from polyrank import Embedder, Reranker
from polyrank.stores import Entry
from tests.stores.places import Place

CATS = Path(__file__).resolve().parents[2] / "examples" / "cats.jsonl"
TEXTS = [json.loads(line)["text"] for line in CATS.read_text(encoding="utf8").splitlines()]
QUERY = "How long do cats live?"


def test_rerank_by_rows_of_the_store(place: Place, tmp_path: Path) -> None:
    if "rows" not in place.capabilities:
        pytest.skip(f"{place.scheme} keeps no rows")
    embedder, reranker = Embedder(), Reranker()
    vectors = embedder.encode(TEXTS, input_type="document")
    rows = reranker.token_vectors(TEXTS, input_type="document")
    width = rows[0].shape[1]
    with place.open(tmp_path, dimensions=embedder.dimensions, row_dimensions=width) as store:
        store.add(
            Entry(str(i), text, vectors[i], {"at": i}, rows[i]) for i, text in enumerate(TEXTS)
        )
        asked = embedder.encode([QUERY], input_type="query")[0]
        hits = store.query(asked, len(TEXTS), return_rows=True)
    assert len(hits) == len(TEXTS)
    scores = reranker.score_rows(QUERY, [hit.rows for hit in hits])
    np.testing.assert_array_equal(scores, reranker.score([(QUERY, hit.text) for hit in hits]))
