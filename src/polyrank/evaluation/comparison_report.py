"""A comparison of systems as JSON, Markdown and one HTML page, and the files that keep it."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group as RichGroup
from rich.table import Table

from polyrank.evaluation.bootstrap import CONFIDENCE, Estimate
from polyrank.evaluation.comparison import Comparison, Difference, SystemResult
from polyrank.evaluation.comparison_page import comparison_page
from polyrank.evaluation.plan import MODE_WORDS
from polyrank.evaluation.report import library_versions, markdown_table, write_files
from polyrank.evaluation.tables import Cells, dropped_line

FORMAT = "polyrank-comparison-1"
COMPARISON_FILES = ("report.json", "report.md", "report.html")
SIGNIFICANT = 0.05


@dataclass(frozen=True, slots=True)
class ComparisonProvenance:
    """What a comparison cannot know of itself.

    Attributes:
        systems: For each system, in words, what it is made of.
        date: When it was measured, ISO 8601, or None.
        settings: Further settings to record, such as the encoder and its threads.
    """

    systems: dict[str, str]
    date: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)


def comparison_dict(comparison: Comparison, provenance: ComparisonProvenance) -> dict[str, Any]:
    """Return a comparison as JSON knows it.

    Args:
        comparison: The comparison.
        provenance: What the systems are, date and further settings.

    Returns:
        Nested dicts, lists, strings and numbers.
    """
    report = comparison.report
    settings = asdict(report.config)
    del settings["first_stage_weight"]  # each system has its own
    return {
        "format": FORMAT,
        "dataset": report.dataset,
        "date": provenance.date,
        "settings": settings | {"mode": report.mode} | provenance.settings,
        "versions": library_versions(),
        "measures": list(report.measures),
        "confidence": CONFIDENCE,
        "baseline": comparison.systems[0].name,
        "systems": [_system_dict(system, provenance) for system in comparison.systems],
        "differences": [asdict(difference) for difference in comparison.differences],
        "lengths": [asdict(band) for band in comparison.lengths],
    }


def _system_dict(system: SystemResult, provenance: ComparisonProvenance) -> dict[str, Any]:
    return {
        "name": system.name,
        "is": provenance.systems.get(system.name, system.name),
        "first_stage_weight": system.report.config.first_stage_weight,
        "mean": {name: asdict(value) for name, value in system.mean.items()},
        "latency": asdict(system.latency),
        "groups": [
            {
                "label": group.label,
                "num_queries": len(group.query_ids),
                "num_documents": group.num_documents,
                **{k: asdict(v) for k, v in system.figures(group).estimates.items()},
            }
            for group in system.report.groups
        ],
        "timings": {
            step: asdict(timing) | {"per_second": timing.per_second}
            for step, timing in system.report.timings.items()
        },
    }


def summary(comparison: Comparison) -> Cells:
    """Return the table of systems, header first: quality, difference from the baseline, latency."""
    report = comparison.report
    main, *others = report.measures
    header = ["system", main, *others, "difference", "p (Holm)", "ms a query (p50)", "p95"]
    rows = [header]
    for system in comparison.systems:
        mean = system.mean
        first = f"{mean[main].mean:.3f} [{mean[main].low:.3f}, {mean[main].high:.3f}]"
        difference = comparison.from_baseline(system.name)
        rows.append(
            [
                system.name,
                first,
                *(f"{mean[name].mean:.3f}" for name in others),
                *_difference_cells(difference),
                f"{system.latency.p50_ms:.1f}",
                f"{system.latency.p95_ms:.1f}",
            ]
        )
    return rows


def _difference_cells(difference: Difference | None) -> tuple[str, str]:
    if difference is None:
        return "baseline", ""
    return signed(difference.mean), p_text(difference.corrected_p_value)


def signed(value: Estimate) -> str:
    """Return a difference with its interval."""
    return f"{value.mean:+.3f} [{value.low:+.3f}, {value.high:+.3f}]"


def p_text(p_value: float) -> str:
    """Return a p-value as readers know it, starred where it is significant."""
    shown = "<0.001" if p_value < 0.001 else f"{p_value:.3f}"
    return shown + (" *" if p_value < SIGNIFICANT else "")


def by_group(comparison: Comparison) -> Cells:
    """Return the table by language, header first, with the mean as last row."""
    report, main = comparison.report, comparison.report.measures[0]
    rows = [["language", "queries", *(system.name for system in comparison.systems)]]
    for place, group in enumerate(report.groups):
        values = [
            system.figures(system.report.groups[place]).per_query[main].mean()
            for system in comparison.systems
        ]
        rows.append([group.label, f"{len(group.query_ids):,}", *(f"{v:.3f}" for v in values)])
    if len(report.groups) > 1:
        means = [f"{system.mean[main].mean:.3f}" for system in comparison.systems]
        rows.append(["mean", "", *means])
    return rows


def by_length(comparison: Comparison) -> Cells:
    """Return the table by length of the relevant document, header first."""
    rows = [["characters", "queries", *(system.name for system in comparison.systems)]]
    for band in comparison.lengths:
        label = f"{band.shortest:,}-{band.longest:,}"
        rows.append([label, f"{band.num_queries:,}", *(f"{mean:.3f}" for mean in band.means)])
    return rows


def pairwise(comparison: Comparison) -> Cells:
    """Return the table of all pairs of systems, header first."""
    rows = [["system", "less", "difference", "p", "p (Holm)"]]
    for each in comparison.differences:
        p_values = p_text(each.p_value).removesuffix(" *"), p_text(each.corrected_p_value)
        rows.append([each.system, each.other, signed(each.mean), *p_values])
    return rows


def comparison_table(comparison: Comparison) -> RichGroup:
    """Return a comparison for a terminal: the systems, then by language."""
    title = comparison_title(comparison)
    parts = [rich_table(summary(comparison), title), rich_table(by_group(comparison), None)]
    return RichGroup(*parts, *dropped_line(comparison.report), METHOD)


INTERVALS = (
    f"Intervals: {CONFIDENCE:.0%}, bootstrap over queries. p: paired randomisation test with "
    "Holm's correction; * is below 0.05."
)
METHOD = f"{INTERVALS} Milliseconds: one query after another, read anew."


def comparison_title(comparison: Comparison) -> str:
    """Return what was compared, on what, and how."""
    report = comparison.report
    return f"{len(comparison.systems)} systems on {report.dataset}, {MODE_WORDS[report.mode]}"


def rich_table(cells: Cells, title: str | None) -> Table:
    """Return a table for a terminal, its first column to the left."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, title_style="bold")
    for i, name in enumerate(cells[0]):
        table.add_column(name, justify="left" if i == 0 else "right")
    for row in cells[1:]:
        table.add_row(*row, style="bold" if row[0] == "mean" else None)
    return table


