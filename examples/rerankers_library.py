"""Code written for the library rerankers: only the import has changed."""

import json
from pathlib import Path

from polyrank.compat import Reranker

lines = Path(__file__).with_name("cats.jsonl").read_text(encoding="utf8").splitlines()
texts = [json.loads(line)["text"] for line in lines]

ranker = Reranker()  # or "BAAI/bge-reranker-v2-m3", model_type="cross-encoder"
results = ranker.rank("How long do cats live?", docs=texts, doc_ids=list(range(len(texts))))
for result in results.top_k(3):
    print(f"{result.rank} {result.score:.3f} {result.text}")
