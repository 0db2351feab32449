"""The bar plot of a run. Needs matplotlib."""

from pathlib import Path
from typing import Any

from engines import figures
from engines.report import Outcome
from engines.schedule import Record

# Okabe and Ito's colours, which colour-blind readers can tell apart
COLOURS = {
    "float32": "#56B4E9", "bfloat16": "#009E73", "int8": "#E69F00", "int8+bfloat16": "#D55E00",
}  # fmt: skip


def draw(outcome: Outcome, path: Path) -> None:
    """Draw throughput and the latency of one query, a bar an engine, fastest on top."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.patches import Patch

    records = outcome.shown()[::-1]
    documents = 20 if 20 in outcome.documents else outcome.documents[-1]
    tokens = outcome.tokens["natural"]
    seconds = [figures.middle(figures.turns(record, "natural")) for record in records]
    rates = [tuple(tokens / value for value in (entry[0], entry[2], entry[1])) for entry in seconds]
    waits = [
        tuple(1000 * value for value in figures.middle(figures.queries(record, documents)))
        for record in records
    ]
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(12, 1.6 + 0.42 * len(records)), layout="constrained"
    )
    _bars(left, records, rates)
    left.set_title("Throughput, tokens a second (longer is better)", fontsize=11)
    _bars(right, records, waits)
    right.set_title(f"One query, {documents} documents, ms (shorter is better)", fontsize=11)
    right.set_yticklabels([])
    used = {record.kind.precision for record in records}
    handles = [Patch(color=colour, label=name) for name, colour in COLOURS.items() if name in used]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    figure.suptitle(outcome.title, fontsize=12)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _bars(axes: Any, records: list[Record], values: list[tuple[float, ...]]) -> None:
    """Draw medians with p10 to p90 and the figure at each bar's end."""
    places = range(len(records))
    middles = [median for median, _, _ in values]
    below = [median - low for median, low, _ in values]
    above = [high - median for median, _, high in values]
    colours = [COLOURS[record.kind.precision] for record in records]
    hatches = ["//" if record.key.startswith("polyrank") else "" for record in records]
    axes.barh(
        places, middles, color=colours, hatch=hatches, edgecolor="#333333", linewidth=0.6,
        xerr=[below, above], error_kw={"elinewidth": 1, "capsize": 2},
    )  # fmt: skip
    names = [f"{record.kind.name}, {record.kind.precision}" for record in records]
    axes.set_yticks(places, names, fontsize=9)
    largest = max(high for _, _, high in values)
    for place, (median, _, high) in zip(places, values, strict=True):
        axes.text(high + 0.015 * largest, place, f"{median:,.0f}", va="center", fontsize=9)
    axes.set_xlim(0, 1.13 * largest)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
