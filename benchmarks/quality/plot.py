"""The picture of the quality bench: what reranking makes of each set, language by language.

Colours are Okabe and Ito's and cividis, with shapes beside them, for readers who confuse red and
green.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

_STYLES = {  # name in the figures: colour, marker, name in the legend
    "BM25": ("#999999", "s", "BM25"),
    "first stage": ("#D55E00", "o", "first stage (embedder)"),
    "BM25 blended": ("#009E73", "^", "BM25 reranked with its scores"),
    "reranked": ("#0072B2", "D", "first stage reranked"),
}
_INK, _FAINT = "#222222", "#DDDDDD"

_Found = Mapping[str, Mapping[str, Any]]
_Panel = tuple[float, Callable[[Axes], None]]  # height, what draws it


def draw(found: _Found, title: str) -> Figure | None:
    """Return the picture, or None where no ranking was measured.

    Args:
        found: Figures by set, as quality.json holds them.
        title: What was measured.
    """
    left = _dot_panels(found, "-same", "nDCG@10, query and passages in one language")
    pool = "average precision, one pool of all languages, by the question's"
    right = [*_heat_panels(found), *_dot_panels(found, "-pool", pool)]
    columns = [column for column in (left, right) if column]
    if not columns:
        return None
    height = 0.9 + max(sum(tall for tall, _ in column) for column in columns)
    figure = Figure(
        figsize=(7.2 * len(columns), height), dpi=120, layout="constrained", facecolor="white"
    )
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold", color=_INK)
    handles = [
        Line2D([], [], color=colour, marker=marker, linestyle="", label=legend)
        for colour, marker, legend in _STYLES.values()
    ]
    figure.legend(handles=handles, loc="outside lower left", ncols=4, frameon=False, fontsize=9)
    parts = figure.subfigures(1, len(columns), squeeze=False)[0]
    for part, column in zip(parts, columns, strict=True):
        talls = [tall for tall, _ in column]
        grid = part.subplots(len(column), 1, squeeze=False, height_ratios=talls)
        for (_, panel), axes in zip(column, grid[:, 0], strict=True):
            panel(axes)
    return figure


def _dot_panels(found: _Found, kind: str, measure: str) -> list[_Panel]:
    """Return a panel of the sets of a kind, those of several languages followed by their mean."""
    rows: list[tuple[str, Mapping[str, float]]] = []
    for name, entry in found.items():
        if not name.endswith(kind):
            continue
        short, groups = name.removesuffix(kind), entry["groups"]
        rows += [(f"{short} {language}", values) for language, values in groups.items()]
        if len(groups) > 1:
            rows.append((f"{short} mean", entry["mean"]))
    return [(0.6 + 0.24 * len(rows), lambda axes: _dots(axes, rows, measure))] if rows else []


def _dots(axes: Axes, rows: list[tuple[str, Mapping[str, float]]], measure: str) -> None:
    places = np.arange(len(rows))
    for place, (label, values) in enumerate(rows):
        shown = [values[name] for name in _STYLES if name in values]
        axes.plot([min(shown), max(shown)], [place] * 2, color=_FAINT, linewidth=2, zorder=1)
        if label.endswith(" mean"):
            axes.axhspan(place - 0.5, place + 0.5, color="#F3F3F3", zorder=0)
    for name, (colour, marker, _) in _STYLES.items():
        own = [(values[name], place) for place, (_, values) in enumerate(rows) if name in values]
        if own:
            axes.scatter(*zip(*own, strict=True), c=colour, marker=marker, s=26)
    axes.set_yticks(places, [label for label, _ in rows], fontsize=8)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel(measure, fontsize=9)
    axes.grid(axis="x", color=_FAINT, linewidth=0.6)
    _strip(axes)


def _heat_panels(found: _Found) -> list[_Panel]:
    def panel(name: str, entry: Mapping[str, Any]) -> _Panel:
        size = len({pair.split("→")[0] for pair in entry["groups"]})
        return 0.9 + 0.36 * size, lambda axes: _heat(axes, name, entry)

    return [panel(name, entry) for name, entry in found.items() if name.endswith("-cross")]


def _heat(axes: Axes, name: str, entry: Mapping[str, Any]) -> None:
    pairs = {tuple(pair.split("→")): values for pair, values in entry["groups"].items()}
    languages = sorted({code for pair in pairs for code in pair})
    table = np.full((len(languages), len(languages)), np.nan)
    for (asked, searched), values in pairs.items():
        gain = values["reranked"] - values["first stage"]
        table[languages.index(asked), languages.index(searched)] = gain
    axes.imshow(table, cmap="cividis", aspect="auto")
    middle = np.nanmean([np.nanmin(table), np.nanmax(table)])
    for row, column in zip(*np.nonzero(~np.isnan(table)), strict=True):
        value = table[row, column]
        colour = "white" if value < middle else "black"
        axes.text(
            column, row, f"{100 * value:+.1f}", ha="center", va="center", fontsize=7, color=colour
        )
    axes.set_xticks(range(len(languages)), languages, fontsize=8)
    axes.set_yticks(range(len(languages)), languages, fontsize=8)
    axes.set_xlabel("passages in", fontsize=9)
    axes.set_ylabel("question in", fontsize=9)
    mean = entry["mean"]
    axes.set_title(
        f"{name}: points of nDCG@10 that reranking adds "
        f"(mean {mean['first stage']:.3f} to {mean['reranked']:.3f})",
        fontsize=9,
        loc="left",
        color=_INK,
    )
    _strip(axes)


def _strip(axes: Axes) -> None:
    axes.tick_params(length=0, colors=_INK)
    for spine in axes.spines.values():
        spine.set_visible(False)
