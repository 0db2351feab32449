"""Rows of late interaction kept in a store: reranking reads the question alone."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from polyrank import Embedder, Reranker
from polyrank.stores import Entry, open_store

lines = Path(__file__).with_name("cats.jsonl").read_text(encoding="utf8").splitlines()
texts = [json.loads(line)["text"] for line in lines]
embedder, reranker, question = Embedder(), Reranker(), "How long do cats live?"
vectors = embedder.encode(texts, input_type="document")
rows = reranker.token_vectors(texts, input_type="document")

with TemporaryDirectory() as folder:
    place, width = f"sqlite://{folder}/index.db", rows[0].shape[1]
    with open_store(place, dimensions=embedder.dimensions, row_dimensions=width) as store:
        entries = zip(texts, vectors, rows, strict=True)
        store.add(Entry(text[:40], text, vector, rows=own) for text, vector, own in entries)
        asked = embedder.encode(question, input_type="query")
        found = store.query(asked, 20, return_rows=True)
    scores = reranker.score_rows(question, [hit.rows for hit in found])
    for i in np.argsort(-scores)[:3]:
        print(f"{scores[i]:.3f} {found[i].text}")
