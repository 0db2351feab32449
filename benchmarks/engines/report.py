"""The table, the raw figures and the plot of a run."""

import dataclasses
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engines import figures, isa
from engines.adapter import THREADS
from engines.schedule import Record

PACKAGES = (
    "torch", "transformers", "sentence-transformers", "onnx", "onnxruntime", "openvino", "nncf",
    "ctranslate2", "tokenizers", "numpy", "polyrank",
)  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """A finished run.

    Attributes:
        title: What was measured.
        setting: Commit, machine, versions, seed and the like.
        records: By engine.
        agreements: By engine; none of those that gave no logits.
        tokens: Tokens by throughput job.
        sequences: Sequences by throughput job.
        documents: Numbers of documents of the latency jobs.
        linear_operations: Operations a token in linear layers.
        limits: Machine limits, one a time of measurement.
        labels: What the two throughput jobs are called.
    """

    title: str
    setting: dict[str, Any]
    records: dict[str, Record]
    agreements: dict[str, figures.Agreement]
    tokens: dict[str, int]
    sequences: dict[str, int]
    documents: list[int]
    linear_operations: float
    limits: list[dict[str, float]]
    labels: tuple[str, str] = ("XQuAD", "log-normal")

    def shown(self) -> list[Record]:
        """Return the engines whose times mean something, fastest first."""
        found = [record for record in self.records.values() if not record.note]
        return sorted(found, key=lambda record: figures.middle(figures.turns(record, "natural"))[0])

    def limit(self, name: str) -> float:
        """Return the best of the measurements of a limit: others only slow it down."""
        return max((limits.get(name, 0.0) for limits in self.limits), default=0.0)


