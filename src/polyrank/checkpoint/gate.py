"""The record of the quality gate: whether int8 was measured on these weights and held up.

`polyrank compress quantize` writes it; serving reads only whether it passed and whether the
weights are still the ones it speaks of.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from polyrank.checkpoint.files import read_optional
from polyrank.checkpoint.layouts import GATE_FILE
from polyrank.checkpoint.weights import Weights, read_header
from polyrank.errors import CheckpointError

NUM_BLOCKS = 16  # of each tensor
BLOCK_BYTES = 4096


@dataclass(frozen=True, slots=True)
class GateStatus:
    """What the gate's record says of a folder's weights.

    Attributes:
        passed: Whether int8 passed on these very weights.
        reason: Why or why not, in words.
        figures: Content of the record; empty without one.
    """

    passed: bool
    reason: str
    figures: Mapping[str, Any] = field(default_factory=dict)


def read_gate(folder: Path, weights: Weights) -> GateStatus:
    """Return what the record in a folder says of its weights.

    Args:
        folder: The checkpoint's folder.
        weights: The tensors of its body.

    Returns:
        The status; not passed where there is no record, or it speaks of other weights.

    Raises:
        CheckpointError: If there is a record that cannot be read.
    """
    path = folder / GATE_FILE
    record = read_optional(path)
    if not record:
        return GateStatus(False, "the folder has no record of a quality gate for int8")
    passed, expected = record.get("passed"), record.get("weights_sha256")
    if not isinstance(passed, bool) or not isinstance(expected, str):
        raise CheckpointError(
            f"{path} must hold passed (true or false) and weights_sha256 (a text). Delete it, "
            "or write it anew with `polyrank compress quantize`."
        )
    _check_tasks(record, path)
    if expected != fingerprint(weights.paths):
        reason = f"{GATE_FILE} speaks of other weights than the folder holds"
        return GateStatus(False, reason, record)
    verdict = "passed" if passed else "failed"
    return GateStatus(passed, f"int8 {verdict} its quality gate{_summary(record)}", record)


def _check_tasks(record: Mapping[str, Any], path: Path) -> None:
    tasks = record.get("tasks", [])
    if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
        raise CheckpointError(f"{path} must hold a list of figures as tasks, not {tasks!r:.100}.")


def _summary(record: Mapping[str, Any]) -> str:
    words = [str(record[key]) for key in ("dataset", "created") if record.get(key)]
    return f" ({', '.join(words)})" if words else ""


def fingerprint(paths: Iterable[Path]) -> str:
    """Return a SHA-256 by which weight files are told apart, in milliseconds.

    It covers each file's header and 64 KiB of every tensor: the whole of a small one, such as
    those of the heads, in which models with one body differ, and 16 blocks spread over a larger
    one. Another training run, precision or architecture changes it. It does not protect against
    tampering.

    Args:
        paths: Safetensors files.

    Returns:
        64 hexadecimal digits.

    Raises:
        CorruptWeightsError: If a header cannot be trusted.
    """
    digest = hashlib.sha256()
    for path in paths:
        tensors = read_header(path).values()
        with path.open("rb") as file:
            length = file.read(8)
            digest.update(length + file.read(int.from_bytes(length, "little")))
            for info in tensors:
                for start, size in _blocks(info.size_bytes):
                    file.seek(info.offset_bytes + start)
                    digest.update(file.read(size))
    return digest.hexdigest()


def _blocks(size_bytes: int) -> Iterator[tuple[int, int]]:
    """Yield start and length of what is hashed of a tensor."""
    if size_bytes <= NUM_BLOCKS * BLOCK_BYTES:
        yield 0, size_bytes
        return
    room = size_bytes - BLOCK_BYTES
    for block in range(NUM_BLOCKS):
        yield room * block // (NUM_BLOCKS - 1), BLOCK_BYTES
