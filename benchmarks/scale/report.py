"""The page of results/scale.json, for people."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

from benchmarks.scale import growth

Figures = Mapping[str, Any]
NAMES = {
    "embed": "`polyrank bulk embed`, one process",
    "rerank": "`polyrank bulk rerank`, one process",
    "ray_1": "`--ray local`, 1 worker of one thread",
    "ray_2": "`--ray local`, 2 workers of one thread",
}
ENGINES = {"embed": "engine_embed", "rerank": "engine_rerank"}


def write_report(path: Path) -> None:
    """Write scale.md beside a file of figures."""
    known = json.loads(path.read_text())
    machine = known["machine"]
    parts = [
        "# Bulk jobs beside the bare engine\n",
        f"`make bench-scale` on {machine['cores']} cores of {machine['cpu']} "
        f"(kernels: {machine['kernels']}), the model that ships, sections of GNOME's and "
        "LibreOffice's help in many languages (and passages of encyclopaedias where these end), "
        "shuffled.\n",
        *table(known),
        *([f"{known['note']}\n"] if "note" in known else []),
        *memory(known),
        *bits(known),
        *faults(known),
        *(growth.table(growth.speeds(known)) if "embed" in known else []),
    ]
    path.with_suffix(".md").write_text("\n".join(parts), "utf8")


def speed(figures: Figures, seconds: str = "seconds") -> float:
    """Return tokens a second."""
    return float(figures["tokens"]) / float(figures[seconds])


def table(known: Figures) -> list[str]:
    """Return the table of speeds."""
    rows = [
        "| | rows | tokens | seconds | tokens/s | of the engine alone "
        "| of its time in the library |",
        "|---|---|---|---|---|---|---|",
    ]
    for task, name in ENGINES.items():
        if name in known:
            own = known[name]
            rows.append(
                f"| the engine alone ({task}) | {own['rows']:,} | {own['tokens']:,} | "
                f"{own['seconds']:.1f} | {speed(own):,.0f} | | |"
            )
    for part, name in NAMES.items():
        if part not in known:
            continue
        own, bare = known[part], known.get(ENGINES.get(part, ""))
        share = "" if bare is None else f"{speed(own, 'job_s') / speed(bare):.1%}"
        rows.append(
            f"| {name} | {own['rows']:,} | {own['tokens']:,} | {own['job_s']:.1f} | "
            f"{speed(own, 'job_s'):,.0f} | {share} | {busy(part, own)} |"
        )
    return [
        *rows,
        "\nSeconds of a job run from its manifest to its last partition: reading, tokenising and "
        "writing are in them, loading the model is not. Time in the library is that of its "
        "calls, tokenising and heads included. The engine alone gets sequences that are packed "
        "already.\n",
        *turns(known),
    ]


def turns(known: Figures) -> list[str]:
    """Return how the job and the engine took turns, and what else ran."""
    loads = [each for part in ENGINES for each in known.get(part, {}).get("load", [])]
    if not loads:
        return []
    return [
        f"A job of one process was stopped {len(loads)} times, every half minute, while the engine "
        "ran alone for some seconds: both had the same machine. Its mean load was then "
        f"{mean(loads):.1f}, from {min(loads):.1f} to {max(loads):.1f}; this benchmark alone makes "
        "it about 2. Where others work, seconds say little and shares of the engine alone say "
        "what they say on quiet cores. The rows of Ray had no such turns.\n",
    ]


def busy(part: str, figures: Figures) -> str:
    """Return the share of a job's time in which its workers compute."""
    workers = 2 if part == "ray_2" else 1
    return f"{figures['compute_s'] / figures['job_s'] / workers:.1%}"


def memory(known: Figures) -> list[str]:
    """Return what was held over time."""
    rows = ["## Memory\n", "| | lowest | median of the 2nd quarter | of the 4th | highest |"]
    rows.append("|---|---|---|---|---|")
    for part in ("embed", "rerank"):
        samples: Sequence[Sequence[float]] = known.get(part, {}).get("memory_mb", [])
        if not samples:
            continue
        held = [mb for _, mb in samples]
        quarter = max(len(held) // 4, 1)
        second, last = held[quarter : 2 * quarter], held[-quarter:]
        rows.append(
            f"| {NAMES[part]} | {min(held):,.0f} MB | {median(second):,.0f} MB | "
            f"{median(last):,.0f} MB | {max(held):,.0f} MB |"
        )
    return [*rows, "\nMemory that is no mapped file (RssAnon), every half second.\n"]


def bits(known: Figures) -> list[str]:
    """Return how many rows were compared."""
    if "bits" not in known:
        return []
    lines = [
        f"- {name}: {own['same']:,} of {own['checked']:,} rows have the library's bits"
        for name, own in known["bits"].items()
    ]
    return [
        "## Bits\n",
        "Rows drawn from the outputs, each computed alone by the library:\n",
        *lines,
        "",
    ]


def faults(known: Figures) -> list[str]:
    """Return what the fault tests' long form counted."""
    if "faults" not in known:
        return []
    lines = [f"- {text}" for text in known["faults"]]
    return ["## Faults\n", *lines, ""]
