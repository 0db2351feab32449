"""What commands share that measure before they keep: languages, first stages."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from polyrank.evaluation.retrievers import Retriever

REFUSED = 3
Codes = tuple[str, ...] | None
BM25 = "bm25"

Texts = Annotated[
    list[Path],
    typer.Option(
        help="Texts to count pieces in: a file (one text a line, or .jsonl; also .gz) or a "
        "folder of such files. Repeat for several."
    ),
]
TextFields = Annotated[
    list[str] | None,
    typer.Option(
        help="Field of JSON objects that holds a text. Repeat for several. Left out: text, "
        "title, query, src, tgt and other usual ones.",
        show_default=False,
    ),
]
RetrieverName = Annotated[
    str,
    typer.Option(
        help="What finds the documents that a cross-encoder orders: bm25, or an embedding "
        "checkpoint (folder or Hub id)."
    ),
]


def languages_of_both(listed: str | None) -> tuple[Codes, Codes]:
    """Return the languages of queries and those of documents; None where all are taken.

    Args:
        listed: Such as "en,de", for both, or "en:de,th".

    Returns:
        Two tuples of codes, or None in place of an empty one.
    """
    queries, colon, documents = (listed or "").partition(":")
    of_queries = _codes(queries)
    return of_queries, _codes(documents) if colon else of_queries


def _codes(listed: str) -> Codes:
    return tuple(code.strip() for code in listed.split(",") if code.strip()) or None


def retriever(name: str, num_threads: int | None) -> "Retriever[Any, Any]":
    """Return what finds the documents that a cross-encoder orders.

    Args:
        name: "bm25", or an embedding checkpoint (folder or Hub id).
        num_threads: Threads of the embedding checkpoint's encoder.

    Returns:
        The first stage.
    """
    from polyrank.evaluation import Bm25Retriever, EmbeddingRetriever

    if name == BM25:
        return Bm25Retriever()
    from polyrank.inference.embedder import Embedder

    return EmbeddingRetriever(Embedder(name, num_threads=num_threads))
