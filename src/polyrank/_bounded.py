"""A mapping of bounded size, least recently used first out."""

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

KeyT = TypeVar("KeyT", bound=Hashable)
ValueT = TypeVar("ValueT")


class BoundedCache(Generic[KeyT, ValueT]):
    """Values by key, each with a size. Safe to use from several threads."""

    def __init__(self, max_size: int) -> None:
        """Make an empty cache.

        Args:
            max_size: Most of all sizes together, in any unit.
        """
        self.max_size = max_size
        self.size = 0
        self._kept: OrderedDict[KeyT, tuple[ValueT, int]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: KeyT) -> ValueT | None:
        """Return what is kept under a key, which thereby becomes the newest; None for nothing."""
        with self._lock:
            found = self._kept.get(key)
            if found is None:
                return None
            self._kept.move_to_end(key)
            return found[0]

    def put(self, key: KeyT, value: ValueT, size: int) -> None:
        """Keep a value in place of an older one, and drop the oldest until all fit.

        Args:
            key: Its key.
            value: What to keep; one that is larger than all may be is not kept.
            size: Its size.
        """
        if size > self.max_size:
            return
        with self._lock:
            before = self._kept.pop(key, None)
            if before is not None:
                self.size -= before[1]
            self._kept[key] = value, size
            self.size += size
            while self.size > self.max_size:
                self.size -= self._kept.popitem(last=False)[1][1]
