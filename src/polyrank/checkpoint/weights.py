"""Memory-mapped reading of the tensors of safetensors files, single or sharded."""

import mmap
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyrank.checkpoint.files import is_file, open_file
from polyrank.checkpoint.header import DTYPES, TensorInfo, read_header
from polyrank.checkpoint.layouts import (
    PICKLE_FILES,
    QUANTIZATION_KEY,
    WEIGHTS_FILE,
    WEIGHTS_INDEX_FILE,
)
from polyrank.checkpoint.settings import Settings
from polyrank.errors import (
    CheckpointError,
    CheckpointNotFoundError,
    CorruptWeightsError,
    MissingWeightError,
    UnsafeWeightsError,
)
from polyrank.types import Float32Array, UInt8Array

MAX_SHARDS = 1024
FLOAT_DTYPES = ("F64", "F32", "F16", "BF16")
INT8_DTYPES = ("I8",)
UINT8_DTYPES = ("U8",)  # two 4-bit steps a byte, codes, bits


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
            found = read_header(path)
            twice = next((name for name in found if name in tensors), None)
            if twice is not None:
                raise CorruptWeightsError(
                    f"tensor {twice!r:.200} is in {tensors[twice].path.name} and again in {path}. "
                    "The shards belong to different checkpoints."
                )
            tensors.update(found)
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

    def missing(self, name: str) -> MissingWeightError:
        """Return the error of a tensor that is not there, to be raised."""
        return MissingWeightError(
            f"tensor {name!r:.200} is not in {self._where()}. The file may be of another "
            "architecture than config.json says, or saved in part: download it again."
        )

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
            raise self.missing(name)
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
            self._maps[info.path] = self._map(info.path)
        dtype = DTYPES[info.dtype]
        count = info.size_bytes // dtype.itemsize
        flat = np.frombuffer(self._maps[info.path], dtype, count, info.offset_bytes)
        return flat.reshape(info.shape)

    def _map(self, path: Path) -> mmap.mmap:
        end = max(
            info.offset_bytes + info.size_bytes
            for info in self._tensors.values()
            if info.path == path
        )
        try:
            with open_file(path) as file:
                # the header was read before: a file put in its place since has other offsets
                if os.fstat(file.fileno()).st_size != end:
                    raise CorruptWeightsError(
                        f"{path} was replaced while it was being loaded. Load the model again."
                    )
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError as exc:  # nothing to map
            raise CheckpointError(f"{path} cannot be mapped: {exc}.") from exc

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
    if is_file(single):
        return (single,)
    if is_file(index):
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
        weight_map = Settings.read(index).mapping("weight_map")
        names = dict.fromkeys(weight_map.needed_text(tensor) for tensor in weight_map)
    except CheckpointError as exc:
        raise CorruptWeightsError(
            f"{index} is not an index of safetensors shards: {exc} Download it again."
        ) from exc
    if not 0 < len(names) <= MAX_SHARDS:
        raise CorruptWeightsError(
            f"{index} is not an index of safetensors shards: it names {len(names):,} of them; "
            f"polyrank reads 1 to {MAX_SHARDS:,}. Download it again."
        )
    return tuple(_shard(index, name) for name in names)


def _shard(index: Path, name: str) -> Path:
    path = index.parent / name
    if path.parent != index.parent or not name.isprintable():
        raise CorruptWeightsError(f"{index} names a shard outside its folder: {name!r:.200}")
    if not is_file(path):
        raise MissingWeightError(
            f"{index} names the shard {path.name:.200}, which is not there. Download it again."
        )
    return path


def _pickle_message(folder: Path, pickle: str) -> str:
    return (
        f"{folder} holds its weights only as {pickle}, a pickle, which can run foreign code when "
        "opened. Convert it once, where you trust it:\n"
        f'  python -c "import torch, safetensors.torch as s; '
        f"w = torch.load('{folder / pickle}', weights_only=True, map_location='cpu'); "
        "s.save_file({k: v.clone().contiguous() for k, v in w.items()}, "
        f"'{folder / WEIGHTS_FILE}', {{'format': 'pt'}})\""
    )
