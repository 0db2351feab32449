"""What commands share that measure before they keep: languages, first stages."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from polyrank.evaluation.retrievers import Retriever

REFUSED = 3
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


def codes(listed: str | None) -> tuple[str, ...] | None:
    """Return the members of a list such as "en,de,th", or None where it has none."""
    found = tuple(code.strip() for code in (listed or "").split(",") if code.strip())
    return found or None


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
