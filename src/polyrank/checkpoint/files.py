"""Reading of a checkpoint's files: regular ones only, and no more of them than is sane.

A folder comes from anywhere. A name in it may be a pipe that never ends or a link to a device, a
small file may expand to gigabytes, and JSON may hold numbers of thousands of digits or be nested
until Python's stack ends. All of that is refused here, before memory grows.
"""

import gzip
import json
import os
import re
import stat
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from polyrank.errors import CheckpointError, CheckpointNotFoundError

COMPRESSED_SUFFIX = ".gz"
MAX_PLAIN_BYTES = 128 << 20  # the largest tokenizer of this family takes 50 MB
MAX_RATIO = 100  # of gzip data; tokenizers reach 6
MAX_JSON_BYTES = 4 << 20  # of settings; names of 22,000 labels take 1 MB
MAX_DEPTH = 64
MAX_DIGITS = 1000  # of a whole number; Python itself gives up at 4,300
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_GZIP = 31  # zlib's word for a gzip header and the widest window


def is_file(path: Path) -> bool:
    """Return whether there is a file of this name, which then can be read without a hang.

    Args:
        path: The name.

    Returns:
        False where there is nothing.

    Raises:
        CheckpointError: If there is something else than a regular file, or it cannot be looked at.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as exc:
        raise CheckpointError(f"{path} cannot be looked at: {exc}.") from exc
    if not stat.S_ISREG(mode):
        raise CheckpointError(
            f"{path} is no regular file but a {_kind(mode)}, which polyrank does not open. Put the "
            "checkpoint's own file there."
        )
    return True


def _kind(mode: int) -> str:
    names = {
        stat.S_IFDIR: "folder",
        stat.S_IFIFO: "pipe",
        stat.S_IFSOCK: "socket",
        stat.S_IFCHR: "device",
        stat.S_IFBLK: "device",
    }
    return names.get(stat.S_IFMT(mode), "special file")


@contextmanager
def open_file(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file for reading, and close it after.

    Args:
        path: The file.

    Yields:
        The open file.

    Raises:
        CheckpointNotFoundError: If it does not exist.
        CheckpointError: If it is no regular file, or cannot be opened or read.
    """
    if not is_file(path):
        raise CheckpointNotFoundError(
            f"no {path.name} in {path.parent}. A checkpoint folder has the files that the Hub "
            "lists under 'Files and versions'."
        )
    try:
        with path.open("rb") as file:
            yield file
    except OSError as exc:  # whatever the caller reads: a regular file may still fail (/proc)
        raise CheckpointError(f"{path} cannot be read: {exc}.") from exc


def read_file(path: Path, max_bytes: int) -> bytes:
    """Return the bytes of a regular file.

    Args:
        path: The file.
        max_bytes: What it may take at most.

    Returns:
        What it holds.

    Raises:
        CheckpointNotFoundError: If it does not exist.
        CheckpointError: If it is larger, no regular file, or cannot be read.
    """
    with open_file(path) as file:
        # Python takes memory for all that is asked for before it reads
        data = file.read(min(os.fstat(file.fileno()).st_size, max_bytes) + 1)
    if len(data) > max_bytes:
        raise CheckpointError(
            f"{path} takes more than {max_bytes:,} bytes, the most that polyrank reads of such a "
            "file. It is not the checkpoint's own: download it again."
        )
    return data


def read_plain(path: Path) -> bytes:
    """Return the bytes of a file, decompressed where its name ends in .gz.

    Args:
        path: The file.

    Returns:
        What it holds.

    Raises:
        CheckpointNotFoundError: If it does not exist.
        CheckpointError: If it is not whole gzip data, or is or expands to more than is sane.
    """
    data = read_file(path, MAX_PLAIN_BYTES)
    if path.suffix != COMPRESSED_SUFFIX:
        return data
    limit = min(MAX_PLAIN_BYTES, MAX_RATIO * len(data))
    expander = zlib.decompressobj(_GZIP)
    try:
        plain = expander.decompress(data, limit)
    except zlib.error as exc:
        raise CheckpointError(f"{path} is not gzip data: {exc}. Download it again.") from exc
    if not expander.eof:
        raise CheckpointError(
            f"{path} is cut short, or expands beyond {limit:,} bytes. Download it again."
        )
    return plain


def compress_json(content: Any) -> bytes:
    """Return JSON without blanks, as gzip data that depend on the content alone."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return gzip.compress(text.encode("utf8"), mtime=0)


def parse_json(data: bytes, *, is_strict: bool = False) -> Any:
    """Return what JSON holds.

    Args:
        data: JSON in UTF-8.
        is_strict: Whether to refuse what the standard leaves open too: a key that an object holds
            twice, NaN and infinity, and escapes of half a surrogate pair.

    Returns:
        The content, with whole numbers of `MAX_DIGITS` digits and nesting of `MAX_DEPTH` at most.

    Raises:
        ValueError: If it is anything else.
    """
    try:
        content = json.loads(
            data.decode("utf8"),
            parse_int=_strict_integer if is_strict else _integer,
            parse_constant=_refuse_constant if is_strict else None,
            object_pairs_hook=_unique if is_strict else None,
        )
    except RecursionError as exc:
        raise ValueError(f"it is nested more than {MAX_DEPTH} deep") from exc
    _check_depth(content)
    if is_strict and _SURROGATE.search(data):
        json.dumps(content, ensure_ascii=False).encode("utf8")  # half a pair is no text
    return content


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"it holds a number of {len(digits):,} digits")
    return int(digits)


def _strict_integer(digits: str) -> int:
    if digits == "-0":  # a floating-point number to readers that tell numbers apart by their signs
        raise ValueError("it holds -0 as a whole number")
    return _integer(digits)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"it holds {name}, which is no number of JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"it holds the key {key!r:.100} twice")
        found[key] = value
    return found


def _check_depth(content: Any) -> None:
    level: list[Any] = [content]
    for _ in range(MAX_DEPTH):
        level = [inner for value in level for inner in _inner(value)]
        if not level:
            return
    raise ValueError(f"it is nested more than {MAX_DEPTH} deep")


def _inner(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return _containers(value.values())
    return _containers(value) if isinstance(value, list) else ()


def _containers(values: Iterable[Any]) -> Iterator[Any]:
    return (value for value in values if isinstance(value, dict | list))


def read_json(path: Path, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """Return the content of a JSON file, which may be compressed.

    Args:
        path: The file; gzip data where its name ends in .gz.
        max_bytes: What the JSON may take at most.

    Returns:
        What it holds.

    Raises:
        CheckpointNotFoundError: If it does not exist.
        CheckpointError: If it is no JSON in UTF-8, too large, or nested too deep.
    """
    is_compressed = path.suffix == COMPRESSED_SUFFIX
    data = read_plain(path) if is_compressed else read_file(path, max_bytes)
    try:
        return parse_json(data)
    except ValueError as exc:
        raise CheckpointError(f"{path} cannot be read as JSON: {exc}. Download it again.") from exc


def read_object(path: Path, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """Return the content of a JSON file that must hold an object.

    Args:
        path: The file.
        max_bytes: What the JSON may take at most.

    Returns:
        Its keys and values.

    Raises:
        CheckpointError: If it holds something else.
    """
    content = read_json(path, max_bytes)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a JSON object.")
    return content


def read_optional(path: Path) -> dict[str, Any]:
    """Return the object of a JSON file, or an empty one where there is no such file."""
    return read_object(path) if is_file(path) else {}
