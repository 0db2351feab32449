"""The table, the figures and the plot of the load test, of one run or of several together."""

import json
from pathlib import Path
from typing import Any

from serving import load

LIMITS_S = (1, 2, 3, 5)
DISTURBED_CORES = 0.1
ORDER = ("polyrank int8", "polyrank", "infinity torch bfloat16", "infinity ONNX", "infinity", "")
FLOAT32 = "infinity torch, "
Row = dict[str, Any]
# Okabe and Ito's colours, which colour-blind readers can tell apart; a marker each beside them
LOOKS = (
    ("#E69F00", "o"), ("#0072B2", "s"), ("#009E73", "^"), ("#CC79A7", "D"), ("#56B4E9", "v"),
    ("#D55E00", "P"),
)  # fmt: skip


def row(level: load.Level) -> Row:
    """Return a level's figures."""
    return {
        "rate": level.rate,
        "throughput": level.throughput,
        **{f"p{share}_s": level.percentile_s(share / 100) for share in (50, 95, 99)},
        "sent": len(level.sent),
        "answered": len(level.answered),
        "refused": sum(each.status == 429 for each in level.sent),
        "memory_mb": max(level.memory_mb, default=0.0),
        "memory_begin_mb": level.memory_mb[0] if level.memory_mb else 0.0,
        "other_cores": max(level.other_cores, 0.0),
    }


def merge(path: Path, found: dict[str, Any]) -> dict[str, Any]:
    """Return what runs before found, with what this one did in its place.

    Args:
        path: Figures of the runs before, if there were any.
        found: Figures of this one.

    Returns:
        Every server, with the last measurement of each rate.
    """
    if not path.is_file():
        return found
    before = json.loads(path.read_text("utf8"))
    servers = before["servers"]
    for name, part in found["servers"].items():
        rates = {each["rate"]: each for each in servers.get(name, {}).get("levels", [])}
        rates |= {each["rate"]: each for each in part["levels"]}
        servers[name] = {**part, "levels": [rates[rate] for rate in sorted(rates)]}
        before["failed"].pop(name, None)
    names = sorted(servers, key=_place)
    ordered = {name: servers[name] for name in names}
    return {**found, "servers": ordered, "failed": before["failed"] | found["failed"]}


def _place(name: str) -> int:
    return next(i for i, start in enumerate(ORDER) if name.startswith(start))


def held(levels: list[Row], limit_s: float) -> Row | None:
    """Return the highest rate at which every request was answered and p95 kept to a limit.

    Args:
        levels: A server's, by rising rate.
        limit_s: Most seconds of p95.

    Returns:
        That level; None where there is none. Nothing is interpolated.
    """
    kept = (
        each for each in levels if each["answered"] == each["sent"] and each["p95_s"] <= limit_s
    )
    return max(kept, key=lambda each: each["rate"], default=None)


