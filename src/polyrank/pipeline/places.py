"""Where what belongs to a store lies: its manifest, its lock and its index of words."""

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from polyrank._files import holding
from polyrank.checkpoint.hub import cache_folder
from polyrank.errors import ConfigError, StoreUnavailableError
from polyrank.stores.opening import KINDS

SUFFIX = ".polyrank"
_SERVER = re.compile(r"[\w.\-\[\]:]+:\d+")
_SERVED = frozenset({"pinecone", "postgresql", "weaviate"})


def local_path(url: str) -> Path | None:
    """Return the file or folder that a store is; None where a server keeps it.

    Args:
        url: The store.

    Returns:
        Its absolute path.

    Raises:
        ConfigError: If the URL names no kind of store.
    """
    scheme, separator, place = url.partition("://")
    if scheme not in KINDS or not separator or not place:
        known = ", ".join(kind.example for kind in KINDS.values())
        raise ConfigError(f"{url!r:.120} names no store. Write it as one of: {known}.")
    if scheme in _SERVED or "://" in place or _SERVER.fullmatch(place):
        return None
    return Path(os.path.abspath(place))


def state_folder(url: str) -> Path:
    """Return where the manifest of a store lies: beside it, or in the cache for a server's.

    Args:
        url: The store.

    Returns:
        A folder, which may not be there yet.

    Raises:
        ConfigError: If the URL names no kind of store.
    """
    path = local_path(url)
    if path is not None:
        return path.with_name(path.name + SUFFIX)
    parts = urlsplit(url)
    place = f"{parts.scheme}://{parts.hostname}:{parts.port}{parts.path}"  # no password
    return cache_folder() / "indexes" / hashlib.blake2b(place.encode(), digest_size=12).hexdigest()


def left_out(url: str) -> list[str]:
    """Return the files and folders of a store, which are no documents."""
    path = local_path(url)
    if path is None:
        return []
    return [str(path) + ending for ending in ("", SUFFIX, "-wal", "-shm", "-journal")]


@contextmanager
def held(url: str) -> Iterator[Path]:
    """Keep other indexers out of a store.

    Args:
        url: The store.

    Yields:
        The folder of its manifest.

    Raises:
        StoreUnavailableError: If another process indexes into the store.
    """
    folder = state_folder(url)
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(holding(folder, folder))
        except ConfigError as exc:
            number = re.search(r"number (\w+)", str(exc))
            raise StoreUnavailableError(
                f"another process{f' ({number.group(0)})' if number else ''} is indexing into "
                f"{url}. Wait until it is done, end it, or name another store."
            ) from exc
        yield folder
