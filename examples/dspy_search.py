"""DSPy: a retriever that reranks what it finds."""

import json
from pathlib import Path

from polyrank.integrations.dspy import PolyrankReranker, PolyrankRetriever

lines = Path(__file__).with_name("cats.jsonl").read_text(encoding="utf8").splitlines()
texts = [json.loads(line)["text"] for line in lines]

search = PolyrankRetriever(texts, k=3, reranker=PolyrankReranker())
found = search(query="How long do cats live?")
for passage, score in zip(found.passages, found.scores, strict=True):
    print(f"{score:.3f} {passage}")
