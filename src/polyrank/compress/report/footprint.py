"""What a checkpoint takes: bytes on disk, memory, time to load and time a document.

Memory of a process tells nothing of one model among several, so each is measured in a process of
its own: this module, run with settings on standard input, prints what it found.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polyrank.errors import EncoderError, PolyrankError

QUERY = "How long do cats live?"
DOCUMENT = (
    "Cats that live indoors reach an age of twelve to eighteen years, and some live into their "
    "twenties. Those that roam outside meet cars, dogs and illness, and seldom grow as old. What "
    "they eat matters, and so does whether somebody takes them to be looked at once a year. Teeth "
    "and kidneys fail first. An old cat sleeps more, drinks more, climbs less and wants its food "
    "warm. Nobody knows for certain how old the oldest one was. "
)
"""About 100 tokens."""
NUM_DOCUMENTS = 32
_ROUNDS = 5
_LONGEST_S = 20.0  # slow models are timed in fewer rounds, one at least


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a checkpoint takes.

    Attributes:
        disk_bytes: All files of its folder.
        load_s: Seconds from nothing loaded to its first result.
        peak_bytes: Most memory of the process, mapped files included; None where the system does
            not say.
        own_bytes: Memory that is no file's: what more processes would take again; None likewise.
        document_s: Seconds a document of a ranking of many, the median of several rounds.
    """

    disk_bytes: int
    load_s: float
    peak_bytes: int | None
    own_bytes: int | None
    document_s: float


def measure_footprint(
    folder: Path, settings: Mapping[str, Any], documents: Sequence[str] = ()
) -> Footprint:
    """Load a checkpoint in a process of its own and rank some documents with it.

    Args:
        folder: The checkpoint.
        settings: Of `Reranker`: encoder, threads and so on.
        documents: What is ranked; none takes a text of about 100 tokens, many times.

    Returns:
        The figures.

    Raises:
        EncoderError: If it cannot be loaded or run.
    """
    asked = {"folder": str(folder), "settings": dict(settings), "documents": list(documents)}
    done = subprocess.run(  # noqa: S603 - this program itself
        [sys.executable, "-m", __name__],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"the process ended with {done.returncode}"]
        raise EncoderError(f"{folder} could not be measured: {lines[-1]:.300}")
    return Footprint(disk_bytes(folder), **json.loads(done.stdout))


def disk_bytes(folder: Path) -> int:
    """Return the bytes of all files in a folder; those that are linked count once, as files do."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _measure(folder: str, settings: Mapping[str, Any], documents: Sequence[str]) -> dict[str, Any]:
    """Return what this process finds, loading included: import nothing of it before."""
    begin = time.perf_counter()
    from polyrank.inference.reranker import Reranker

    reranker = Reranker(folder, **settings)
    reranker.score([(QUERY, DOCUMENT)])
    load_s = time.perf_counter() - begin
    pairs = [(QUERY, text) for text in documents or [DOCUMENT] * NUM_DOCUMENTS]
    # texts that are alike run once where they are read apart: each gets a beginning of its own
    pairs = [(query, f"{i}. {text}") for i, (query, text) in enumerate(pairs)]
    reranker.score(pairs)
    rounds: list[float] = []
    while not rounds or (len(rounds) < _ROUNDS and sum(rounds) < _LONGEST_S):
        start = time.perf_counter()
        reranker.score(pairs)
        rounds.append(time.perf_counter() - start)
    peak, own = _memory()
    return {
        "load_s": load_s,
        "peak_bytes": peak,
        "own_bytes": own,
        "document_s": statistics.median(rounds) / len(pairs),
    }


def _memory() -> tuple[int | None, int | None]:
    """Return the most memory that this process had, and what of today's is no file's."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return None, None
    fields = dict(line.partition(":")[::2] for line in status.splitlines())
    return _kilobytes(fields.get("VmHWM")), _kilobytes(fields.get("RssAnon"))


def _kilobytes(text: str | None) -> int | None:
    return None if text is None else int(text.split()[0]) * 1024


def main() -> None:
    """Measure what standard input asks for, and print it."""
    asked = json.load(sys.stdin)
    # remarks of libraries must not get between the figures
    printed, sys.stdout = sys.stdout, open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    try:
        found = _measure(asked["folder"], asked["settings"], asked["documents"])
    except PolyrankError as exc:
        sys.exit(" ".join(str(exc).split()))
    printed.write(json.dumps(found))


if __name__ == "__main__":
    main()
