"""Code written for sentence-transformers: only the import has changed."""

import json
from pathlib import Path

from polyrank.compat import CrossEncoder, SentenceTransformer

lines = Path(__file__).with_name("cats.jsonl").read_text(encoding="utf8").splitlines()
texts = [json.loads(line)["text"] for line in lines]
question = "How long do cats live?"

embedder = SentenceTransformer()  # or "intfloat/multilingual-e5-small"
similarities = embedder.similarity(embedder.encode_query(question), embedder.encode_document(texts))
candidates = [texts[i] for i in similarities[0].argsort()[::-1][:10]]

model = CrossEncoder()  # or "BAAI/bge-reranker-v2-m3"
for hit in model.rank(question, candidates, top_k=3, return_documents=True):
    print(f"{hit['score']:.3f} {hit['text']}")
