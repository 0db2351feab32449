"""LanceDB: a hybrid search, reranked."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import lancedb

from polyrank import Embedder
from polyrank.integrations.lancedb import PolyrankReranker

lines = Path(__file__).with_name("cats.jsonl").read_text(encoding="utf8").splitlines()
texts = [json.loads(line)["text"] for line in lines]
embedder, question = Embedder(), "How long do cats live?"
vectors = embedder.encode(texts, input_type="document")

with TemporaryDirectory() as folder:
    rows = [{"text": text, "vector": row} for text, row in zip(texts, vectors, strict=True)]
    table = lancedb.connect(folder).create_table("cats", rows)
    table.create_fts_index("text")
    search = table.search(query_type="hybrid")
    search = search.vector(embedder.encode([question], input_type="query")[0]).text(question)
    for row in search.rerank(PolyrankReranker()).limit(3).to_list():
        print(f"{row['_relevance_score']:.3f} {row['text']}")
