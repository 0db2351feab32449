"""Errors of stores' clients in polyrank's words: one table for all of them.

Clients raise few classes and tell the cause in words, so that the words decide here.
"""

import errno
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from polyrank.errors import StoreError, StoreFullError, StoreMismatchError, StoreUnavailableError

_FULL = re.compile(r"no space left|disk (is )?full|disk quota|database or disk is full", re.I)
_LOCKED = re.compile(
    r"locked|already accessed|already open|resource temporarily unavailable|another process"
    r"|open local milvus failed",
    re.I,
)
_MISSING = re.compile(
    r"connection refused|connect(ion)? (call )?fail|could not connect|timed? ?out|unreachable"
    r"|failed to connect|name or service not known|connection (reset|is closed)|no route to host"
    r"|fail connecting|disconnected",
    re.I,
)
_MISMATCH = re.compile(r"dimension", re.I)
_LITTLE = 16 << 20  # bytes left on a disk, of which a batch and a store's own copies take more
_DISK_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def translated(error: BaseException, url: str, disk: Path | None = None) -> StoreError:
    """Return what a client's error is in our tree.

    Args:
        error: What the client raised.
        url: The store, for the message.
        disk: Where the store writes, for an error that tells no cause.

    Returns:
        The error to raise from it.
    """
    chain = list(_causes(error))
    words = " ".join(str(cause) for cause in chain)
    said = " ".join(str(error).split())[:300] or type(error).__name__
    if _FULL.search(words) or any(getattr(c, "errno", None) in _DISK_ERRNOS for c in chain):
        return _full(url, said)
    if _LOCKED.search(words):
        return StoreUnavailableError(
            f"{url} is held by another process: {said}. Wait until it is done, or end it."
        )
    if _MISSING.search(words) or any(isinstance(c, ConnectionError | TimeoutError) for c in chain):
        return StoreUnavailableError(
            f"{url} does not answer: {said}. Start the server, or correct the URL."
        )
    if _MISMATCH.search(words):
        return StoreMismatchError(
            f"{url} holds other vectors: {said}. Open it with what it holds, or name another "
            "collection."
        )
    if disk is not None and disk.exists() and shutil.disk_usage(disk).free < _LITTLE:
        return _full(url, said)
    return StoreError(f"{url} failed: {type(error).__name__}: {said}")


def _full(url: str, said: str) -> StoreFullError:
    return StoreFullError(
        f"{url} has no room left: {said}. What was written before is there; free some room "
        "and add the rest again."
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    for _ in range(8):
        if error is None:
            return
        yield error
        error = error.__cause__ or error.__context__
