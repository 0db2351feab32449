"""From what was measured to a billion passages: hours, money, storage, and what holds things up."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PASSAGES = (10**6, 10**8, 10**9)
TOKENS = 150  # of a passage, special tokens and prompt included
DIMENSIONS = 384
PRICE_PER_HOUR = 0.10  # of two cores, in dollars; a spot price of 2026
WORKERS = (1, 8, 64, 512)
TEXT_BYTES = 600  # of a passage, that pass through
PARTITION_ROWS = 8192
BYTES = {"float32": 4, "float16": 2, "int8": 1}
# what one driver and one store do, where nothing else is known
RECORDS_PER_S = 16 / 0.03  # that a run which goes on reads: 16 at a time, 30 ms each
VERIFIED_BYTES_PER_S = 16 * 60e6  # that it reads back to compare hashes


@dataclass(frozen=True, slots=True)
class Growth:
    """What a job takes.

    Attributes:
        hours: Of one worker.
        dollars: For all of them.
        partitions: Files of the output.
        storage: Bytes of vectors, by dtype.
        resume_s: Until a job that is nearly done goes on, hashes compared.
    """

    hours: float
    dollars: float
    partitions: int
    storage: Mapping[str, float]
    resume_s: float


def grown(passages: int, tokens_per_s: float) -> Growth:
    """Return what so many passages take at a speed that was measured."""
    hours = passages * TOKENS / tokens_per_s / 3600
    partitions = -(-passages // PARTITION_ROWS)
    storage = {name: passages * DIMENSIONS * size for name, size in BYTES.items()}
    whole = storage["float32"] + passages * TEXT_BYTES
    resume = partitions / RECORDS_PER_S + whole / VERIFIED_BYTES_PER_S
    return Growth(hours, hours * PRICE_PER_HOUR, partitions, storage, resume)


def table(speeds: Mapping[str, float]) -> list[str]:
    """Return the model as a page's section.

    Args:
        speeds: Tokens a second of two cores, by where they were measured.

    Returns:
        Lines.
    """
    rows = [
        "## Growth\n",
        f"Passages of {TOKENS} tokens, two cores a worker at {PRICE_PER_HOUR:.2f} $/h; "
        "the model's assumptions are in the manual's page on scale.\n",
        "| passages | speed of a worker | worker-hours | $ | on 8, 64, 512 workers | vectors in "
        "float32, float16, int8 | partitions | until a run goes on |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for passages in PASSAGES:
        for name, speed in speeds.items():
            found = grown(passages, speed)
            spread = ", ".join(_time(found.hours / n) for n in WORKERS[1:])
            storage = ", ".join(_size(size) for size in found.storage.values())
            rows.append(
                f"| {passages:,} | {speed:,.0f} tokens/s ({name}) | {found.hours:,.1f} | "
                f"{found.dollars:,.2f} | {spread} | {storage} | {found.partitions:,} | "
                f"{_time(found.resume_s / 3600)} |"
            )
    return [*rows, ""]


def _time(hours: float) -> str:
    if hours >= 1:
        return f"{hours:,.1f} h"
    return f"{hours * 60:,.1f} min" if hours * 60 >= 1 else f"{hours * 3600:,.1f} s"


def _size(size: float) -> str:
    return f"{size / 1e12:,.2f} TB" if size >= 1e11 else f"{size / 1e9:,.1f} GB"


def speeds(known: Mapping[str, Any]) -> dict[str, float]:
    """Return the speeds that growth goes by: measured here, and published of other processors."""
    own = known["embed"]
    kernels = known["machine"]["kernels"]
    found = {f"{kernels}, measured here": own["tokens"] / own["job_s"]}
    return {**found, "AMX, results of the engines": 34_000.0} if kernels != "amx" else found
