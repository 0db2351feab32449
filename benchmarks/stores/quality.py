"""nDCG@10 of what was found, as it was found and reranked. A pair is read once for all stores."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.stores.corpus import Corpus
from polyrank import Reranker


def ndcg_at_10(run: Sequence[str], relevant: set[str]) -> float:
    """Return nDCG@10 of one query; each relevant passage counts the same."""
    gains = [1 / math.log2(at + 2) for at, name in enumerate(run[:10]) if name in relevant]
    ideal = sum(1 / math.log2(at + 2) for at in range(min(10, len(relevant))))
    return sum(gains) / ideal


class Judge:
    """Knows what answers each query, and what the shipped model says of each pair asked for."""

    def __init__(self, corpus: Corpus, cache: Path) -> None:
        """Take a corpus, and scores that were kept of an earlier run."""
        self._corpus = corpus
        self._path = cache / f"scores-{len(corpus.ids)}.npz"
        self._places = {name: i for i, name in enumerate(corpus.ids)}
        self._reranker: Reranker | None = None
        # NaN where a pair was not read yet
        shape = (len(corpus.queries), len(corpus.ids))
        self._scores = np.full(shape, np.nan, np.float32)
        if self._path.exists():
            with np.load(self._path) as kept:
                self._scores[kept["queries"], kept["passages"]] = kept["scores"]

    def save(self) -> None:
        """Keep the scores for later runs."""
        queries, passages = np.nonzero(~np.isnan(self._scores))
        scores = self._scores[queries, passages]
        self._path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(self._path, queries=queries, passages=passages, scores=scores)

    def mean(self, runs: Sequence[Sequence[str]]) -> float:
        """Return the mean nDCG@10 of runs as they are."""
        pairs = zip(runs, self._corpus.relevant, strict=True)
        return float(np.mean([ndcg_at_10(run, relevant) for run, relevant in pairs]))

    def reranked(self, runs: Sequence[Sequence[str]]) -> float:
        """Return the mean nDCG@10 of runs after the shipped model reranked them."""
        return self.mean([self._ordered(at, run) for at, run in enumerate(runs)])

    def _ordered(self, query: int, run: Sequence[str]) -> list[str]:
        places = np.array([self._places[name] for name in run], np.intp)
        missing = places[np.isnan(self._scores[query, places])]
        if len(missing):
            if self._reranker is None:
                self._reranker = Reranker(row_cache_bytes=2_000_000_000)
            texts = [self._corpus.texts[i] for i in missing]
            asked = [(self._corpus.queries[query], text) for text in texts]
            self._scores[query, missing] = self._reranker.score(asked, logits=True)
        order = np.argsort(-self._scores[query, places], kind="stable")
        return [run[i] for i in order]

    def mean_of(self, runs: Sequence[Sequence[str]], count: int) -> float:
        """Return the mean nDCG@10 of runs of the first queries."""
        pairs = zip(runs, self._corpus.relevant[:count], strict=True)
        return float(np.mean([ndcg_at_10(run, relevant) for run, relevant in pairs]))
