"""Writing of files and folders that are either whole or not there.

What is written grows beside its place, in a file or folder whose name begins with a dot and holds
the number of the process, and is renamed when it is whole and on the disk. While it grows it is
locked: a second writer of the same place is told who holds it, and what a killed writer left,
which nobody locks, is removed by the next one.
"""

import errno
import os
import shutil
import stat
import sys
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from polyrank.errors import ConfigError

if sys.platform != "win32":
    import fcntl

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""Failures of a disk, which Python raises without the name of the file."""


_unfinished: set[Path] = set()
"""Temporary files and folders of this process."""


def remove_unfinished() -> None:
    """Remove what this process has not finished, before it ends without cleaning up."""
    for path in list(_unfinished):
        with suppress(OSError):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextmanager
def replacing(path: Path, *, is_shared: bool = False) -> Iterator[Path]:
    """Give a temporary path that takes the place of `path` when the block ends well.

    After an error, Ctrl-C or a kill, `path` is what it was before. A link stays a link: what it
    names is replaced. What is no regular file (a device, a FIFO) is written to as it is.

    Args:
        path: File to write; its folder is made if need be.
        is_shared: Whether several processes may write it at a time, as the files of a cache: the
            last one stays.

    Yields:
        Path of the temporary file in the same folder, or `path` itself where it is no regular file.

    Raises:
        ConfigError: If another process is writing the file.
        OSError: If it cannot be written; its `filename` is `path`.
    """
    mode = path.stat().st_mode if path.exists() else None
    if mode is not None and not stat.S_ISREG(mode):
        with _named(path, path):
            yield path
        return
    target = Path(os.path.realpath(path))
    with _named(path, target):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary, handle = _claim(target, is_folder=False, is_shared=is_shared)
    try:
        with _named(path, temporary):
            yield temporary
            temporary.chmod(0o666 & ~_umask() if mode is None else stat.S_IMODE(mode))
            _sync(temporary)
            temporary.replace(target)
            _sync(target.parent)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()
        _unfinished.discard(temporary)
        os.close(handle)


@contextmanager
def building(output: Path) -> Iterator[Path]:
    """Give a folder beside `output` that is gone at the end, unless `publish` renamed it.

    Args:
        output: The folder to make; its parent is made if need be.

    Yields:
        An empty folder in the same parent.

    Raises:
        ConfigError: If another process is making the folder.
        OSError: If it cannot be written.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    with _named(output, output):
        folder, handle = _claim(output, is_folder=True, is_shared=False)
    try:
        with _named(output, folder):
            folder.chmod(output.parent.stat().st_mode & 0o777)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _unfinished.discard(folder)
        os.close(handle)


def publish(folder: Path, output: Path) -> None:
    """Give a folder that is whole its name, after all of it is on the disk.

    Args:
        folder: What `building` gave.
        output: Its name from now on. A folder that has it already is removed.
    """
    for path in (*folder.rglob("*"), folder):
        if not path.is_symlink():
            _sync(path)
    if output.is_dir():
        older = Path(tempfile.mkdtemp(prefix=f"{folder.name[:60]}-", dir=output.parent))
        output.replace(older)
        folder.rename(output)
        shutil.rmtree(older)
    else:
        folder.rename(output)
    _sync(output.parent)


@contextmanager
def holding(folder: Path, what: Path) -> Iterator[None]:
    """Keep other processes out of a folder in which work goes on.

    Args:
        folder: The folder, which is there.
        what: What is worked on, for the message.

    Yields:
        Nothing.

    Raises:
        ConfigError: If another process works there.
    """
    path = folder / ".lock"
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if not _lock(handle):
            raise _held(what, os.read(handle, 20).decode("ascii", "replace"))
        os.ftruncate(handle, 0)
        os.write(handle, str(os.getpid()).encode())
        yield
    finally:
        os.close(handle)


@contextmanager
def _named(path: Path, temporary: Path) -> Iterator[None]:
    """Let errors of the system name the file that was asked for, not none or the temporary one."""
    try:
        yield
    except OSError as exc:
        is_ours = exc.filename == str(temporary) or (exc.filename or "").startswith(
            str(path.parent / f".{_stem(path)}")
        )
        if is_ours or (exc.filename is None and exc.errno in _NO_ROOM):
            raise OSError(exc.errno, exc.strerror or str(exc), str(path)) from exc
        raise


def _stem(path: Path) -> str:
    """Return how the names of temporary files of a path begin, after their dot."""
    return f"{path.name[:40]}-{zlib.crc32(os.fsencode(path.name)):08x}-"


def _claim(path: Path, *, is_folder: bool, is_shared: bool) -> tuple[Path, int]:
    """Make and lock the temporary file or folder of a path; remove what killed writers left."""
    prefix, suffix = f".{_stem(path)}{os.getpid()}-", f".part{path.suffix[:20]}"
    while True:
        if is_folder:
            made = Path(tempfile.mkdtemp(prefix=prefix, suffix=".part", dir=path.parent))
            handle = os.open(made, os.O_RDONLY)
        else:
            handle, name = tempfile.mkstemp(prefix=prefix, suffix=suffix, dir=path.parent)
            made = Path(name)
        _lock(handle)
        # between its making and its lock another writer may have taken it for a leftover
        if made.exists():
            break
        os.close(handle)
    try:
        for other in path.parent.glob(f".{_escaped(_stem(path))}*.part*"):
            if other != made and not _remove_leftover(other) and not is_shared:
                raise _held(path, other.name.removeprefix(f".{_stem(path)}").partition("-")[0])
    except BaseException:
        (made.rmdir if is_folder else made.unlink)()
        os.close(handle)
        raise
    _unfinished.add(made)
    return made, handle


def _escaped(name: str) -> str:
    return "".join(f"[{char}]" if char in "*?[" else char for char in name)


def _remove_leftover(path: Path) -> bool:
    """Remove what nobody locks; return whether nobody did."""
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    except FileNotFoundError:
        return True
    except OSError:
        return True  # of another user, or no file of ours: not ours to remove
    try:
        if not _lock(handle):
            return False
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink()
        return True
    finally:
        os.close(handle)


def _held(path: Path, pid: str) -> ConfigError:
    return ConfigError(
        f"{path} is being written by another process (number {pid or 'unknown'}). Wait until it is "
        "done, end it, or choose another output."
    )


def _lock(handle: int) -> bool:
    """Lock a file for as long as it is open; return False if another holds it."""
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _sync(path: Path) -> None:
    """Wait until a file or the names in a folder are on the disk."""
    if sys.platform == "win32":  # has no handles of folders, and syncs no read-only ones
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as exc:
        if exc.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that cannot
            raise
    finally:
        os.close(handle)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
