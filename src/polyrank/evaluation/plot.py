"""The picture of an evaluation: a dot plot by language, or a heat map of language pairs.

Colours are from Okabe and Ito's palette and cividis, which readers who confuse red and green
tell apart; shapes differ too. Nothing here touches matplotlib's global state.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from polyrank.evaluation.bootstrap import Estimate
from polyrank.evaluation.plan import MODE_WORDS
from polyrank.evaluation.results import GroupResult, Report

_FIRST, _RERANKED, _INK, _FAINT = "#D55E00", "#0072B2", "#222222", "#B8B8B8"
_DPI = 150
_MOST_CELLS_WITH_NUMBERS = 20


def draw(report: Report, first_stage: str, reranker: str | None) -> Figure:
    """Return the picture of a report.

    Pairs of several query languages with several document languages give a heat map, anything
    else one row for each group.

    Args:
        report: The report.
        first_stage: Name of the first stage, for the legend.
        reranker: Name of the reranker, for the legend.

    Returns:
        A figure on matplotlib's Agg canvas, ready for `savefig`.
    """
    asked = {group.query_language for group in report.groups}
    searched = {group.document_language for group in report.groups}
    if report.mode == "cross" and len(asked) > 1 and len(searched) > 1:
        return _heat_maps(report, first_stage, reranker)
    return _dots(report, first_stage, reranker)


def _new_figure(width: float, height: float, title: str) -> Figure:
    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=_INK)
    return figure


def _dots(report: Report, first_stage: str, reranker: str | None) -> Figure:
    main = report.measures[0]
    groups = sorted(report.groups, key=lambda group: group.label)
    labels = [group.label for group in groups]
    first = [group.first_stage.estimates[main] for group in groups]
    second = [g.reranked.estimates[main] for g in groups if g.reranked is not None]
    if len(groups) > 1:
        labels.append("mean")
        first.append(report.mean(lambda group: group.first_stage)[main])
        second += [report.mean(lambda g: g.reranked)[main]] if second else []
    title = f"{main} on {report.dataset}, {MODE_WORDS[report.mode]}"
    figure = _new_figure(8.0, 1.7 + 0.27 * len(labels), title)
    axes = figure.add_subplot()
    places = np.arange(len(labels), dtype=np.float64)
    if len(groups) > 1:
        places[-1] += 0.5  # sets the mean apart
        axes.axhline(places[-1] - 0.75, color=_FAINT, linewidth=0.8)
    shift = 0.13 if second else 0.0
    _points(axes, first, places - shift, _FIRST, "o", f"first stage: {first_stage}")
    _points(axes, second, places + shift, _RERANKED, "D", f"reranked: {reranker}")
    _dress(axes, main, labels, places)
    _numbers(axes, places, first, second)
    figure.legend(loc="outside lower left", ncols=2, frameon=False, fontsize=9)
    return figure


def _points(
    axes: Axes,
    estimates: Sequence[Estimate],
    places: NDArray[np.float64],
    colour: str,
    shape: str,
    label: str,
) -> None:
    if not estimates:
        return
    means = [value.mean for value in estimates]
    axes.hlines(
        places, [e.low for e in estimates], [e.high for e in estimates], colour, linewidth=1.4
    )
    # the first stage is hollow: the shapes tell the stages apart without colour
    face = "white" if shape == "o" else colour
    axes.plot(means, places, shape, color=colour, markerfacecolor=face, markersize=5, label=label)


def _dress(axes: Axes, measure: str, labels: Sequence[str], places: NDArray[np.float64]) -> None:
    axes.set_yticks(places, labels)
    axes.set_ylim(places[-1] + 0.7, -0.7)
    axes.set_xlabel(f"{measure} with 95 % interval", color=_INK)
    axes.xaxis.grid(visible=True, color="#E6E6E6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, colors=_INK)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_FAINT)


def _numbers(
    axes: Axes,
    places: NDArray[np.float64],
    first: Sequence[Estimate],
    second: Sequence[Estimate],
) -> None:
    """Write the figures at the right margin, in columns."""
    columns = [(first, _FIRST)] + ([(second, _RERANKED)] if second else [])
    for column, (estimates, colour) in enumerate(columns):
        for place, value in zip(places, estimates, strict=True):
            axes.annotate(
                f"{value.mean:.3f}",
                (1.0, place),
                xycoords=("axes fraction", "data"),
                xytext=(8 + 40 * column, 0),
                textcoords="offset points",
                va="center",
                fontsize=9,
                color=colour,
                annotation_clip=False,
            )


def _heat_maps(report: Report, first_stage: str, reranker: str | None) -> Figure:
    main = report.measures[0]
    panels = [(f"first stage: {first_stage}", _grid(report.groups, main, is_reranked=False))]
    if report.is_reranked:
        panels.append((f"reranked: {reranker}", _grid(report.groups, main, is_reranked=True)))
    rows, columns = panels[0][1].shape
    side = 1.6 + 0.42 * max(columns, 6)
    title = f"{main} on {report.dataset}, {MODE_WORDS[report.mode]}"
    figure = _new_figure(max(7.0, side * len(panels) + 1.0), 1.8 + 0.36 * max(rows, 6), title)
    low = min(float(np.nanmin(grid)) for _, grid in panels)
    high = max(float(np.nanmax(grid)) for _, grid in panels)
    all_axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (name, grid) in zip(all_axes, panels, strict=True):
        image = axes.imshow(grid, cmap="cividis", vmin=low, vmax=high, aspect="auto")
        axes.set_title(name, fontsize=10, loc="left", color=_INK)
        _dress_grid(axes, report.groups)
        if max(grid.shape) <= _MOST_CELLS_WITH_NUMBERS:
            _cell_numbers(axes, grid, (low + high) / 2)
    bar: Any = figure.colorbar(image, ax=list(all_axes), shrink=0.9, pad=0.02)
    bar.outline.set_visible(False)
    bar.set_label(main)
    return figure


def _sides(groups: Sequence[GroupResult]) -> tuple[list[str], list[str]]:
    asked = sorted({str(group.query_language) for group in groups})
    return asked, sorted({str(group.document_language) for group in groups})


def _grid(groups: Sequence[GroupResult], measure: str, *, is_reranked: bool) -> NDArray[np.float64]:
    """Return figures by query and document language, NaN where a pair was not measured."""
    asked, searched = _sides(groups)
    grid = np.full((len(asked), len(searched)), np.nan)
    for group in groups:
        figures = group.reranked if is_reranked else group.first_stage
        if figures is not None:
            row = asked.index(str(group.query_language))
            column = searched.index(str(group.document_language))
            grid[row, column] = figures.per_query[measure].mean()
    return grid


def _dress_grid(axes: Axes, groups: Sequence[GroupResult]) -> None:
    asked, searched = _sides(groups)
    axes.set_yticks(np.arange(len(asked)), asked)
    axes.set_xticks(np.arange(len(searched)), searched)
    axes.set_ylabel("queries", color=_INK)
    axes.set_xlabel("documents", color=_INK)
    axes.tick_params(length=0, colors=_INK)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _cell_numbers(axes: Axes, grid: NDArray[np.float64], middle: float) -> None:
    for row, column in np.argwhere(~np.isnan(grid)):
        value = grid[row, column]
        axes.text(
            column,
            row,
            f"{value:.2f}".removeprefix("0"),
            ha="center",
            va="center",
            fontsize=8,
            color="white" if value < middle else "black",
        )
