"""Writing of safetensors files: aligned for kernels that map them, or copied as they lie."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from polyrank._files import replacing
from polyrank.checkpoint.formats.panels import ALIGNMENT, PANELS_NDIM
from polyrank.checkpoint.header import DTYPES, TensorInfo

_BLOCK_BYTES = 1 << 22
_HEADER_ALIGNMENT = 8  # as the format asks
_NAMES = {dtype: name for name, dtype in DTYPES.items() if name != "BF16"}


def save_aligned(tensors: Mapping[str, NDArray[Any]], path: Path) -> None:
    """Write tensors as safetensors, those of four dimensions first and each on a cache line.

    The header is filled up with blanks, as the format allows; no hole is left between tensors.

    Args:
        tensors: By name. The bytes of a panelled tensor are a multiple of 64.
        path: File to write.
    """
    ordered = sorted(
        tensors.items(), key=lambda item: (item[1].ndim != PANELS_NDIM, -item[1].itemsize, item[0])
    )
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in ordered:
        start, end = end, end + tensor.nbytes
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for _, tensor in ordered:
            file.write(np.ascontiguousarray(tensor).data)


@dataclass(frozen=True, slots=True)
class CopiedTensor:
    """A tensor that is written as it lies in a file, under any name.

    Attributes:
        name: Its new name.
        dtype: As the format calls it.
        shape: Its shape.
        size_bytes: Of all blocks.
        blocks: Gives its bytes, block by block.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    size_bytes: int
    blocks: Callable[[], Iterator[bytes]]

    @classmethod
    def of(cls, info: TensorInfo, name: str | None = None) -> "CopiedTensor":
        """Return a tensor of a file as it is, under its own name or another."""
        return cls(
            name or info.name, info.dtype, info.shape, info.size_bytes, partial(_blocks, info)
        )


def copy_tensors(tensors: Sequence[CopiedTensor], path: Path) -> None:
    """Write tensors into one safetensors file, block by block, never widened or gathered whole.

    Args:
        tensors: In the order in which they will lie.
        path: The file; it appears whole or not at all.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        offsets = [end, end + tensor.size_bytes]
        header[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": tensor.shape,
            "data_offsets": offsets,
        }
        end += tensor.size_bytes
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % _HEADER_ALIGNMENT)
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        for tensor in tensors:
            file.writelines(tensor.blocks())


def _blocks(info: TensorInfo) -> Iterator[bytes]:
    """Yield the bytes of a tensor."""
    with info.path.open("rb") as file:
        file.seek(info.offset_bytes)
        yield from _read(file, info.size_bytes)


def _read(file: IO[bytes], size: int) -> Iterator[bytes]:
    while size > 0 and (block := file.read(min(size, _BLOCK_BYTES))):
        size -= len(block)
        yield block
