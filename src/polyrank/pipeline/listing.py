"""Which files there are: folders walked in order, links to folders not followed."""

import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from polyrank.errors import DataError

_SETTLED_NS = 2_000_000_000  # the coarsest step of times that a file system has


@dataclass(frozen=True, slots=True)
class Signature:
    """What tells that a file has changed, without reading it.

    Attributes:
        size: Its bytes.
        modified_ns: When its content was changed.
        changed_ns: When its entry was changed, which no program can set back.
        inode: Its number on its disk.
    """

    size: int
    modified_ns: int
    changed_ns: int
    inode: int

    @staticmethod
    def of(status: os.stat_result) -> "Signature":
        """Return the signature in what the system says of a file."""
        return Signature(
            status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino % (1 << 63)
        )

    def settled(self, now_ns: int) -> "Signature | None":
        """Return the signature, or None where a later change might not show in it."""
        latest = max(self.modified_ns, self.changed_ns)
        return self if now_ns - latest >= _SETTLED_NS else None


@dataclass(frozen=True, slots=True)
class Remark:
    """Why a file is not in the store, or not as it is now.

    Attributes:
        path: The file.
        reason: In words.
    """

    path: str
    reason: str


@dataclass(slots=True)
class Listing:
    """What was found.

    Attributes:
        files: Signatures by absolute path.
        roots: Folders that were walked; what was known beneath them and is not in `files` is gone.
        unread: Folders and files below them of which nothing is known: not gone, but unreadable.
        skipped: What is passed over on purpose.
        failed: What could not be looked at.
    """

    files: dict[str, Signature] = field(default_factory=dict)
    roots: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    skipped: list[Remark] = field(default_factory=list)
    failed: list[Remark] = field(default_factory=list)

    def is_gone(self, path: str) -> bool:
        """Return whether a file that was known is not there any more."""
        return (
            path not in self.files
            and (path in self.roots or any(_is_below(path, root) for root in self.roots))
            and not any(path == each or _is_below(path, each) for each in self.unread)
        )


def list_files(places: Iterable[str | os.PathLike[str]], left_out: Sequence[str] = ()) -> Listing:
    """Find the files in some places.

    Hidden files and folders, links to folders, and what is no regular file are passed over, with
    a remark but for the hidden ones. A place that is named itself is taken in any case.

    Args:
        places: Folders and files.
        left_out: Absolute paths of files and folders that are none of the user's.

    Returns:
        What is there, in order.

    Raises:
        DataError: If a place is not there.
    """
    listing = Listing()
    for place in places:
        path = os.path.abspath(place)
        listing.roots.append(path)
        if os.path.isdir(path):
            _walk(path, listing, left_out)
        elif os.path.lexists(path):
            _add(path, listing)
        else:
            raise DataError(f"{os.fspath(place)}: no such file or folder")
    listing.files = dict(sorted(listing.files.items()))
    return listing


def _walk(root: str, listing: Listing, left_out: Sequence[str]) -> None:
    def note(error: OSError) -> None:
        path = str(error.filename)
        listing.unread.append(path)
        listing.failed.append(Remark(_shown(path), error.strerror or str(error)))

    for folder, folders, files in os.walk(root, onerror=note):
        kept = []
        for name in sorted(folders):
            path = os.path.join(folder, name)
            if name.startswith(".") or path in left_out:
                continue
            if os.path.islink(path):
                listing.skipped.append(Remark(_shown(path), "a link to a folder"))
            else:
                kept.append(name)
        folders[:] = kept
        for name in sorted(files):
            path = os.path.join(folder, name)
            if not name.startswith(".") and path not in left_out:
                _add(path, listing)


def _add(path: str, listing: Listing) -> None:
    if path != _shown(path):
        listing.failed.append(Remark(_shown(path), "its name is not UTF-8; rename it"))
        return
    try:
        status = os.stat(path)
    except OSError as exc:
        listing.failed.append(Remark(path, exc.strerror or str(exc)))
        if not isinstance(exc, FileNotFoundError):
            listing.unread.append(path)
        return
    if stat.S_ISREG(status.st_mode):
        listing.files[path] = Signature.of(status)
    else:
        listing.skipped.append(Remark(path, "no regular file"))


def _shown(path: str) -> str:
    """Return a path with what is not UTF-8 in it replaced."""
    return os.fsencode(path).decode("utf8", "replace")


def _is_below(path: str, root: str) -> bool:
    return Path(root) in Path(path).parents
