"""A store in a folder: texts go in with their vectors, a question finds them in any language."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

from polyrank import Embedder, Reranker
from polyrank.stores import Entry, open_store

lines = Path(__file__).with_name("cats.jsonl").read_text(encoding="utf8").splitlines()
documents = [json.loads(line) for line in lines]
embedder, reranker, question = Embedder(), Reranker(), "How long do cats live?"
vectors = embedder.encode([row["text"] for row in documents], input_type="document")

with TemporaryDirectory() as folder:
    store = open_store(f"lancedb://{folder}/index", dimensions=embedder.dimensions)
    with store:
        store.add(
            Entry(str(i), row["text"], vectors[i], {"length": len(row["text"])})
            for i, row in enumerate(documents)
        )
        asked = embedder.encode(question, input_type="query")
        found = store.query(asked, 20, filter="length < 1000")
    for hit in reranker.rank(question, [hit.text for hit in found], top_n=3):
        print(f"{hit.score:.3f} {hit.document}")
