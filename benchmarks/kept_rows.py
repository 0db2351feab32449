"""Pairs a second of the default model with and without kept token rows: `make bench-rows`.

40 queries with 50 each of 240 made-up documents of about 200 tokens, in one call and a query a
call; pairs in the order given, as they were scored before, and with those of one text together.
Every way must give the same bits.
"""

import statistics
import time
from collections.abc import Callable

import numpy as np

from polyrank import Reranker
from polyrank.inference import pair_runs
from polyrank.types import Float32Array
from tests.texts import SENTENCES

NUM_QUERIES, NUM_DOCUMENTS, NUM_HITS = 40, 240, 50
ROW_CACHE_BYTES = 2_000_000_000
TURNS, TURNS_WITHOUT = 9, 3

Pairs = list[tuple[str, str]]


def make_pairs(reranker: Reranker) -> Pairs:
    """Return pairs, query after query, of words drawn from sentences in many languages."""
    random = np.random.default_rng(0)
    words = " ".join(SENTENCES.values()).split()
    encode = reranker._model.tokenizer.encode

    def text(num_tokens: int) -> str:
        drawn: list[str] = []
        while len(encode([" ".join(drawn)])[0]) < num_tokens:
            drawn.append(str(random.choice(words)))
        return " ".join(drawn)

    documents = [text(int(random.integers(180, 220))) for _ in range(NUM_DOCUMENTS)]
    queries = [text(int(random.integers(8, 20))) for _ in range(NUM_QUERIES)]
    hits = [random.choice(NUM_DOCUMENTS, NUM_HITS, replace=False) for _ in queries]
    return [(q, documents[i]) for q, own in zip(queries, hits, strict=True) for i in own]


def in_one_call(reranker: Reranker, pairs: Pairs) -> Float32Array:
    """Return the logits of all pairs."""
    return reranker.score(pairs, logits=True)


def as_given(reranker: Reranker, pairs: Pairs) -> Float32Array:
    """Return the logits of all pairs, scored in the order given."""
    together = pair_runs._parts
    pair_runs._parts = lambda plan: pair_runs._cut(plan, np.arange(len(plan.members)))
    try:
        return in_one_call(reranker, pairs)
    finally:
        pair_runs._parts = together


def by_query(reranker: Reranker, pairs: Pairs) -> Float32Array:
    """Return the logits of all pairs, those of one query a call."""
    starts = range(0, len(pairs), NUM_HITS)
    return np.concatenate([in_one_call(reranker, pairs[i : i + NUM_HITS]) for i in starts])


WAYS: dict[str, Callable[[Reranker, Pairs], Float32Array]] = {
    "one call, pairs in the order given": as_given,
    "one call, pairs of one text together": in_one_call,
    "one query a call": by_query,
}


def main() -> None:
    """Measure all ways in turns and print medians."""
    models = {"none": Reranker(), "all": Reranker(row_cache_bytes=ROW_CACHE_BYTES)}
    pairs = make_pairs(models["none"])
    wanted = in_one_call(models["all"], pairs)
    seconds: dict[tuple[str, str], list[float]] = {}
    tokens: dict[tuple[str, str], int] = {}
    for turn in range(TURNS):
        for way, run in WAYS.items():
            for kept, model in models.items():
                if kept == "none" and turn >= TURNS_WITHOUT:
                    continue
                before, start = model.usage.num_tokens, time.perf_counter()
                logits = run(model, pairs)
                seconds.setdefault((kept, way), []).append(time.perf_counter() - start)
                tokens[kept, way] = model.usage.num_tokens - before
                assert logits.tobytes() == wanted.tobytes()
    print(f"{models['all'].info.encoder}\n")
    print("| rows kept | | pairs a second | tokens run |\n|---|---|---|---|")
    for (kept, way), times in seconds.items():
        rate = len(pairs) / statistics.median(times)
        print(f"| {kept} | {way} | {rate:,.0f} | {tokens[kept, way]:,} |")


if __name__ == "__main__":
    main()
