"""Token ids of texts that were read before, bounded in bytes, least recently used first out.

Where a document's rows are kept, turning its text into tokens is most of what is left to do.
"""

import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence

import numpy as np

from polyrank.types import Int32Array

_OVERHEAD_BYTES = 400  # the objects around a key and its array, the dictionary's slot


class TokenCache:
    """Token ids by text. Safe to use from several threads."""

    def __init__(self, max_bytes: int) -> None:
        """Make an empty cache.

        Args:
            max_bytes: Most bytes to hold, texts included.
        """
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._ids: OrderedDict[tuple[Hashable, str], Int32Array] = OrderedDict()
        self._lock = threading.Lock()

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
        found: list[Int32Array | None] = []
        with self._lock:
            for text in texts:
                ids = self._ids.get((setting, text))
                if ids is not None:
                    self._ids.move_to_end((setting, text))
                found.append(ids)
        missing = [text for text, ids in zip(texts, found, strict=True) if ids is None]
        if missing:
            fresh = iter(encode(missing))
            found = [next(fresh) if ids is None else ids for ids in found]
            with self._lock:
                for text, ids in zip(texts, found, strict=True):
                    self._keep((setting, text), ids)
        return [ids for ids in found if ids is not None]

    def _keep(self, key: tuple[Hashable, str], ids: Int32Array | None) -> None:
        if ids is None or key in self._ids or _size(key[1], ids) > self.max_bytes:
            return
        own = np.array(ids, np.int32)  # a view would keep all that was read with it
        own.setflags(write=False)
        self._ids[key] = own
        self.num_bytes += _size(key[1], own)
        while self.num_bytes > self.max_bytes:
            (_, text), oldest = self._ids.popitem(last=False)
            self.num_bytes -= _size(text, oldest)


def _size(text: str, ids: Int32Array) -> int:
    return sys.getsizeof(text) + ids.nbytes + _OVERHEAD_BYTES
