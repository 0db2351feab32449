"""An evaluation as JSON and Markdown, and the three files that keep it."""

import io
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from polyrank._files import replacing
from polyrank.errors import ConfigError
from polyrank.evaluation.bootstrap import CONFIDENCE, Estimate
from polyrank.evaluation.plot import draw
from polyrank.evaluation.results import GroupResult, Report
from polyrank.evaluation.tables import (
    STAGES,
    Cells,
    by_language,
    by_measure,
    dropped_line,
    estimates_of,
    timing_lines,
    title_line,
)

FORMAT = "polyrank-eval-1"
REPORT_FILES = ("report.json", "report.md", "plot.png")
_LIBRARIES = ("polyrank", "bm25s", "ir_measures", "pytrec_eval-terrier", "numpy", "onnxruntime")


@dataclass(frozen=True, slots=True)
class Provenance:
    """What a report cannot know of itself.

    Attributes:
        first_stage: Name of the first stage, such as "bm25" or a model.
        reranker: Name of the reranker, or None where there was none.
        date: When it was measured, ISO 8601, or None.
        settings: Further settings to record, such as the encoder and its threads.
    """

    first_stage: str
    reranker: str | None = None
    date: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


def report_dict(report: Report, provenance: Provenance) -> dict[str, Any]:
    """Return a report as JSON knows it: settings, versions, and every figure with its interval.

    Args:
        report: The report.
        provenance: Names, date and further settings.

    Returns:
        Nested dicts, lists, strings and numbers.
    """
    return {
        "format": FORMAT,
        "dataset": report.dataset,
        "date": provenance.date,
        "first_stage": provenance.first_stage,
        "reranker": provenance.reranker,
        "settings": asdict(report.config) | {"mode": report.mode} | dict(provenance.settings),
        "versions": library_versions(),
        "measures": list(report.measures),
        "confidence": CONFIDENCE,
        "groups": [_group_dict(group) for group in report.groups],
        "mean": {name: _as_dicts(report.mean(stage)) or None for name, stage in STAGES.items()},
        "timings": {
            step: asdict(timing) | {"per_second": timing.per_second}
            for step, timing in report.timings.items()
        },
    }


def _group_dict(group: GroupResult) -> dict[str, Any]:
    return {
        "label": group.label,
        "query_language": group.query_language,
        "document_language": group.document_language,
        "num_queries": len(group.query_ids),
        "num_documents": group.num_documents,
        "num_dropped_queries": group.num_dropped_queries,
        **{name: _as_dicts(estimates_of(stage(group))) or None for name, stage in STAGES.items()},
    }


def _as_dicts(estimates: Mapping[str, Estimate]) -> dict[str, dict[str, float]]:
    return {name: asdict(value) for name, value in estimates.items()}


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that measure."""
    found: dict[str, str] = {}
    for library in _LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:  # the encoders are extras of their own
            continue
    return found


def report_markdown(report: Report, provenance: Provenance) -> str:
    """Return a report as a page of Markdown that shows ``plot.png``.

    Args:
        report: The report.
        provenance: Names, date and further settings.

    Returns:
        The page.
    """
    settings = report_dict(report, provenance)["settings"]
    facts = [
        f"First stage: {provenance.first_stage}, top {report.config.top_k}",
        f"Reranker: {provenance.reranker or 'none'}{_blend(report)}",
        *([f"Date: {provenance.date}"] if provenance.date else []),
        *dropped_line(report),
        *timing_lines(report),
        "Settings: " + ", ".join(f"{name}={value}" for name, value in settings.items()),
        "Versions: " + ", ".join(f"{name} {value}" for name, value in library_versions().items()),
        f"Intervals: {CONFIDENCE:.0%}, bootstrap over queries",
    ]
    parts = [
        f"# {title_line(report)}",
        markdown_table(by_language(report)),
        markdown_table(by_measure(report)),
        "![by language](plot.png)",
        "\n".join(f"- {fact}" for fact in facts),
    ]
    return "\n\n".join(parts) + "\n"


def _blend(report: Report) -> str:
    weight = report.config.first_stage_weight
    if not weight or not report.is_reranked:
        return ""
    return f", plus {weight:.4g} times the first stage's standardised scores"


def markdown_table(cells: Cells) -> str:
    """Return a table in Markdown, its first column to the left."""
    rule = ["---"] + ["---:"] * (len(cells[0]) - 1)
    return "\n".join(f"| {' | '.join(row)} |" for row in [cells[0], rule, *cells[1:]])


def report_json(report: Report, provenance: Provenance) -> str:
    """Return a report as a JSON text, indented.

    Args:
        report: The report.
        provenance: Names, date and further settings.

    Returns:
        The text, ending in a line feed.
    """
    return json.dumps(report_dict(report, provenance), indent=1, ensure_ascii=False) + "\n"


def prepare_folder(folder: Path) -> None:
    """Make the folder for a report, before hours of work depend on it.

    Args:
        folder: Where the report will go.

    Raises:
        ConfigError: If it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise ConfigError(f"{folder} cannot be made a folder for the report: {exc}") from exc
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"{folder} cannot be written to. Choose another folder.")


def write_files(folder: str | Path, contents: Mapping[str, str | bytes]) -> list[Path]:
    """Write the files of a report, each whole or not at all.

    Args:
        folder: Where to; made if need be. Older files in it are replaced.
        contents: Of each file, by its name.

    Returns:
        The files.

    Raises:
        ConfigError: If the folder cannot be written to.
    """
    folder = Path(folder)
    prepare_folder(folder)
    paths = [folder / name for name in contents]
    for path, content in zip(paths, contents.values(), strict=True):
        with replacing(path) as temporary:
            temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    return paths


def write_report(report: Report, provenance: Provenance, folder: str | Path) -> list[Path]:
    """Write ``report.json``, ``report.md`` and ``plot.png``, each whole or not at all.

    Args:
        report: The report.
        provenance: Names, date and further settings.
        folder: Where to; made if need be. Older reports in it are replaced.

    Returns:
        The files.

    Raises:
        ConfigError: If the folder cannot be written to.
    """
    picture = io.BytesIO()
    draw(report, provenance.first_stage, provenance.reranker).savefig(picture, format="png")
    contents = (
        report_json(report, provenance),
        report_markdown(report, provenance),
        picture.getvalue(),
    )
    return write_files(folder, dict(zip(REPORT_FILES, contents, strict=True)))
