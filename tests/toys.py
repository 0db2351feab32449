"""Tiny training data whose rule a tiny model learns in seconds."""

import json
import random
from pathlib import Path

from tests.texts import SENTENCES

MARK = "eighteen"
WORDS = sorted(
    {
        word
        for sentence in SENTENCES.values()
        for word in sentence.split()
        if word.isascii() and word.isalpha() and len(word) > 3 and word != MARK
    }
)


def write_lines(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf8")
    return path


def marked_rows(count: int = 200, seed: int = 0) -> list[dict]:
    """Relevant is the passage with the mark, neutral the one with the query's word alone."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        asked, other, *rest = draw.sample(WORDS, 5)
        rows.append(
            {
                "query": asked,
                "positives": [f"{asked} {MARK}"],
                "neutrals": [f"{asked} {other}"],
                "negatives": [f"{rest[0]} {rest[1]}", f"{rest[2]} {rest[0]}"],
            }
        )
    return rows


def marked_beir(folder: Path, count: int = 12) -> Path:
    """A BEIR folder by the same rule: BM25 finds four passages a query, one of them relevant."""
    draw = random.Random(7)
    documents, queries, lines = [], [], ["query-id\tcorpus-id\tscore"]
    for i, asked in enumerate(draw.sample(WORDS, count)):
        others = draw.sample([word for word in WORDS if word != asked], 3)
        texts = [*(f"{asked} {other}" for other in others), f"{asked} {MARK}"]
        documents += [{"_id": f"d{i}-{k}", "text": text} for k, text in enumerate(texts)]
        queries.append({"_id": f"q{i}", "text": asked})
        lines.append(f"q{i}\td{i}-3\t1")
    write_lines(folder / "corpus.jsonl", documents)
    write_lines(folder / "queries.jsonl", queries)
    (folder / "qrels.tsv").write_text("\n".join(lines) + "\n", "utf8")
    return folder
