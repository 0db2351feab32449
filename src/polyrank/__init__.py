"""Rerank, embed and classify text in 100+ languages.

>>> from polyrank import Reranker
>>> reranker = Reranker()  # the default multilingual model, offline
>>> reranker.rank("How long do cats live?", ["Les chats vivent 15 ans.", "犬は吠える。"])[0].index
0

Names are loaded on first use: importing the package imports nothing heavy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from polyrank.errors import PolyrankError
    from polyrank.inference.classifier import Classifier
    from polyrank.inference.embedder import Embedder
    from polyrank.inference.model import ModelInfo
    from polyrank.inference.reranker import Reranker
    from polyrank.search.search import Search, SearchResult
    from polyrank.types import Classification, Passage, RankedDocument

__version__ = "0.1.0"

__all__ = [
    "Classification",
    "Classifier",
    "Embedder",
    "ModelInfo",
    "Passage",
    "PolyrankError",
    "RankedDocument",
    "Reranker",
    "Search",
    "SearchResult",
]

_HOMES = {
    "Classification": "polyrank.types",
    "Classifier": "polyrank.inference.classifier",
    "Embedder": "polyrank.inference.embedder",
    "ModelInfo": "polyrank.inference.model",
    "Passage": "polyrank.types",
    "PolyrankError": "polyrank.errors",
    "RankedDocument": "polyrank.types",
    "Reranker": "polyrank.inference.reranker",
    "Search": "polyrank.search.search",
    "SearchResult": "polyrank.search.search",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the names that exist, the lazy ones included."""
    return sorted({*globals(), *__all__})
