"""Writing of safetensors files whose tensors are aligned for kernels that read them in place."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyrank.checkpoint.formats.panels import ALIGNMENT, PANELS_NDIM
from polyrank.checkpoint.header import DTYPES

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
