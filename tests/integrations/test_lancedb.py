import asyncio
from pathlib import Path

import pytest

lancedb = pytest.importorskip("lancedb")
from polyrank.integrations.lancedb import PolyrankReranker
from tests.integrations import cats

ROWS = [
    {"text": text, "vector": row}
    for text, row in zip(cats.TEXTS, cats.DOCUMENT_VECTORS, strict=True)
]


@pytest.fixture
def table(tmp_path: Path) -> "lancedb.table.Table":
    made = lancedb.connect(tmp_path).create_table("cats", ROWS)
    made.create_fts_index("text")
    return made


def ranked(texts: set[str]) -> list[str]:
    return [text for text in cats.BEST if text in texts]


@pytest.mark.parametrize("score", ["relevance", "all"])
def test_hybrid(score: str, table: "lancedb.table.Table") -> None:
    reranker = PolyrankReranker(cats.RERANKER, return_score=score)
    search = table.search(query_type="hybrid").vector(cats.QUERY_VECTOR).text(cats.QUESTION)
    rows = search.rerank(reranker).limit(6).to_list()
    assert [row["text"] for row in rows] == ranked({row["text"] for row in rows})
    assert rows[0]["text"] == cats.BEST[0]
    assert rows[0]["_relevance_score"] == pytest.approx(cats.HITS[0].score)
    assert ("_distance" in rows[0]) is (score == "all")


def test_vector_and_full_text(table: "lancedb.table.Table") -> None:
    reranker = PolyrankReranker()
    rows = table.search(cats.QUERY_VECTOR).rerank(reranker, query_string=cats.QUESTION)
    texts = [row["text"] for row in rows.limit(len(ROWS)).to_list()]
    assert texts == cats.BEST
    rows = table.search("cats", query_type="fts").rerank(reranker).limit(5).to_list()
    scores = [row["_relevance_score"] for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert table.search("zzz", query_type="fts").rerank(reranker).limit(5).to_list() == []


def test_async(tmp_path: Path) -> None:
    async def main() -> list[dict]:
        base = await lancedb.connect_async(tmp_path)
        made = await base.create_table("cats", ROWS)
        await made.create_index("text", config=lancedb.index.FTS())
        query = made.query().nearest_to(cats.QUERY_VECTOR).nearest_to_text(cats.QUESTION)
        return await query.rerank(PolyrankReranker()).limit(6).to_list()

    rows = asyncio.run(main())
    assert [row["text"] for row in rows] == ranked({row["text"] for row in rows})
