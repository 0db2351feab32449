"""Names that other libraries give to what ours calls otherwise: refused with the name that is."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from polyrank.errors import ConfigError

P = ParamSpec("P")
T = TypeVar("T")

RANK_HINTS = {
    "top_k": "top_n",
    "docs": "documents",
    "batch_size": "max_batch_tokens of the class, in tokens",
    "show_progress_bar": "progress, a function",
    "return_documents": "hit.document, which is always there",
}
SCORE_HINTS = {
    "sentences": "pairs",
    "batch_size": "max_batch_tokens of the class, in tokens",
    "show_progress_bar": "progress, a function",
    "activation_fn": "activation of the class",
}
ENCODE_HINTS = {
    "sentences": "texts",
    "batch_size": "max_batch_tokens of the class, in tokens",
    "show_progress_bar": "progress, a function",
    "normalize_embeddings": "normalize of the class",
    "truncate_dim": "dimensions",
}


def naming(hints: dict[str, str]) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Let a method refuse keywords of other libraries with the words for it here.

    Args:
        hints: What to give instead, by the keyword that has no place here.

    Returns:
        A decorator.
    """

    def decorate(method: Callable[P, T]) -> Callable[P, T]:
        @wraps(method)
        def named(*arguments: P.args, **keywords: P.kwargs) -> T:
            for name in keywords:
                if name in hints:
                    raise ConfigError(f"{method.__name__} has no {name!r}: give {hints[name]}.")
            return method(*arguments, **keywords)

        return named

    return decorate
