"""txtai: an index by vectors, its results reranked."""

import json
from pathlib import Path

from txtai import Embeddings
from txtai.pipeline import Reranker

from polyrank.integrations.txtai import PolyrankSimilarity

lines = Path(__file__).with_name("cats.jsonl").read_text(encoding="utf8").splitlines()
texts = [json.loads(line)["text"] for line in lines]

method = "polyrank.integrations.txtai.PolyrankVectors"
embeddings = Embeddings({"method": method, "path": "polyrank-small", "content": True})
embeddings.index(texts)
for row in Reranker(embeddings, PolyrankSimilarity())("How long do cats live?", limit=3):
    print(f"{row['score']:.3f} {row['text']}")
