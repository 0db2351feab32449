"""What the browser must give: ids, rows, ranks, labels and vectors of the Python library.

`make test-web` runs this with POLYRANK_ISA=portable. With the evaluation data at hand the texts are
those of people in 40 languages and more; without it, the sentences of the unit tests.
"""

import argparse
import gzip
import hashlib
import json
import random
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from polyrank import Classifier, Embedder, Reranker
from polyrank.text.tokenizer import Tokenizer
from tests.texts import ALL, SENTENCES

NUM_TEXTS = 2_400  # whose ids are compared
NUM_RANKINGS = 12
NUM_DOCUMENTS = 16
NUM_ROWS = 80  # texts whose rows are compared to the bit

Case = dict[str, Any]


def rows(path: Path) -> Iterator[dict[str, str]]:
    """Yield the lines of a file of the evaluation data."""
    with gzip.open(path, "rt", encoding="utf8") as lines:
        yield from map(json.loads, lines)


def by_language(path: Path) -> dict[str, list[str]]:
    """Return the texts of a file by their language."""
    found: dict[str, list[str]] = defaultdict(list)
    for row in rows(path):
        found[row["lang"]].append(row["text"])
    return found


def sample_texts(data: Path | None) -> list[str]:
    """Return texts in many languages, the same number of each, and those that break code."""
    if data is None:
        return list(ALL)
    texts = by_language(data / "ntrex" / "queries.jsonl.gz")
    texts["en"] = by_language(data / "ntrex" / "corpus.jsonl.gz")["en"]
    each = NUM_TEXTS // len(texts)
    draw = random.Random(0)
    return [*ALL, *(text for lang in sorted(texts) for text in draw.sample(texts[lang], each))]


def sample_rankings(data: Path | None) -> list[Case]:
    """Return queries with documents: half in the query's language, half in any."""
    if data is None:
        documents = [*SENTENCES.values(), SENTENCES["en"] * 40]
        return [{"query": text, "documents": documents} for text in SENTENCES.values()]
    draw = random.Random(1)
    queries = by_language(data / "xquad" / "queries.jsonl.gz")
    passages = by_language(data / "xquad" / "corpus.jsonl.gz")
    languages = sorted(queries)
    cases = []
    for i in range(NUM_RANKINGS):
        lang = languages[i % len(languages)]
        place = draw.randrange(len(queries[lang]))
        own = draw.sample(passages[lang], NUM_DOCUMENTS // 2)
        others = [draw.choice(passages[draw.choice(languages)]) for _ in own]
        documents = [*own, *others]
        draw.shuffle(documents)
        cases.append({"query": queries[lang][place], "documents": documents})
    return cases


def expected(data: Path | None) -> Case:
    """Return all texts and what Python makes of them."""
    texts, rankings = sample_texts(data), sample_rankings(data)
    reranker, classifier = Reranker(passages=None), Classifier()
    tokenizer = Tokenizer(reranker.spec.folder / "tokenizer.json.gz")
    embedder = Embedder(long_texts="truncate")
    chosen = random.Random(2).sample(texts, min(NUM_ROWS, len(texts)))
    for case in rankings:
        query, documents = case["query"], case["documents"]
        hits = reranker.rank(query, documents)
        labels = classifier.classify([(query, text) for text in documents])
        case["hits"] = [
            {
                "index": hit.index,
                "logit": hit.logit,
                "score": hit.score,
                "probability": hit.probability,
                "isTruncated": hit.is_truncated,
            }
            for hit in hits
        ]
        case["labels"] = [
            {
                "label": each.label,
                "probabilities": each.probabilities,
                "calibrated": each.calibrated_probabilities,
            }
            for each in labels
        ]
    found = reranker.token_vectors(chosen, input_type="document")
    return {
        "isa": reranker.info.encoder.device,
        "texts": texts,
        "ids": [ids.tolist() for ids in tokenizer.encode(texts)],
        "rows": [
            {"text": text, "sha256": hashlib.sha256(each.tobytes()).hexdigest()}
            for text, each in zip(chosen, found, strict=True)
        ],
        "rankings": rankings,
        "vectors": [
            {"text": text, "vector": vector.tolist()}
            for text, vector in zip(
                chosen[:24], embedder.encode(chosen[:24], input_type="query"), strict=True
            )
        ],
    }


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--data", type=Path, help="the evaluation data, if it is at hand")
    args = parser.parse_args()
    data = args.data if args.data and (args.data / "xquad").is_dir() else None
    args.output.write_text(json.dumps(expected(data), ensure_ascii=False), encoding="utf8")


if __name__ == "__main__":
    main()
