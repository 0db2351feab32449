"""A report on variants: one table for a terminal, and JSON, Markdown and a page with charts."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from polyrank.compress.report.variants import VariantReport
from polyrank.evaluation.comparison_page import comparison_page, table_page
from polyrank.evaluation.comparison_report import (
    INTERVALS,
    ComparisonProvenance,
    by_group,
    comparison_dict,
    p_text,
)
from polyrank.evaluation.report import library_versions, markdown_table, write_files
from polyrank.evaluation.tables import Cells

FORMAT = "polyrank-variants-1"
REPORT_FILES = ("report.json", "report.md", "report.html")
_MEGABYTE = 1_000_000
_FOOTPRINT = (
    "MB on disk, seconds to the first result, most memory (MB), memory that is no file's (MB) and "
    "milliseconds a document, each in a process of its own; × is the first variant's over it."
)


def variants_dict(report: VariantReport, date: str | None) -> dict[str, Any]:
    """Return a report as JSON knows it.

    Args:
        report: The report.
        date: When it was measured, ISO 8601.

    Returns:
        Nested dicts, lists, strings and numbers.
    """
    content = {
        "format": FORMAT,
        "date": date,
        "settings": dict(report.settings),
        "versions": library_versions(),
        "variants": [
            {
                "name": each.variant.name,
                "folder": each.variant.folder.name,
                "gate": each.gate,
                **asdict(each.footprint),
            }
            for each in report.variants
        ],
    }
    if report.quality is not None:
        content["quality"] = _quality_dict(report, date)
    return content


def _quality_dict(report: VariantReport, date: str | None) -> dict[str, Any]:
    assert report.quality is not None
    words = {each.variant.name: each.variant.folder.name for each in report.variants}
    provenance = ComparisonProvenance(words, date, dict(report.settings))
    return comparison_dict(report.quality, provenance)


def summary(report: VariantReport) -> Cells:
    """Return the table of variants, header first."""
    header = [
        "variant",
        "MB on disk",
        "×",
        "load, s",
        "memory, MB",
        "own, MB",
        "ms a document",
        "×",
    ]
    quality = report.quality
    if quality is not None:
        header += [quality.report.measures[0], "difference", "p (Holm)"]
    rows = [header]
    source = report.variants[0].footprint
    for i, each in enumerate(report.variants):
        own = each.footprint
        row = [
            each.variant.name,
            f"{own.disk_bytes / _MEGABYTE:,.1f}",
            f"{source.disk_bytes / own.disk_bytes:.2f}",
            f"{own.load_s:.2f}",
            _megabytes(own.peak_bytes),
            _megabytes(own.own_bytes),
            f"{own.document_s * 1000:.2f}",
            f"{source.document_s / own.document_s:.2f}",
        ]
        if quality is not None:
            system = quality.systems[i]
            row.append(f"{system.mean[quality.report.measures[0]].mean:.4f}")
            difference = quality.from_baseline(system.name)
            if difference is None:
                row += ["source", ""]
            else:
                row += [f"{difference.mean.mean:+.4f}", p_text(difference.corrected_p_value)]
        rows.append(row)
    return rows


def _megabytes(size: int | None) -> str:
    return "" if size is None else f"{size / _MEGABYTE:,.0f}"


def title(report: VariantReport) -> str:
    """Return what was measured, in a line."""
    count = len(report.variants)
    words = f"{count} variant{'s' if count > 1 else ''} of {report.variants[0].variant.name}"
    return words if report.quality is None else f"{words} on {report.quality.report.dataset}"


def variants_markdown(report: VariantReport, date: str | None) -> str:
    """Return a report as a page of Markdown.

    Args:
        report: The report.
        date: When it was measured, ISO 8601.

    Returns:
        The page.
    """
    parts = [f"# {title(report)}", markdown_table(summary(report))]
    if report.quality is not None:
        parts += ["## By language", markdown_table(by_group(report.quality))]
    return "\n\n".join([*parts, "\n".join(f"- {fact}" for fact in _facts(report, date))]) + "\n"


def _facts(report: VariantReport, date: str | None) -> Sequence[str]:
    return [
        *(f"{each.variant.name}: {each.gate}" for each in report.variants),
        *([f"Date: {date}"] if date else []),
        "Settings: " + ", ".join(f"{name}={value}" for name, value in report.settings.items()),
        _FOOTPRINT,
        *([INTERVALS] if report.quality is not None else []),
    ]


def write_variants(report: VariantReport, date: str | None, folder: str | Path) -> list[Path]:
    """Write ``report.json``, ``report.md`` and ``report.html``, each whole or not at all.

    Args:
        report: The report.
        date: When it was measured, ISO 8601.
        folder: Where to; made if need be. Older reports in it are replaced.

    Returns:
        The files.

    Raises:
        ConfigError: If the folder cannot be written to.
    """
    texts = (
        json.dumps(variants_dict(report, date), indent=1, ensure_ascii=False) + "\n",
        variants_markdown(report, date),
        _page(report, date),
    )
    return write_files(folder, dict(zip(REPORT_FILES, texts, strict=True)))


def _page(report: VariantReport, date: str | None) -> str:
    cells, facts = summary(report), _facts(report, date)
    if report.quality is None:
        return table_page(title(report), cells, facts)
    footprints = [each.footprint for each in report.variants]
    costs = {
        "MB on disk": [each.disk_bytes / _MEGABYTE for each in footprints],
        "milliseconds a document": [each.document_s * 1000 for each in footprints],
    }
    tables = {"By language": by_group(report.quality)}
    content = _quality_dict(report, date)
    return comparison_page(
        content, title(report), cells, tables, f"{_FOOTPRINT} {INTERVALS}", costs
    )
