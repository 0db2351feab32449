"""Token ids of texts that were read before, bounded in bytes, least recently used first out.

Where a document's rows are kept, turning its text into tokens is most of what is left to do.
"""

import sys
from collections.abc import Callable, Hashable, Sequence

import numpy as np

from polyrank._bounded import BoundedCache
from polyrank.types import Int32Array

_OVERHEAD_BYTES = 400  # the objects around a key and its array, the dictionary's slot


class TokenCache:
    """Token ids by text. Safe to use from several threads."""

    def __init__(self, max_bytes: int) -> None:
        """Make an empty cache.

        Args:
            max_bytes: Most bytes to hold, texts included.
        """
        self._ids: BoundedCache[tuple[Hashable, str], Int32Array] = BoundedCache(max_bytes)

    @property
    def max_bytes(self) -> int:
        """Bytes that may be held."""
        return self._ids.max_size

    @property
    def num_bytes(self) -> int:
        """Bytes that are held."""
        return self._ids.size

    def __len__(self) -> int:
        return len(self._ids)

    def encode(
        self,
        texts: Sequence[str],
        setting: Hashable,
        encode: Callable[[list[str]], Sequence[Int32Array]],
    ) -> list[Int32Array]:
        """Return the ids of texts, read only where they are not kept.

        Args:
            texts: The texts.
            setting: All that changes the ids beside the text.
            encode: Returns the ids of texts.

        Returns:
            One array a text; those that were kept are read-only.
        """
        found = [self._ids.get((setting, text)) for text in texts]
        missing = [text for text, ids in zip(texts, found, strict=True) if ids is None]
        if not missing:
            return [ids for ids in found if ids is not None]
        fresh = dict(zip(missing, encode(missing), strict=True))
        for text, ids in fresh.items():
            own = np.array(ids, np.int32)  # a view would keep all that was read with it
            own.setflags(write=False)
            self._ids.put((setting, text), own, _size(text, own))
        return [fresh[text] if ids is None else ids for text, ids in zip(texts, found, strict=True)]


def _size(text: str, ids: Int32Array) -> int:
    return sys.getsizeof(text) + ids.nbytes + _OVERHEAD_BYTES
