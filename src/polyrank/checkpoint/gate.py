"""The record of the quality gate: whether int8 was measured on these weights and held up.

`polyrank compress quantize` writes it; serving reads only whether it passed and whether weights,
settings and tokenizer are still the ones it speaks of.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from polyrank.checkpoint.files import open_file
from polyrank.checkpoint.header import read_header
from polyrank.checkpoint.layouts import GATE_FILE
from polyrank.checkpoint.modules import Modules
from polyrank.checkpoint.settings import Settings
from polyrank.checkpoint.state import settings_fingerprint
from polyrank.checkpoint.weights import Weights
from polyrank.errors import CheckpointError

NUM_BLOCKS = 16  # of each tensor
BLOCK_BYTES = 4096
MAX_TASKS = 1000  # of which a record has figures


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


def read_gate(folder: Path, weights: Weights, tokenizer_file: Path) -> GateStatus:
    """Return what the record in a folder says of its weights and settings.

    Args:
        folder: The checkpoint's folder.
        weights: The tensors of its body.
        tokenizer_file: Its tokenizer.

    Returns:
        The status; not passed where there is no record, or it speaks of other weights, settings or
        another tokenizer.

    Raises:
        CheckpointError: If there is a record that cannot be read.
    """
    path = folder / GATE_FILE
    record = Settings.read_optional(path)
    figures = record.content
    if not figures:
        return GateStatus(False, "the folder has no record of a quality gate for int8")
    if "passed" not in record or "weights_sha256" not in record:
        raise _unreadable(path, "it must hold passed (true or false) and weights_sha256 (a text)")
    try:
        passed, of_weights = record.flag("passed", default=False), record.text("weights_sha256")
        of_settings = record.text("settings_sha256")
        record.mappings("tasks", MAX_TASKS)
    except CheckpointError as exc:
        raise _unreadable(path, str(exc)) from exc
    if of_weights != fingerprint(weights.paths):
        reason = f"{GATE_FILE} speaks of other weights than the folder holds"
        return GateStatus(False, reason, figures)
    if of_settings != settings_fingerprint(Modules(folder), tokenizer_file):
        reason = f"{GATE_FILE} speaks of other settings, or another tokenizer, than the folder has"
        return GateStatus(False, reason, figures)
    verdict = "passed" if passed else "failed"
    return GateStatus(passed, f"int8 {verdict} its quality gate{_summary(figures)}", figures)


def _unreadable(path: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"{path} cannot be used: {what}. Delete it, or write it anew with "
        "`polyrank compress quantize`."
    )


def _summary(record: Mapping[str, Any]) -> str:
    words = [f"{record[key]!s:.200}" for key in ("dataset", "created") if record.get(key)]
    return f" ({', '.join(words)})" if words else ""


def fingerprint(paths: Iterable[Path]) -> str:
    """Return a SHA-256 by which weight files are told apart, in milliseconds.

    It covers each file's header and 64 KiB of every tensor: the whole of a small one, such as
    those of the heads, in which models with one body differ, and 16 blocks spread over a larger
    one. Another training run, compute dtype or architecture changes it. It does not protect against
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
        with open_file(path) as file:
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
