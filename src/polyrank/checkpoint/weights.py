"""Memory-mapped reading of safetensors files, single or sharded.

The header is read here rather than by the safetensors library because encoders need the byte
offset of each tensor (ONNX external data points into the file) and because a broken file must
be reported with the tensor's name. Format: an 8-byte little-endian header length, a JSON
header ``{name: {dtype, shape, data_offsets}}``, then the data.
Reference: https://github.com/huggingface/safetensors (format section of the README).
"""

import json
import math
import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyrank.checkpoint.layouts import (
    PICKLE_FILES,
    QUANTIZATION_KEY,
    WEIGHTS_FILE,
    WEIGHTS_INDEX_FILE,
)
from polyrank.errors import (
    CheckpointNotFoundError,
    CorruptWeightsError,
    MissingWeightError,
    UnsafeWeightsError,
)
from polyrank.types import Float32Array, UInt8Array

MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors library

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
FLOAT_DTYPES = ("F64", "F32", "F16", "BF16")
INT8_DTYPES = ("I8",)
UINT8_DTYPES = ("U8",)  # two 4-bit steps a byte, codes, bits


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor lies.

    Attributes:
        name: Name in the file.
        dtype: Safetensors name of the element type.
        shape: Shape of the tensor.
        path: File that holds it.
        offset_bytes: Start of its data, counted from the start of the file.
        size_bytes: Length of its data.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    offset_bytes: int
    size_bytes: int


class Weights:
    """Tensors of a checkpoint folder, read from mapped files when asked for."""

    def __init__(self, tensors: Mapping[str, TensorInfo], folder: Path) -> None:
        self.folder = folder
        self._tensors = dict(tensors)
        self._maps: dict[Path, mmap.mmap] = {}

    @classmethod
    def open(cls, folder: Path) -> "Weights":
        """Open the weights of a folder without reading any tensor.

        Args:
            folder: Folder of a checkpoint or of one of its modules.

        Returns:
            Its tensors.

        Raises:
            CheckpointNotFoundError: If the folder holds no weights.
            UnsafeWeightsError: If it holds only a pickle.
            CorruptWeightsError: If a header cannot be trusted.
            MissingWeightError: If a shard that the index names is absent.
        """
        files = weight_files(folder)
        tensors: dict[str, TensorInfo] = {}
        for path in files:
            tensors.update(read_header(path))
        return cls(tensors, folder)

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    @property
    def paths(self) -> tuple[Path, ...]:
        """Files that hold the tensors."""
        return tuple(dict.fromkeys(info.path for info in self._tensors.values()))

    def is_float(self, name: str) -> bool:
        """Return whether a tensor that is there holds floating-point numbers."""
        return self._tensors[name].dtype in FLOAT_DTYPES

    def info(
        self,
        name: str,
        shape: tuple[int, ...] | None = None,
        dtypes: tuple[str, ...] = FLOAT_DTYPES,
    ) -> TensorInfo:
        """Return where a tensor lies, after checking its shape and type.

        Args:
            name: Name of the tensor.
            shape: Shape it must have, or None to accept any.
            dtypes: Types it may have.

        Returns:
            Its place in the files.

        Raises:
            MissingWeightError: If no file holds it.
            CorruptWeightsError: If its shape or type is not what the configuration needs.
        """
        if name not in self._tensors:
            raise MissingWeightError(
                f"tensor {name!r} is not in {self._where()}. The file may be of another "
                "architecture than config.json says, or saved in part: download it again."
            )
        found = self._tensors[name]
        if found.dtype not in dtypes:
            advice = (
                "Use the checkpoint's unquantised weights."
                if dtypes == FLOAT_DTYPES
                else f"That is what {QUANTIZATION_KEY} in config.json asks for."
            )
            raise CorruptWeightsError(
                f"tensor {name!r} in {found.path} holds {found.dtype} values; polyrank reads "
                f"{', '.join(dtypes)}. {advice}"
            )
        if shape is not None and found.shape != shape:
            raise CorruptWeightsError(
                f"tensor {name!r} in {found.path} has shape {list(found.shape)}, but config.json "
                f"needs {list(shape)}. The two files belong to different checkpoints."
            )
        return found

    def get(self, name: str, shape: tuple[int, ...] | None = None) -> NDArray[Any]:
        """Return a tensor as a read-only view of the mapped file.

        BF16 comes as its bits, dtype uint16; `get_float32` widens it.

        Args:
            name: Name of the tensor.
            shape: Shape it must have, or None to accept any.

        Returns:
            The tensor in its own type, of the shape in the file.
        """
        return self._view(self.info(name, shape))

    def get_int8(self, name: str, shape: tuple[int, ...] | None = None) -> NDArray[np.int8]:
        """Return the steps of an int8 tensor as a read-only view of the mapped file."""
        return self._view(self.info(name, shape, INT8_DTYPES))

    def get_uint8(self, name: str, shape: tuple[int, ...] | None = None) -> UInt8Array:
        """Return a tensor of packed steps, codes or bits as a read-only view of the file."""
        return self._view(self.info(name, shape, UINT8_DTYPES))

    def _view(self, info: TensorInfo) -> NDArray[Any]:
        if info.path not in self._maps:
            with info.path.open("rb") as file:
                self._maps[info.path] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        dtype = DTYPES[info.dtype]
        count = info.size_bytes // dtype.itemsize
        flat = np.frombuffer(self._maps[info.path], dtype, count, info.offset_bytes)
        return flat.reshape(info.shape)

    def get_float32(self, name: str, shape: tuple[int, ...] | None = None) -> Float32Array:
        """Return a tensor as float32: a view where the file holds float32, else a copy."""
        array = self.get(name, shape)
        if self._tensors[name].dtype == "BF16":
            return (array.astype(np.uint32) << 16).view(np.float32)
        return array.astype(np.float32, copy=False)

    def nonfinite(self) -> list[str]:
        """Return the names of floating-point tensors that hold NaN or infinity.

        Reads every weight: meant for explaining a non-finite result, not for the fast path.
        """
        return [
            name
            for name, info in self._tensors.items()
            if info.dtype in FLOAT_DTYPES and not np.isfinite(self.get_float32(name)).all()
        ]

    def _where(self) -> str:
        return ", ".join(str(path) for path in self.paths) or str(self.folder)


