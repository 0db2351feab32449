"""The classes of libraries that people already use, on polyrank: change the import, keep the code.

>>> from polyrank.compat import CrossEncoder  # instead of: from sentence_transformers import …

Arguments that polyrank cannot honour are refused by name. Names are loaded on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from polyrank.compat.cross_encoder import CrossEncoder
    from polyrank.compat.flag_reranker import FlagReranker
    from polyrank.compat.multi_vector_encoder import MultiVectorEncoder
    from polyrank.compat.rerankers import Reranker
    from polyrank.compat.sentence_transformer import SentenceTransformer

__all__ = ["CrossEncoder", "FlagReranker", "MultiVectorEncoder", "Reranker", "SentenceTransformer"]

_HOMES = {
    "CrossEncoder": "polyrank.compat.cross_encoder",
    "FlagReranker": "polyrank.compat.flag_reranker",
    "MultiVectorEncoder": "polyrank.compat.multi_vector_encoder",
    "Reranker": "polyrank.compat.rerankers",
    "SentenceTransformer": "polyrank.compat.sentence_transformer",
}


def __getattr__(name: str) -> Any:
    """Import a class when it is first asked for (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
