"""What people write by hand: FastAPI around sentence-transformers' CrossEncoder.

Usage: uvicorn serving.plain:app, with the checkpoint's folder in SERVED_FOLDER.
"""

import os
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from sentence_transformers import CrossEncoder

app = FastAPI()
model = CrossEncoder(os.environ["SERVED_FOLDER"], max_length=512, device="cpu")


class Body(BaseModel):
    """A query and the documents to rank."""

    query: str
    documents: list[str]


@app.post("/rerank")
def rerank(body: Body) -> dict[str, Any]:
    """Return documents by score; FastAPI runs this in a thread."""
    scores = model.predict([(body.query, text) for text in body.documents])
    ranked = sorted(enumerate(map(float, scores)), key=lambda hit: -hit[1])
    return {"results": [{"index": i, "relevance_score": score} for i, score in ranked]}


@app.get("/health")
def health() -> dict[str, str]:
    """Return that the model is loaded."""
    return {"status": "ok"}