def setting(root: Path, **more: Any) -> dict[str, Any]:
    """Return what a reader needs to repeat a run."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True)
        return done.stdout.strip()

    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "absent"
    return {
        "commit": git("rev-parse", "--short", "HEAD"),
        "has_local_changes": bool(git("status", "--porcelain", "--untracked-files=no")),
        "machine": _processor(),
        "threads": THREADS,
        "python": platform.python_version(),
        "versions": versions,
        **more,
    }


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return platform.machine()
    text = path.read_text("ascii", errors="replace")
    models = (line.split(":")[1].strip() for line in text.splitlines() if "model name" in line)
    known = ("amx_int8", "avx512_bf16", "avx512_vnni", "avx_vnni", "avx512f", "avx2")
    return f"{next(models, '')} ({', '.join(flag for flag in known if f' {flag}' in text)})"


def write(outcome: Outcome, folder: Path, name: str) -> str:
    """Write table, raw figures and plot; return the table."""
    folder.mkdir(exist_ok=True)
    text = table(outcome)
    (folder / f"{name}.md").write_text(text, "utf8")
    raw = {
        "title": outcome.title,
        **outcome.setting,
        "limits_gops": outcome.limits,
        "tokens": outcome.tokens,
        "agreement": {key: dataclasses.asdict(value) for key, value in outcome.agreements.items()},
        "engines": [_raw(record) for record in outcome.records.values()],
    }
    (folder / f"{name}.json").write_text(json.dumps(raw, indent=1) + "\n", "utf8")
    return text


def _raw(record: Record) -> dict[str, Any]:
    found = dataclasses.asdict(record)
    found["best"] = {kind: str(batching) for kind, batching in record.best.items()}
    del found["logits"]  # thousands of lines, and `agreement` has what they say
    for name in ("seconds", "others"):
        found[name] = {job: [round(value, 6) for value in row] for job, row in found[name].items()}
    return found


def table(outcome: Outcome) -> str:
    """Return the report in Markdown."""
    parts = [f"# {outcome.title}", _preamble(outcome), _throughput(outcome), _latency(outcome)]
    parts += [_costs(outcome), _ratios(outcome), _absent(outcome)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _preamble(outcome: Outcome) -> str:
    given = outcome.setting
    versions = ", ".join(f"{name} {number}" for name, number in given["versions"].items())
    units = {
        "float32_fma": "float32", "float32_fma256": "float32 of 256 bits", "bf16": "bfloat16",
        "sums16": "4-bit blocks by 16-bit sums", "sums16_256": "the same of 256 bits",
        "int8_vnni": "int8 VNNI", "int8_amx": "int8 AMX",
    }  # fmt: skip
    limits = ", ".join(
        f"{label} {outcome.limit(name):,.0f}"
        for name, label in units.items()
        if outcome.limit(name)
    )
    median, high = figures.share_of_others(outcome.records.values())
    denied = f" ({isa.UNTOLD})" if given["isa"] in isa.DENIED_VNNI else ""
    local = " with local changes" if given["has_local_changes"] else ""
    return (
        f"Commit {given['commit']}{local}; {given['machine']}; {given['threads']} threads; "
        f"instructions: {given['isa']}{denied}; seed {given['seed']}; {given['turns']}.\n\n"
        f"{versions}.\n\n"
        f"Limits from registers alone, GOPS on {given['threads']} threads: "
        f"{limits or 'not measured, no compiler'}. "
        f"Other processes took {median:.2f} cores in the median turn, {high:.2f} in the worst "
        f"tenth: where this is above 0.1 trust ratios only. "
        f"A token costs {outcome.linear_operations / 1e6:,.1f} M operations in linear layers."
    )


def _rows(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in (head, *rows)]
    lines.insert(1, "|" + "---|" * len(head))
    return "\n".join(lines)


def _throughput(outcome: Outcome) -> str:
    rows = []
    for record in outcome.shown():
        cells = [record.kind.name, record.kind.precision, str(record.best["natural"])]
        for job in ("natural", "lognormal"):
            tokens = outcome.tokens[job]
            median, low, high = figures.middle(figures.turns(record, job))
            cells.append(f"{tokens / median:,.0f} ({tokens / high:,.0f}–{tokens / low:,.0f})")
            cells.append(f"{outcome.sequences[job] / median:.1f}")
        median = figures.middle(figures.turns(record, "natural"))[0]
        default = figures.middle(figures.turns(record, "natural, 32 as they come"))[0]
        cells.append("–" if default != default else f"{outcome.tokens['natural'] / default:,.0f}")
        gops = outcome.linear_operations * outcome.tokens["natural"] / median / 1e9
        cells.append(f"{gops:,.0f}")
        rows.append(cells)
    head = ["engine", "precision", "its best batching"]
    head += [title for label in outcome.labels for title in (f"{label} tokens/s", "sequences/s")]
    head += ["32 as they come, tokens/s", "linear GOPS"]
    note = (
        "Throughput, tokens without padding, median (p10–p90). Linear GOPS: operations of the "
        "linear layers over all the time, attention and the rest included."
    )
    tokenizing = [
        f"sentence-transformers starts from texts; tokenising is {sum(record.tokenize) / 3:.3f} s "
        f"of {figures.middle(figures.turns(record, 'natural'))[0]:.2f} s."
        for record in outcome.shown()
        if record.tokenize
    ]
    return "\n".join(["## Throughput", "", " ".join([note, *tokenizing]), "", _rows(head, rows)])


def _latency(outcome: Outcome) -> str:
    rows = []
    for record in outcome.shown():
        cells = [record.kind.name, record.kind.precision, str(record.best["search"])]
        for documents in outcome.documents:
            values = figures.queries(record, documents) * 1000
            cells.append(f"{figures.middle(values)[0]:,.1f} / {figures.p95(values):,.1f}")
        rows.append(cells)
    head = ["engine", "precision", "batching, 10 and 20 documents"]
    head += [f"{count} document{'s' if count > 1 else ''}" for count in outcome.documents]
    title = "## Latency of one query, ms, p50 / p95"
    return "\n".join([title, "", "Documents of about 130 tokens.", "", _rows(head, rows)])


def _costs(outcome: Outcome) -> str:
    rows = []
    for record in outcome.shown():
        found = outcome.agreements[record.key]
        run = record.memory.get("run", {"VmHWM": 0, "RssAnon": 0})
        rows.append(
            [
                record.kind.name, record.kind.precision,
                f"{figures.middle(figures.starts(record))[0]:.2f}",
                f"{run['VmHWM']:,}", f"{run['RssAnon']:,}",
                "yes" if record.has_asked_for_amx else "no",
                f"{found.largest:.1e}", f"{found.mean:.1e}", f"{found.rank_correlation:.4f}",
            ]
        )  # fmt: skip
    head = ["engine", "precision", "start to first score s", "peak MiB", "own MiB"]
    head += ["asked for AMX", "largest difference", "mean difference", "rank correlation"]
    note = (
        "Peak counts pages of mapped files, own is anonymous memory; both after the first "
        "throughput job in a fresh process. Differences are to transformers in float32, in "
        "standard deviations of its logits; the head is seeded, so its logits lie closer together "
        "than a trained one's."
    )
    return "\n".join(["## Start, memory and agreement", "", note, "", _rows(head, rows)])


def _ratios(outcome: Outcome) -> str:
    ours = [record for record in outcome.shown() if record.key.startswith("polyrank-native")]
    lines = []
    for own in ours:
        rows = []
        for other in outcome.shown():
            if other is own:
                continue
            median, low, high = figures.ratio(
                figures.turns(other, "natural"), figures.turns(own, "natural")
            )
            cells = [f"{other.kind.name}, {other.kind.precision}"]
            cells.append(f"{median:.2f} ({low:.2f}–{high:.2f})")
            for documents in outcome.documents:
                pair = figures.queries(other, documents), figures.queries(own, documents)
                p95 = figures.p95(pair[0]) / figures.p95(pair[1])
                cells.append(f"{figures.ratio(*pair)[0]:.2f} / {p95:.2f}")
            cells.append(f"{figures.ratio(figures.starts(other), figures.starts(own))[0]:.1f}")
            rows.append(cells)
        head = ["how many times longer", f"{outcome.labels[0]} throughput"]
        head += [f"{count} doc., p50 / p95" for count in outcome.documents] + ["start"]
        title = f"## Against {own.kind.name}, {own.kind.precision}"
        note = "Turn by turn, then the median (p10–p90); p95 over p95."
        lines.append("\n".join([title, "", note, "", _rows(head, rows)]))
    return "\n\n".join(lines)


def _absent(outcome: Outcome) -> str:
    lines = [f"- {key}: {record.note}" for key, record in outcome.records.items() if record.note]
    return "\n".join(["## Left out", "", *lines]) if lines else ""