def comparison_markdown(comparison: Comparison, provenance: ComparisonProvenance) -> str:
    """Return a comparison as a page of Markdown.

    Args:
        comparison: The comparison.
        provenance: What the systems are, date and further settings.

    Returns:
        The page.
    """
    settings = comparison_dict(comparison, provenance)["settings"]
    facts = [
        *(f"{name}: {words}" for name, words in provenance.systems.items()),
        *([f"Date: {provenance.date}"] if provenance.date else []),
        *dropped_line(comparison.report),
        "Settings: " + ", ".join(f"{name}={value}" for name, value in settings.items()),
        METHOD,
    ]
    parts = [f"# {comparison_title(comparison)}", markdown_table(summary(comparison))]
    parts += ["## By language", markdown_table(by_group(comparison))]
    parts += ["## By length of the relevant document", markdown_table(by_length(comparison))]
    if len(comparison.systems) > 2:
        parts += ["## Every pair", markdown_table(pairwise(comparison))]
    return "\n\n".join([*parts, "\n".join(f"- {fact}" for fact in facts)]) + "\n"


def write_comparison(
    comparison: Comparison, provenance: ComparisonProvenance, folder: str | Path
) -> list[Path]:
    """Write ``report.json``, ``report.md`` and ``report.html``, each whole or not at all.

    Args:
        comparison: The comparison.
        provenance: What the systems are, date and further settings.
        folder: Where to; made if need be. Older reports in it are replaced.

    Returns:
        The files.

    Raises:
        ConfigError: If the folder cannot be written to.
    """
    content = comparison_dict(comparison, provenance)
    tables = {
        "Every pair": pairwise(comparison) if len(comparison.systems) > 2 else [],
        "By length of the relevant document": by_length(comparison),
    }
    texts = (
        json.dumps(content, indent=1, ensure_ascii=False) + "\n",
        comparison_markdown(comparison, provenance),
        comparison_page(content, comparison_title(comparison), summary(comparison), tables, METHOD),
    )
    return write_files(folder, dict(zip(COMPARISON_FILES, texts, strict=True)))
