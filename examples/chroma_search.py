"""Chroma: a collection whose texts polyrank turns into vectors."""

import json
from pathlib import Path

import chromadb

from polyrank.integrations.chroma import PolyrankEmbeddingFunction

rows = [
    json.loads(line)
    for line in Path(__file__).with_name("cats.jsonl").read_text(encoding="utf8").splitlines()
]
collection = chromadb.EphemeralClient().create_collection(
    "cats", embedding_function=PolyrankEmbeddingFunction()
)
collection.add(ids=[row["id"] for row in rows], documents=[row["text"] for row in rows])
found = collection.query(query_texts=["How long do cats live?"], n_results=3)
for text, distance in zip(found["documents"][0], found["distances"][0], strict=True):
    print(f"{1 - distance:.3f} {text}")