def weight_files(folder: Path) -> tuple[Path, ...]:
    """Return the safetensors files of a folder: one, or the shards that its index names.

    Args:
        folder: Folder of a checkpoint or of one of its modules.

    Returns:
        Existing files, in a stable order.

    Raises:
        CheckpointNotFoundError: If the folder holds no weights.
        UnsafeWeightsError: If it holds only a pickle.
        CorruptWeightsError: If the index cannot be read.
        MissingWeightError: If a shard is absent.
    """
    single, index = folder / WEIGHTS_FILE, folder / WEIGHTS_INDEX_FILE
    if single.is_file():
        return (single,)
    if index.is_file():
        return _shards(index)
    for pickle in PICKLE_FILES:
        if (folder / pickle).is_file():
            raise UnsafeWeightsError(_pickle_message(folder, pickle))
    raise CheckpointNotFoundError(
        f"no {WEIGHTS_FILE} or {WEIGHTS_INDEX_FILE} in {folder}. "
        "Download the checkpoint's safetensors weights into it."
    )


def _shards(index: Path) -> tuple[Path, ...]:
    try:
        names = json.loads(index.read_text("utf8"))["weight_map"].values()
        paths = tuple(index.parent / name for name in dict.fromkeys(names))
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise CorruptWeightsError(
            f"{index} is not an index of safetensors shards: {exc!r}. Download it again."
        ) from exc
    for path in paths:
        if path.parent != index.parent:
            raise CorruptWeightsError(f"{index} names a shard outside its folder: {path}")
        if not path.is_file():
            raise MissingWeightError(
                f"{index} names the shard {path.name}, which is not there. Download it again."
            )
    return paths


def _pickle_message(folder: Path, pickle: str) -> str:
    return (
        f"{folder} holds its weights only as {pickle}, a pickle, which can run foreign code when "
        "opened. Convert it once, where you trust it:\n"
        f'  python -c "import torch, safetensors.torch as s; '
        f"w = torch.load('{folder / pickle}', weights_only=True, map_location='cpu'); "
        "s.save_file({k: v.clone().contiguous() for k, v in w.items()}, "
        f"'{folder / WEIGHTS_FILE}', {{'format': 'pt'}})\""
    )


def read_header(path: Path) -> dict[str, TensorInfo]:
    """Return where each tensor of a safetensors file lies.

    Args:
        path: The file.

    Returns:
        Tensors by name, every one inside the file.

    Raises:
        CorruptWeightsError: If the file is cut short, or its header cannot be trusted.
    """
    file_bytes = path.stat().st_size
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        if file_bytes < 8 or not 2 <= header_bytes <= min(MAX_HEADER_BYTES, file_bytes - 8):
            raise CorruptWeightsError(
                f"{path} is not a whole safetensors file: it is {file_bytes:,} bytes long and says "
                f"that its header takes {header_bytes:,}. Download it again."
            )
        raw = file.read(header_bytes)
    try:
        header = dict(json.loads(raw))
    except (ValueError, TypeError, RecursionError) as exc:
        raise CorruptWeightsError(
            f"the header of {path} is not a JSON object: {exc}. Download it again."
        ) from exc
    header.pop("__metadata__", None)
    start = 8 + header_bytes
    return {
        name: _tensor_info(path, name, entry, start, file_bytes) for name, entry in header.items()
    }


def _tensor_info(path: Path, name: str, entry: Any, start: int, file_bytes: int) -> TensorInfo:
    try:
        dtype, shape = str(entry["dtype"]), tuple(entry["shape"])
        begin, end = entry["data_offsets"]
        numbers = [*shape, begin, end]
        if not all(type(number) is int and number >= 0 for number in numbers):
            raise ValueError(f"sizes must be whole numbers of 0 or more, seen {numbers}")
    except (KeyError, TypeError, ValueError) as exc:
        raise CorruptWeightsError(
            f"the header of {path} describes tensor {name!r} wrongly: {exc}. Download it again."
        ) from exc
    if start + end > file_bytes:
        raise CorruptWeightsError(
            f"{path} is cut short: tensor {name!r} ends at byte {start + end:,} of a file of "
            f"{file_bytes:,}. Download it again."
        )
    if dtype in DTYPES and end - begin != math.prod(shape) * DTYPES[dtype].itemsize:
        raise CorruptWeightsError(
            f"the header of {path} contradicts itself: tensor {name!r} of type {dtype} and shape "
            f"{list(shape)} cannot take {end - begin:,} bytes. Download it again."
        )
    return TensorInfo(name, dtype, shape, path, start + begin, end - begin)
