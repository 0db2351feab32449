"""MTEB: evaluate vectors and the reranker on a task of local data."""

import json
from pathlib import Path

import mteb
from local_task import LocalRetrieval

from polyrank.integrations.mteb import PolyrankCrossEncoder, PolyrankEncoder

rows = [
    json.loads(line)
    for line in Path(__file__).with_name("cats.jsonl").read_text(encoding="utf8").splitlines()
]
texts = {row["id"]: row["text"] for row in rows}
queries = {"q": "How long do cats live?"}
qrels = {"q": {name: 1 for name in list(texts)[:12]}}
for model in (PolyrankEncoder(), PolyrankCrossEncoder()):
    task = LocalRetrieval(texts, queries, qrels)
    result = mteb.evaluate(model, task, cache=None, show_progress_bar=False)
    print(f"{type(model).__name__} nDCG@10 {result.task_results[0].get_score():.3f}")
