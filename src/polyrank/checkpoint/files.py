"""Reading of a checkpoint's JSON files, with errors that name file, key and remedy."""

import gzip
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from polyrank.errors import CheckpointError, CheckpointNotFoundError

COMPRESSED_SUFFIX = ".gz"
MAX_PLAIN_BYTES = 1 << 30  # of a compressed file; the largest tokenizers take 40 MB
_GZIP = 31  # zlib's word for a gzip header and the widest window


def read_plain(path: Path) -> bytes:
    """Return the bytes of a file, decompressed where its name ends in .gz.

    Args:
        path: The file.

    Returns:
        What it holds.

    Raises:
        CheckpointError: If it is not whole gzip data, or expands beyond 1 GiB.
        OSError: If it cannot be read.
    """
    data = path.read_bytes()
    if path.suffix != COMPRESSED_SUFFIX:
        return data
    expander = zlib.decompressobj(_GZIP)
    try:
        plain = expander.decompress(data, MAX_PLAIN_BYTES)
    except zlib.error as exc:
        raise CheckpointError(f"{path} is not gzip data: {exc}. Download it again.") from exc
    if not expander.eof:
        raise CheckpointError(
            f"{path} is cut short, or expands beyond {MAX_PLAIN_BYTES:,} bytes. Download it again."
        )
    return plain


def compress_json(content: Any) -> bytes:
    """Return JSON without blanks, as gzip data that depend on the content alone."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return gzip.compress(text.encode("utf8"), mtime=0)


def read_json(path: Path) -> Any:
    """Return the content of a JSON file, which may be compressed.

    Args:
        path: The file; gzip data where its name ends in .gz.

    Returns:
        What it holds.

    Raises:
        CheckpointNotFoundError: If it does not exist.
        CheckpointError: If it is not JSON in UTF-8.
    """
    try:
        return json.loads(read_plain(path).decode("utf8"))
    except FileNotFoundError as exc:
        raise CheckpointNotFoundError(
            f"no {path.name} in {path.parent}. A checkpoint folder has the files that the Hub "
            "lists under 'Files and versions'."
        ) from exc
    except (ValueError, RecursionError, OSError) as exc:
        raise CheckpointError(f"{path} cannot be read as JSON: {exc}. Download it again.") from exc


def read_object(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file that must hold an object.

    Args:
        path: The file.

    Returns:
        Its keys and values.

    Raises:
        CheckpointError: If it holds something else.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a JSON object.")
    return content


def read_optional(path: Path) -> dict[str, Any]:
    """Return the object of a JSON file, or an empty one where there is no such file."""
    return read_object(path) if path.is_file() else {}


def positive_int(config: Mapping[str, Any], key: str, path: Path) -> int:
    """Return a size that a configuration must hold.

    Args:
        config: Content of the configuration.
        key: Name of the size.
        path: Where the configuration was read, for the message.

    Returns:
        The size, 1 or more.

    Raises:
        CheckpointError: If it is absent or not a whole number of 1 or more.
    """
    if key not in config:
        raise CheckpointError(f"{path} lacks the key {key!r}, which polyrank needs.")
    value = config[key]
    if type(value) is not int or value < 1:
        raise CheckpointError(
            f"{path} says {key!r} is {value!r}; it must be a whole number above 0."
        )
    return value
