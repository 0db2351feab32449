"""Folders of a job, on a disk or in an object store: listed, read, and written whole.

The one place that knows fsspec. Its errors, and those of object stores' clients, become ours here.
A store that does not answer is asked again for a while; a missing file or a full disk is not.
"""

import errno
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import fsspec

from polyrank._extras import require
from polyrank._files import holding, replacing
from polyrank.errors import ConfigError, DataError, JobError, MissingExtraError, StorageError

T = TypeVar("T")

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 5.0
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_EXTRA_OF_SCHEME = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file as a listing names it.

    Attributes:
        path: Path in its file system.
        size_bytes: Its size.
        version: What tells this content from an earlier one: a time or a tag of the store.
    """

    path: str
    size_bytes: int
    version: str


class Place:
    """A file or folder of a file system."""

    def __init__(self, url: str, *, patience_s: float = 120.0) -> None:
        """Find the file system.

        Args:
            url: A path, or a URL such as ``s3://bucket/folder``.
            patience_s: How long a store that does not answer is asked again.

        Raises:
            ConfigError: If nothing is known of such URLs.
            MissingExtraError: If the library that reads them is not installed.
        """
        scheme, separator, _ = url.partition("://")
        if separator and scheme in _EXTRA_OF_SCHEME:
            require(_EXTRA_OF_SCHEME[scheme], purpose=f"{scheme}:// places")
        try:
            options = {"use_listings_cache": False} if separator and scheme != "file" else {}
            self.fs, self.path = fsspec.core.url_to_fs(url, **options)
        except ImportError as exc:
            raise MissingExtraError(f"{url} cannot be read: {exc}") from exc
        except ValueError as exc:
            raise ConfigError(f"{url!r:.120} names no place that can be read: {exc}") from exc
        self.url = url
        self.path = self.path.rstrip("/") or "/"
        self.patience_s = patience_s

    @property
    def is_local(self) -> bool:
        """Whether it lies on a disk of this machine."""
        return "file" in _protocols(self.fs)

    def files(self, under: str = "") -> list[FoundFile]:
        """Return the files below a folder, or the file that the place itself is, by path.

        Args:
            under: Name of a folder inside; "" takes all.

        Returns:
            Sorted by path; none where nothing has the name. Names that begin with a dot are left
            out.

        Raises:
            StorageError: If it cannot be listed.
        """
        path = f"{self.path}/{under}" if under else self.path

        def list_them() -> list[FoundFile]:
            try:
                found = self.fs.find(path, detail=True)
            except (FileNotFoundError, NotADirectoryError):
                return []
            return [
                FoundFile(name, int(info.get("size") or 0), _version(info))
                for name, info in sorted(found.items())
                if not name.rpartition("/")[2].startswith(".")
            ]

        return self.asked(list_them, f"{self.url}{'/' if under else ''}{under}")

    def names(self, under: str = "") -> set[str]:
        """Return the names of files right below a folder."""
        folder = f"{self.path}/{under}".rstrip("/")
        return {
            file.path.removeprefix(f"{folder}/")
            for file in self.files(under)
            if "/" not in file.path.removeprefix(f"{folder}/")
        }

    def read(self, name: str) -> bytes | None:
        """Return the content of a file inside; None where there is none.

        Args:
            name: Path below this place.

        Returns:
            All of it.

        Raises:
            StorageError: If it cannot be read.
        """

        def get() -> bytes | None:
            try:
                return bytes(self.fs.cat_file(f"{self.path}/{name}"))
            except FileNotFoundError:
                return None

        return self.asked(get, f"{self.url}/{name}")

    def write(self, name: str, content: bytes) -> None:
        """Write a file inside: it is there whole, or as it was before.

        Args:
            name: Path below this place.
            content: All of it.

        Raises:
            StorageError: If it cannot be written.
        """
        path = f"{self.path}/{name}"

        def put() -> None:
            if self.is_local:
                with replacing(Path(path), is_shared=True) as temporary:
                    temporary.write_bytes(content)
            else:  # an object appears when it is whole
                self.fs.pipe_file(path, content)

        self.asked(put, f"{self.url}/{name}")

    def remove(self, name: str) -> None:
        """Remove a file inside, if it is there; raises `StorageError` where it cannot be."""

        def drop() -> None:
            try:
                self.fs.rm_file(f"{self.path}/{name}")
            except FileNotFoundError:
                return

        self.asked(drop, f"{self.url}/{name}")

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other jobs of this machine out of a folder on its disk, which is made."""
        if not self.is_local:
            yield
            return
        folder = Path(self.path)

        def make() -> None:
            folder.mkdir(parents=True, exist_ok=True)

        self.asked(make, self.url)
        with holding(folder, folder):
            yield

    def asked(self, ask: Callable[[], T], what: str) -> T:
        """Return what a file system answers, asking again while a store does not answer.

        Args:
            ask: Asks; may be called several times.
            what: What is asked for, for the message.

        Returns:
            What `ask` returned.

        Raises:
            StorageError: If it fails for good, or for longer than the patience.
            DataError: If a file is not there, or may not be read.
        """
        end, pause = time.monotonic() + self.patience_s, FIRST_PAUSE_S
        while True:
            try:
                return ask()
            except self.failures as exc:
                final = _final(exc, what)
                if final is not None or self.is_local:
                    raise final or StorageError(f"{what} failed: {_said(exc)}") from exc
                if time.monotonic() + pause > end:
                    raise StorageError(
                        f"{what} did not answer for {self.patience_s:.0f} s: {_said(exc)}. "
                        "What is written stays; run the same command again when it does."
                    ) from exc
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)

    @property
    def failures(self) -> tuple[type[BaseException], ...]:
        """Classes of errors that its client raises where a store fails."""
        found: list[type[BaseException]] = [OSError]
        for module, names in _CLIENTS.items():
            loaded = sys.modules.get(module)
            found += [getattr(loaded, name) for name in names if hasattr(loaded, name)]
        return tuple(found)


_CLIENTS = {
    "botocore.exceptions": ("BotoCoreError", "ClientError"),
    "aiohttp": ("ClientError",),
    "fsspec.exceptions": ("FSTimeoutError",),
    "gcsfs.retry": ("HttpError",),
}
"""Errors of clients that are no OSError."""

_OF_KEYS = ("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError")
"""Those of botocore that no waiting mends."""


def _protocols(fs: Any) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)


def _version(info: dict[str, Any]) -> str:
    for key in ("ETag", "etag", "md5Hash", "LastModified", "mtime", "updated"):
        if info.get(key):
            return str(info[key]).strip('"')
    return ""


def _said(exc: BaseException) -> str:
    return " ".join(str(exc).split())[:300] or type(exc).__name__


def _final(exc: BaseException, what: str) -> JobError | DataError | None:
    """Return what to raise where asking again cannot help."""
    if isinstance(exc, OSError) and exc.errno in _FULL:
        return StorageError(
            f"{what}: no room is left ({_said(exc)}). What was written before stays; free some "
            "room and run the same command again."
        )
    if isinstance(exc, FileNotFoundError):
        return DataError(f"{what} is not there: {_said(exc)}")
    if isinstance(exc, PermissionError) or type(exc).__name__ in _OF_KEYS:
        return StorageError(f"{what} may not be read or written: {_said(exc)}")
    return None
