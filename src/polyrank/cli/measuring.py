"""What commands share that measure: languages, first stages, the models that are named."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from polyrank.cli import options

if TYPE_CHECKING:
    from polyrank.evaluation.retrievers import Retriever
    from polyrank.inference.embedder import Embedder
    from polyrank.inference.reranker import Reranker
    from polyrank.types import FirstStageKind

REFUSED = 3
Codes = tuple[str, ...] | None
BM25, DEFAULT, AUTO = "bm25", "default", "auto"

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


class Models:
    """The checkpoints that are named, each loaded once, with the same engine settings."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        """Load nothing yet.

        Args:
            settings: Of `Embedder` and `Reranker`: encoder, threads and so on.
        """
        self._settings = settings
        self._embedders: dict[str, Embedder] = {}
        self._rerankers: dict[tuple[str, int], Reranker] = {}

    def embedder(self, name: str) -> "Embedder":
        """Return the embedder of a folder, a Hub id, or "default"."""
        from polyrank.inference.embedder import Embedder

        if name not in self._embedders:
            self._embedders[name] = Embedder(_checkpoint(name), **self._settings)
        return self._embedders[name]

    def reranker(self, name: str, row_cache_bytes: int) -> "Reranker":
        """Return the reranker of a folder, a Hub id, or "default", with a cache of its own."""
        from polyrank.inference.reranker import Reranker

        key = name, row_cache_bytes
        if key not in self._rerankers:
            self._rerankers[key] = Reranker(
                _checkpoint(name), row_cache_bytes=row_cache_bytes, **self._settings
            )
        return self._rerankers[key]

    def retriever(self, name: str) -> "Retriever[Any, Any]":
        """Return what finds documents: BM25, or vectors of an embedder."""
        from polyrank.evaluation import Bm25Retriever, EmbeddingRetriever

        return Bm25Retriever() if name == BM25 else EmbeddingRetriever(self.embedder(name))


def _checkpoint(name: str) -> str | None:
    return None if name == DEFAULT else name


def retriever(name: str, num_threads: int | None) -> "Retriever[Any, Any]":
    """Return what finds the documents that a cross-encoder orders.

    Args:
        name: "bm25", or an embedding checkpoint (folder or Hub id).
        num_threads: Threads of the embedding checkpoint's encoder.

    Returns:
        The first stage.
    """
    return Models({"num_threads": num_threads}).retriever(name)


def named(given: str) -> tuple[str, str]:
    """Read ``[NAME=]WHAT``.

    Args:
        given: What was typed.

    Returns:
        The name and what it stands for, both the same where no name was given.
    """
    name, equals, rest = given.partition("=")
    return (name, rest) if equals and "/" not in name else (given, given)


def first_stage(weight: str, *, is_lexical: bool) -> "FirstStageKind | float":
    """Return what a first stage's scores count for, as `Reranker.first_stage_weight` takes it.

    Args:
        weight: "auto", a kind, or a number.
        is_lexical: Whether words were searched, for "auto".

    Returns:
        A kind or a weight.

    Raises:
        ConfigError: If it is none of them.
    """
    if weight == AUTO:
        return "lexical" if is_lexical else "dense"
    return options.first_stage(weight)
