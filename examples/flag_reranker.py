"""Code written for FlagEmbedding: only the import has changed."""

import json
from pathlib import Path

from polyrank.compat import FlagReranker

lines = Path(__file__).with_name("cats.jsonl").read_text(encoding="utf8").splitlines()
texts = [json.loads(line)["text"] for line in lines]

reranker = FlagReranker(use_fp16=True)  # or "BAAI/bge-reranker-v2-m3" before use_fp16
scores = reranker.compute_score(
    [["How long do cats live?", text] for text in texts], normalize=True
)
for score, text in sorted(zip(scores, texts, strict=True), reverse=True)[:3]:
    print(f"{score:.3f} {text}")
