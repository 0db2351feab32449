"""What a number of passages costs in each form of storage, at the rates measured on this machine.

Prices are assumptions, printed with the result: nobody's list, but what a month of rented disk,
memory and cores costs to an order of magnitude.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from polyrank.encoder.threads import usable_threads

DIMENSIONS = 384  # of the default model's vectors and rows
TOKENS = 60  # of a passage
TEXT_BYTES = 600  # of a passage with its metadata
DISK_USD, MEMORY_USD, CORE_USD = 0.10, 3.0, 0.04  # a GB and month, a GB and month, a core and hour
_SAMPLE = 20_000  # vectors that the rate of comparing is measured on
_VECTORS = {
    # bytes a value: all, and of them what a search reads
    "float32": (4.0, 4.0),
    "float16": (2.0, 2.0),
    "int8": (1.0, 1.0),
    "int8, half of the dimensions": (0.5, 0.5),
    "binary, rescored by int8": (1.125, 0.125),
}
_ROWS = {"float32": 4.0, "float16": 2.0, "int8": 1.0, "int8, 4 joined into one": 0.25}


def plan_storage(num_passages: int, tokens_per_second: Mapping[str, int]) -> dict[str, Any]:
    """Return bytes, memory, time and money of each choice.

    Args:
        num_passages: How many passages there are.
        tokens_per_second: What this machine reads, by compute dtype; empty where no encoder runs.

    Returns:
        Assumptions, rates and one entry a choice, as plain values.
    """
    rate = compare_rate()
    fastest = max(tokens_per_second.values(), default=0)
    plan: dict[str, Any] = {
        "passages": num_passages,
        "assumed": {
            "dimensions": DIMENSIONS,
            "tokens_a_passage": TOKENS,
            "text_bytes_a_passage": TEXT_BYTES,
            "usd_a_gb_of_disk_and_month": DISK_USD,
            "usd_a_gb_of_memory_and_month": MEMORY_USD,
            "usd_a_core_and_hour": CORE_USD,
        },
        "measured": {"tokens_per_second": fastest, "gb_compared_per_second": round(rate / 1e9, 2)},
    }
    if fastest:
        hours = num_passages * TOKENS / fastest / 3600
        cost = round(hours * usable_threads() * CORE_USD, 2)
        plan["embedding"] = {"hours": round(hours, 2), "usd": cost}
    plan["choices"] = list(_choices(num_passages, rate))
    return plan


def _choices(num_passages: int, rate: float) -> Iterator[dict[str, Any]]:
    for form, (whole, searched) in _VECTORS.items():
        yield _choice(f"vectors: {form}", num_passages, whole, searched, rate)
    for form, size in _ROWS.items():
        # rows lie on the disk beside vectors and are read for the passages that were found
        yield _choice(f"rows beside them: {form}", num_passages, size * TOKENS, 0, rate, text=0)


def _choice(
    form: str, count: int, whole: float, searched: float, rate: float, text: int = TEXT_BYTES
) -> dict[str, Any]:
    size = round(count * (DIMENSIONS * whole + text))
    memory = round(count * DIMENSIONS * searched)
    return {
        "form": form,
        "bytes": size,
        "memory_bytes": memory,
        "ms_a_query_of_all": round(memory / rate * 1000, 1) if memory else None,
        "usd_a_month": round((size * DISK_USD + memory * MEMORY_USD) / 1e9, 2),
    }


def compare_rate() -> float:
    """Return the bytes of vectors that one query is compared with in a second here."""
    vectors = np.ones((_SAMPLE, DIMENSIONS), np.float32)
    query = vectors[0].copy()
    times = []
    for _ in range(7):
        start = time.perf_counter()
        vectors @ query
        times.append(time.perf_counter() - start)
    return vectors.nbytes / min(times)


def storage_lines(plan: Mapping[str, Any]) -> Sequence[Sequence[str]]:
    """Return a plan as the rows of a table, headings first."""
    lines = [("form", "on disk", "in memory", "a query of all", "a month")]
    for choice in plan["choices"]:
        wait = choice["ms_a_query_of_all"]
        lines.append(
            (
                choice["form"],
                f"{choice['bytes'] / 1e9:,.1f} GB",
                f"{choice['memory_bytes'] / 1e9:,.1f} GB",
                "" if wait is None else f"{wait:,.0f} ms",
                f"{choice['usd_a_month']:,.2f} USD",
            )
        )
    return lines
