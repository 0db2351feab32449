"""Forms of storage for the shipped model: types, fewer dimensions, rows joined and rounded."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.stores.corpus import Corpus
from benchmarks.stores.quality import Judge
from polyrank import Reranker
from polyrank.stores.base import OVERSAMPLING, cosines_with, to_bits, to_int8
from polyrank.tasks.embed import shorten

TOP_K = 100
ROW_QUERIES, ROW_CANDIDATES = 100, 50
ROW_FORMS = ((1, "float32"), (1, "int8"), (2, "int8"), (4, "int8"))


def measure(corpus: Corpus, judge: Judge) -> list[dict[str, Any]]:
    """Return a row of figures for each form of vectors, then of rows."""
    truth = [set(row) for row in _best(corpus.query_vectors @ corpus.vectors.T)]
    rows = []
    for name, size, found in _forms(corpus):
        runs = [[corpus.ids[i] for i in row] for row in found]
        shared = [len(own & set(row)) / TOP_K for own, row in zip(truth, found, strict=True)]
        rows.append(
            {
                "form": name,
                "bytes a passage": size,
                "recall@100": float(np.mean(shared)),
                "nDCG@10": judge.mean(runs),
                "nDCG@10 reranked": judge.reranked(runs),
            }
        )
    return rows + list(_row_forms(corpus, judge))


def _forms(corpus: Corpus) -> Iterator[tuple[str, float, NDArray[np.intp]]]:
    vectors, queries = corpus.vectors, corpus.query_vectors
    full = vectors.shape[1]
    for dimensions in (full, full // 2, full // 4):
        kept = shorten(vectors, dimensions, is_normalized=True)
        asked = shorten(queries, dimensions, is_normalized=True)
        yield f"float32, {dimensions} values", 4.0 * dimensions, _best(asked @ kept.T)
        half = kept.astype(np.float16).astype(np.float32)
        yield f"float16, {dimensions} values", 2.0 * dimensions, _best(asked @ half.T)
        small = to_int8(kept)
        scores = np.stack([cosines_with(query, small) for query in asked])
        yield f"int8, {dimensions} values", 1.0 * dimensions, _best(scores)
        near = _hamming(to_bits(asked), to_bits(kept))
        yield f"bits alone, {dimensions} values", dimensions / 8, _best(-near)
        # vectors of one model share much, which says nothing of a text: bits of the rest
        center = kept.mean(axis=0)
        centered = _hamming(to_bits(asked - center), to_bits(kept - center))
        for what, distances in (("bits", near), ("bits without the mean", centered)):
            found = [_rescored(*one, small) for one in zip(asked, distances, strict=True)]
            name = f"{what}, {OVERSAMPLING} x {TOP_K} rescored by int8, {dimensions} values"
            yield name, dimensions * 9 / 8, np.stack(found)


def _best(scores: NDArray[np.float32]) -> NDArray[np.intp]:
    return np.argsort(-scores, axis=1, kind="stable")[:, :TOP_K]


def _hamming(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.float32]:
    ones = [2.0 * np.unpackbits(bits, axis=1).astype(np.float32) - 1 for bits in (first, second)]
    return (ones[0].shape[1] - ones[0] @ ones[1].T) / 2


def _rescored(
    query: NDArray[np.float32], near: NDArray[np.float32], small: NDArray[np.int8]
) -> NDArray[np.intp]:
    places = np.argsort(near, kind="stable")[: OVERSAMPLING * TOP_K]
    order = np.argsort(-cosines_with(query, small[places]), kind="stable")
    return places[order[:TOP_K]]


def _row_forms(corpus: Corpus, judge: Judge) -> Iterator[dict[str, Any]]:
    """Yield nDCG@10 of the same candidates, reranked by rows of each form."""
    count = ROW_QUERIES
    candidates = _best(corpus.query_vectors[:count] @ corpus.vectors.T)[:, :ROW_CANDIDATES]
    width = 0
    texts = [corpus.texts[i] for i in np.unique(candidates)]
    for pooling, dtype in ROW_FORMS:
        reranker = Reranker(row_cache_bytes=4_000_000_000, row_pooling=pooling, row_dtype=dtype)
        runs = []
        for query, row in enumerate(candidates):
            pairs = [(corpus.queries[query], corpus.texts[i]) for i in row]
            order = np.argsort(-reranker.score(pairs, logits=True), kind="stable")
            runs.append([corpus.ids[row[i]] for i in order])
        if not width:
            given = reranker.token_vectors(texts, input_type="document")
            width, mean = given[0].shape[1], float(np.mean([len(rows) for rows in given]))
        size = np.ceil(mean / pooling) * width * (4 if dtype == "float32" else 1)
        yield {
            "form": f"rows as {dtype}" + (f", {pooling} joined into one" if pooling > 1 else ""),
            "bytes a passage": float(size),
            "recall@100": None,
            "nDCG@10": None,
            "nDCG@10 reranked": judge.mean_of(runs, count),
        }