def table(found: dict[str, Any]) -> str:
    """Return the report in Markdown."""
    servers = found["servers"]
    facts = next(iter(servers.values()))["setting"] if servers else {"machine": "?"}
    commits = ", ".join(sorted({part["setting"]["commit"] for part in servers.values()}))
    documents = sum(int(size) * share for size, share in found["mix"].items())
    lines = [
        "# `polyrank serve` under load",
        "",
        f"Commit {commits}, {facts['machine']}, {found['threads']} threads, client on the same "
        f"cores. Open-loop arrivals, {found['seconds']:g} s a rate, of requests with "
        f"{', '.join(found['mix'])} documents ({documents:.1f} on average; XQuAD passages, 12 "
        "languages; the same requests for all). Latency counts from when a request was due.",
        "",
        "## What each server holds",
        "",
        "Highest rate offered, in requests a second, at which all were answered and p95 stayed "
        "below a limit; in brackets the documents ranked a second there.",
        "",
        "| server | " + " | ".join(f"p95 ≤ {limit} s" for limit in LIMITS_S) + " |",
        "|---" * (len(LIMITS_S) + 1) + "|",
        *(
            f"| {name} | "
            + " | ".join(_cell(held(part["levels"], limit)) for limit in LIMITS_S)
            + " |"
            for name, part in servers.items()
        ),
        "",
        *_ratios(servers),
        "",
        "![Latency by throughput](serving.png)",
        "",
        f"Hollow: others kept more than {DISTURBED_CORES:g} of a core busy meanwhile.",
        "",
        "## Every rate",
        "",
        "| server | requests/s offered | documents/s | p50 s | p95 s | p99 s | answered "
        "| MB at first, at most | cores of others |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, part in servers.items():
        lines += [
            f"| {name} | {each['rate']:g} | {each['throughput']:.1f} | {each['p50_s']:.2f} | "
            f"{each['p95_s']:.2f} | {each['p99_s']:.2f} | {each['answered']} of {each['sent']} | "
            f"{each['memory_begin_mb']:.0f}, {each['memory_mb']:.0f} | {each['other_cores']:.2f} |"
            for each in part["levels"]
        ]
    changes = "; ".join(
        f"{name} {part['largest_score_change']:.2g}" for name, part in servers.items()
    )
    lines += ["", f"Largest change of a score beside the library in float32: {changes}.", ""]
    lines += [f"- {name} failed: {reason}" for name, reason in found["failed"].items()]
    return "\n".join(lines).rstrip() + "\n"


def _cell(level: Row | None) -> str:
    return "–" if level is None else f"{level['rate']:g} ({level['throughput']:.0f})"


def _ratios(servers: dict[str, Any]) -> list[str]:
    """Say how polyrank's rates compare with infinity's best and with the plain server's."""
    lines = []
    for name in servers:
        if not name.startswith("polyrank"):
            continue
        for kind, others in (
            ("infinity's best", [each for each in servers if each.startswith("infinity")]),
            ("infinity in float32", [each for each in servers if each.startswith(FLOAT32)]),
            ("the plain server", [each for each in servers if each.startswith("FastAPI")]),
        ):
            if not others:
                continue
            told = [f"{_ratio(servers, name, others, limit)} at {limit} s" for limit in LIMITS_S]
            lines.append(f"- {name} over {kind}, by rate offered at equal p95: {', '.join(told)}.")
    return lines


def _ratio(servers: dict[str, Any], name: str, others: list[str], limit: float) -> str:
    own = held(servers[name]["levels"], limit)
    rates = [each["rate"] for other in others if (each := held(servers[other]["levels"], limit))]
    if own is None:
        return "–"
    return f"{own['rate'] / max(rates):.1f}×" if rates else "held by this one alone"


def draw(found: dict[str, Any], path: Path) -> None:
    """Draw p95 by throughput, a line a server. Needs matplotlib."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 5.5), layout="constrained")
    for (label, part), (colour, marker) in zip(found["servers"].items(), LOOKS, strict=False):
        levels = part["levels"]
        xs, ys = ([row[name] for row in levels] for name in ("throughput", "p95_s"))
        style = "-" if label.startswith("polyrank") else "--"
        axes.plot(xs, ys, style, color=colour, marker=marker, markersize=5, label=label)
        spoilt = [i for i, row in enumerate(levels) if row["other_cores"] > DISTURBED_CORES]
        axes.plot(
            [xs[i] for i in spoilt], [ys[i] for i in spoilt], linestyle="", color=colour,
            marker=marker, markersize=5, markerfacecolor="white",
        )  # fmt: skip
    for limit in LIMITS_S:
        axes.axhline(limit, color="#BBBBBB", linewidth=0.7, zorder=0)
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:g}"[0] in "25" else "")
    axes.tick_params(which="minor", labelsize=8)
    axes.set_xlabel("Documents ranked a second (more is better)")
    axes.set_ylabel("p95 of a request, seconds (less is better)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
    axes.set_title(
        f"Requests of 1 to 100 documents at rising rates, {found['threads']} threads", fontsize=11
    )
    figure.savefig(path, dpi=130)
    plt.close(figure)


def write(found: dict[str, Any], folder: Path) -> str:
    """Write figures, report and plot, and return the report."""
    (folder / "serving.json").write_text(json.dumps(found, indent=1) + "\n", "utf8")
    text = table(found)
    (folder / "serving.md").write_text(text, "utf8")
    if found["servers"]:
        draw(found, folder / "serving.png")
    return text
