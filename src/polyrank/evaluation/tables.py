"""An evaluation as tables: by language and by measure, for terminals and for Markdown."""

from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Group as RichGroup
from rich.table import Table

from polyrank.evaluation.bootstrap import Estimate
from polyrank.evaluation.plan import MODE_WORDS
from polyrank.evaluation.results import GroupResult, Report, StageFigures


def _first(group: GroupResult) -> StageFigures | None:
    return group.first_stage


def _reranked(group: GroupResult) -> StageFigures | None:
    return group.reranked


def _difference(group: GroupResult) -> StageFigures | None:
    return group.difference


STAGES = {"first_stage": _first, "reranked": _reranked, "difference": _difference}

Cells = Sequence[Sequence[str]]
"""A table's rows, header first."""


def _plain(value: Estimate) -> str:
    return f"{value.mean:.3f} [{value.low:.3f}, {value.high:.3f}]"


def _signed(value: Estimate) -> str:
    return f"{value.mean:+.3f} [{value.low:+.3f}, {value.high:+.3f}]"


def by_language(report: Report) -> Cells:
    """Return the table by language, header first, with the mean as last row."""
    means = [report.mean(stage) for stage in STAGES.values()]
    rows = [_header(report)]
    for group in report.groups:
        found = [estimates_of(stage(group)) for stage in STAGES.values()]
        counts = [f"{len(group.query_ids):,}", f"{group.num_documents:,}"]
        rows.append([group.label, *counts, *_figures(report, found)])
    if len(report.groups) > 1:
        rows.append(["mean", "", "", *_figures(report, means)])
    return rows


def _header(report: Report) -> list[str]:
    named = ["language", "queries", "documents"]
    if report.is_reranked:
        return [*named, "first stage", "reranked", "difference"]
    return [*named, *report.measures]


def estimates_of(figures: StageFigures | None) -> Mapping[str, Estimate]:
    """Return a stage's means with intervals, empty where the stage did not run."""
    return {} if figures is None else figures.estimates


def _figures(report: Report, stages: Sequence[Mapping[str, Estimate]]) -> list[str]:
    first, reranked, difference = stages
    if not report.is_reranked:
        return [f"{first[name].mean:.3f}" for name in report.measures]
    main = report.measures[0]
    return [f"{first[main].mean:.3f}", f"{reranked[main].mean:.3f}", _signed(difference[main])]


def by_measure(report: Report) -> Cells:
    """Return the table of all measures, averaged over the groups, header first."""
    first, reranked, difference = (report.mean(stage) for stage in STAGES.values())
    if not report.is_reranked:
        return [["mean of", "first stage"], *([m, _plain(first[m])] for m in report.measures)]
    rows = [["mean of", "first stage", "reranked", "difference"]]
    for name in report.measures:
        cells = [_plain(first[name]), _plain(reranked[name]), _signed(difference[name])]
        rows.append([name, *cells])
    return rows


def title_line(report: Report) -> str:
    """Return what was measured, on what, and how."""
    what = f"{report.measures[0]} on" if report.is_reranked else "Measures on"
    return f"{what} {report.dataset}, {MODE_WORDS[report.mode]}"


def timing_lines(report: Report) -> list[str]:
    """Return a line for each step: how many, how long, how fast."""
    return [
        f"{step}: {timing.count:,} {timing.unit} in {timing.seconds:.1f} s "
        f"({timing.per_second:,.0f}/s)"
        for step, timing in report.timings.items()
    ]


def dropped_line(report: Report) -> list[str]:
    """Return a line that says how many queries were left out, or none."""
    dropped = sum(group.num_dropped_queries for group in report.groups)
    if not dropped:
        return []
    return [f"{dropped:,} queries left out: no relevant document in the languages chosen"]


def _rich_table(cells: Cells, title: str | None = None) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, title_style="bold")
    for i, name in enumerate(cells[0]):
        table.add_column(name, justify="left" if i == 0 else "right")
    for row in cells[1:]:
        if row[0] == "mean":
            table.add_section()
        table.add_row(*row, style="bold" if row[0] == "mean" else None)
    return table


def report_table(report: Report) -> RichGroup:
    """Return a report for a terminal: by language, by measure, and what the steps took."""
    return RichGroup(
        _rich_table(by_language(report), title_line(report)),
        _rich_table(by_measure(report)),
        "\n".join([*dropped_line(report), *timing_lines(report)]),
    )
