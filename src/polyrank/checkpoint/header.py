"""The header of a safetensors file, believed only where the safetensors library would believe it.

The header is read here rather than by that library because encoders need the byte offset of each
tensor (ONNX external data points into the file) and because a broken file must be reported with
the tensor's name. Format: an 8-byte little-endian header length, a JSON header
``{name: {dtype, shape, data_offsets}}``, then the data of all tensors end to end.
Reference: https://github.com/huggingface/safetensors (format section of the README).
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from polyrank.checkpoint.files import open_file, parse_json
from polyrank.checkpoint.settings import is_text
from polyrank.errors import CorruptWeightsError

MAX_HEADER_BYTES = 16 << 20  # 100,000 tensors; the safetensors library takes 100 MB
_MAX_COUNT = 2**64 - 1  # what the library counts values and bits in
_LENGTH_BYTES = 8
_METADATA = "__metadata__"

# BF16 has no NumPy dtype; its bits are read as uint16 and widened by hand.
DTYPES: Mapping[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
_OTHER_BITS: Mapping[str, int] = {
    "U64": 64,
    "U32": 32,
    "U16": 16,
    "C64": 64,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "F4": 4,
}
_BITS: Mapping[str, int] = {
    **{name: 8 * dtype.itemsize for name, dtype in DTYPES.items()},
    **_OTHER_BITS,
}
"""Types of the format by their bits: more than polyrank reads, since it may skip the others."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor lies.

    Attributes:
        name: Name in the file.
        dtype: As the file names it, for instance "F32".
        shape: Length of each dimension.
        path: The file.
        offset_bytes: Where its data begin, counted from the start of the file.
        size_bytes: Length of its data.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    offset_bytes: int
    size_bytes: int


def read_header(path: Path) -> dict[str, TensorInfo]:
    """Return where each tensor of a safetensors file lies.

    Args:
        path: The file.

    Returns:
        Tensors by name, in the order of the header. They fill the file end to end.

    Raises:
        CheckpointError: If it is no regular file, or cannot be read.
        CorruptWeightsError: If it is cut short, or its header cannot be trusted.
    """
    with open_file(path) as file:
        file_bytes = os.fstat(file.fileno()).st_size
        header_bytes = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        most = min(MAX_HEADER_BYTES, file_bytes - _LENGTH_BYTES)
        if file_bytes < _LENGTH_BYTES or not 2 <= header_bytes <= most:
            raise CorruptWeightsError(
                f"{path} is not a whole safetensors file: it is {file_bytes:,} bytes long and says "
                f"that its header takes {header_bytes:,}; polyrank reads {MAX_HEADER_BYTES:,} at "
                "most. Download it again."
            )
        raw = file.read(header_bytes)
    header = _parse(path, raw)
    start = _LENGTH_BYTES + header_bytes
    tensors = {
        name: _tensor_info(path, name, entry, start, file_bytes) for name, entry in header.items()
    }
    _check_whole(path, tensors.values(), start, file_bytes)
    return tensors


def _parse(path: Path, raw: bytes) -> dict[str, Any]:
    try:
        if not raw.startswith(b"{"):
            raise ValueError(f"it begins with {raw[:8]!r}")
        header: dict[str, Any] = parse_json(raw, is_strict=True)
        metadata = header.pop(_METADATA, None)
        if metadata is not None and not (
            isinstance(metadata, dict) and all(map(is_text, [*metadata, *metadata.values()]))
        ):
            raise ValueError(f"its {_METADATA} must map texts to texts, not {metadata!r:.100}")
    except ValueError as exc:
        raise CorruptWeightsError(
            f"the header of {path} is not a JSON object: {exc}. Download it again."
        ) from exc
    return header


def _tensor_info(path: Path, name: str, entry: Any, start: int, file_bytes: int) -> TensorInfo:
    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(shape, list) or not isinstance(entry["data_offsets"], list):
            raise TypeError("shape and data_offsets must be lists")
        numbers = [*shape, begin, end]
        if not all(type(number) is int and 0 <= number <= _MAX_COUNT for number in numbers):
            raise ValueError(f"sizes must be whole numbers of 0 or more, seen {numbers!r:.200}")
        if not isinstance(dtype, str) or dtype not in _BITS:
            raise ValueError(f"its type is {dtype!r:.100}, which the format does not have")
    except (KeyError, TypeError, ValueError) as exc:
        raise CorruptWeightsError(
            f"the header of {path} describes tensor {name!r:.200} wrongly: {exc}. "
            "Download it again."
        ) from exc
    if start + end > file_bytes:
        raise CorruptWeightsError(
            f"{path} is cut short: tensor {name!r:.200} ends at byte {start + end:,} of a file of "
            f"{file_bytes:,}. Download it again."
        )
    if 8 * (end - begin) != _num_bits(shape, dtype):
        raise CorruptWeightsError(
            f"the header of {path} contradicts itself: tensor {name!r:.200} of type {dtype} and "
            f"shape {shape!r:.200} cannot take {end - begin:,} bytes. Download it again."
        )
    return TensorInfo(name, dtype, tuple(shape), path, start + begin, end - begin)


def _num_bits(shape: Iterable[int], dtype: str) -> int:
    """Return what the values take, or -1 where the library's counters would run over."""
    product = 1
    for number in (*shape, _BITS[dtype]):
        product *= number
        if product > _MAX_COUNT:
            return -1
    return product


def _check_whole(path: Path, tensors: Iterable[TensorInfo], start: int, file_bytes: int) -> None:
    """Raise unless the tensors lie end to end and fill the file.

    Bytes that two tensors share, or that none owns, are how a file shows one thing to one reader
    and another to the next.
    """
    end = start
    for info in sorted(tensors, key=lambda info: (info.offset_bytes, info.size_bytes)):
        if info.offset_bytes != end:
            what = "overlaps the tensor before it" if info.offset_bytes < end else "leaves a hole"
            raise CorruptWeightsError(
                f"the header of {path} contradicts itself: tensor {info.name!r:.200} {what}, at "
                f"byte {info.offset_bytes:,} instead of {end:,}. Download it again."
            )
        end += info.size_bytes
    if end != file_bytes:
        raise CorruptWeightsError(
            f"{path} holds {file_bytes - end:,} bytes behind its last tensor, which ends at byte "
            f"{end:,}. Download it again."
        )
