"""BM25 as a first stage, on the library bm25s and polyrank's words for any language."""

from collections.abc import Sequence

import bm25s
import numpy as np
from numpy.typing import NDArray

from polyrank.evaluation.lexical import tokenize
from polyrank.evaluation.retrievers import Advance, Candidates, select_top_k

_NO_HITS = Candidates(np.empty(0, np.intp), np.empty(0, np.float32))


class Bm25Retriever:
    """Lexical search with Lucene's BM25.

    A document that shares no word with the query is not found, so a query may get fewer than
    top_k documents.

    Reference: Lù, arXiv:2407.03618 (BM25S); Kamphuis et al., ECIR 2020 (its variants).
    """

    def __init__(self, *, k1: float = 1.5, b: float = 0.75) -> None:
        self._k1, self._b = k1, b

    def index_documents(self, documents: Sequence[str], advance: Advance) -> "bm25s.BM25 | None":
        """Return an index of documents.

        Args:
            documents: Texts of the corpus.
            advance: Called as texts are done.

        Returns:
            The index, or None where no document has a word.
        """
        tokens = self.read_queries(documents, advance)
        if not any(tokens):
            return None
        index = bm25s.BM25(k1=self._k1, b=self._b, method="lucene", backend="numpy")
        index.index(tokens, show_progress=False)
        return index

    def read_queries(self, queries: Sequence[str], advance: Advance) -> list[list[str]]:
        """Return the words of each query.

        Args:
            queries: Texts of the queries.
            advance: Called as texts are done.

        Returns:
            One list of words for each query.
        """
        tokens = []
        for text in queries:
            tokens.append(tokenize(text))
            advance(1)
        return tokens

    def search(
        self,
        queries: list[list[str]],
        rows: NDArray[np.intp],
        index: "bm25s.BM25 | None",
        top_k: int,
    ) -> list[Candidates]:
        """Return the best documents of some queries; equal scores in corpus order.

        Args:
            queries: Words of all queries.
            rows: The queries to search for, shape (num_rows,).
            index: What `index_documents` returned.
            top_k: Documents to return for each query, at most.

        Returns:
            One entry for each row.
        """
        return [_search_one(queries[row], index, top_k) for row in rows]


def _search_one(words: list[str], index: "bm25s.BM25 | None", top_k: int) -> Candidates:
    if index is None or not words:
        return _NO_HITS
    scores = index.get_scores(words)
    best = select_top_k(scores, top_k)
    best = best[scores[best] > 0]
    return Candidates(best, scores[best])
