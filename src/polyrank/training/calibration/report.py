"""What probabilities are worth, before and after: figures by language, as HTML, Markdown or JSON.

The page holds its drawings itself, as SVG, and asks for nothing from anywhere.
"""

import html
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyrank._files import replacing
from polyrank.calibration.features import Float64Array
from polyrank.calibration.measures import (
    NUM_BINS,
    brier_score,
    calibration_error,
    expected_error,
    log_loss,
    reliability_by_width,
)
from polyrank.errors import ConfigError

FIRST = 10  # of each ranking, whose calibration error is told apart
SUFFIXES = (".html", ".md", ".json", ".svg")
_SIDE, _MARGIN = 300, 42


@dataclass(frozen=True, slots=True)
class Judged:
    """Probabilities of pairs, and what came true.

    Attributes:
        before: The model's own scores, 0 to 1, shape (num_pairs,).
        after: Calibrated probabilities.
        came_true: Whether the document answers, or the label is right.
        languages: Of each pair.
        owners: Number of each pair's query.
        ranks: Place of each pair in its query's ranking, from 0.
    """

    before: Float64Array
    after: Float64Array
    came_true: NDArray[np.bool_]
    languages: NDArray[np.str_]
    owners: NDArray[np.intp]
    ranks: NDArray[np.intp]

    def part(self, rows: NDArray[np.bool_]) -> "Judged":
        """Return some of the pairs."""
        return Judged(
            self.before[rows],
            self.after[rows],
            self.came_true[rows],
            self.languages[rows],
            self.owners[rows],
            self.ranks[rows],
        )


def describe(judged: Judged, *, is_ranking: bool) -> dict[str, Any]:
    """Return figures of all pairs and of each language.

    Args:
        judged: The pairs.
        is_ranking: Whether pairs are ranked documents, whose first ones are looked at apart.

    Returns:
        "overall" and "languages" with "before" and "after", and the bins of the diagrams.
    """
    languages = sorted(set(judged.languages.tolist()))
    return {
        "overall": _figures(judged, NUM_BINS, is_ranking=is_ranking),
        "languages": {
            language: _figures(judged.part(judged.languages == language), 10, is_ranking=is_ranking)
            for language in languages
        },
        "bins": {
            name: [asdict(each) for each in reliability_by_width(values, judged.came_true)]
            for name, values in (("before", judged.before), ("after", judged.after))
        },
    }


def _figures(judged: Judged, num_bins: int, *, is_ranking: bool) -> dict[str, Any]:
    first = judged.ranks < FIRST
    found: dict[str, Any] = {
        "num_queries": len(np.unique(judged.owners)),
        "num_pairs": len(judged.before),
        "num_true": int(judged.came_true.sum()),
    }
    for name, values in (("before", judged.before), ("after", judged.after)):
        truths = judged.came_true
        own = {
            "ece": calibration_error(values, truths, num_bins),
            "brier": brier_score(values, truths),
            "log_loss": log_loss(values, truths),
        }
        if is_ranking:
            own["ece_first_10"] = calibration_error(values[first], truths[first], num_bins)
        found[name] = {key: round(value, 5) for key, value in own.items()}
    found["after"]["ece_by_chance"] = round(expected_error(judged.after, num_bins), 5)
    if is_ranking:
        found["at_half"] = _at_half(judged)
    return found


def _at_half(judged: Judged) -> dict[str, float]:
    """Return what a threshold of one half does: to pairs, and to queries with an answer or none."""
    kept = judged.after >= 0.5
    hits = int((kept & judged.came_true).sum())
    queries = np.unique(judged.owners)
    answered = np.isin(queries, judged.owners[judged.came_true])
    is_empty = ~np.isin(queries, judged.owners[kept])
    return {
        "precision": round(hits / max(1, int(kept.sum())), 4),
        "recall": round(hits / max(1, int(judged.came_true.sum())), 4),
        "empty_of_answered": round(float(is_empty[answered].mean()) if answered.any() else 0.0, 4),
        "empty_of_unanswered": round(
            float(is_empty[~answered].mean()) if (~answered).any() else 0.0, 4
        ),
        "num_unanswered": int((~answered).sum()),
    }


def check_report(path: Path | None) -> None:
    """Raise `ConfigError` if a report's name says no format that is written."""
    if path is not None and path.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"--report {path}: name a file that ends in {', '.join(SUFFIXES)}.")


def write_report(record: Mapping[str, Any], path: Path) -> None:
    """Write a record as its name says: .html, .md, .json, or .svg for the diagram alone.

    Args:
        record: What `calibrate` returned.
        path: The file.

    Raises:
        ConfigError: If the ending is another.
    """
    check_report(path)
    writers = {".html": as_html, ".md": as_markdown, ".svg": diagram}
    suffix = path.suffix.lower()
    text = writers[suffix](record) if suffix in writers else json.dumps(record, indent=1)
    with replacing(path) as written:
        written.write_text(text + "\n", "utf8")


def table(record: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return the figures by language as a head and rows of texts."""
    is_ranking = record["task"] == "rerank"
    names = ["ece", *(["ece_first_10"] if is_ranking else []), "brier", "log_loss"]
    words = {"ece": "ECE", "ece_first_10": "ECE@10", "brier": "Brier", "log_loss": "log loss"}
    head = ["language", "queries", "pairs", "true"]
    head += [f"{words[name]} before → after" for name in names]
    is_told = "ece_by_chance" in record["overall"]["after"]
    head += ["ECE by chance alone"] if is_told else []
    head += ["precision, recall at 0.5"] if is_ranking else []
    rows = []
    parts = [("all", record["overall"])]
    if len(record["languages"]) > 1:
        parts = [*record["languages"].items(), *parts]
    for language, own in parts:
        row = [language, *(f"{own[key]:,}" for key in ("num_queries", "num_pairs", "num_true"))]
        row += [f"{own['before'][name]:.3f} → {own['after'][name]:.3f}" for name in names]
        if is_told:
            row.append(f"{own['after']['ece_by_chance']:.3f}")
        if is_ranking:
            row.append(f"{own['at_half']['precision']:.2f}, {own['at_half']['recall']:.2f}")
        rows.append(row)
    return head, rows


def as_markdown(record: Mapping[str, Any]) -> str:
    """Return the figures as Markdown."""
    head, rows = table(record)
    lines = [f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows]]
    return "\n".join([f"# {_title(record)}", "", *_told(record), "", *lines])


def as_html(record: Mapping[str, Any]) -> str:
    """Return a page with the diagram and the figures, which needs nothing else."""
    head, rows = table(record)
    cells = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    told = "".join(f"<p>{html.escape(line)}</p>" for line in _told(record) if line)
    title = html.escape(_title(record))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width">'
        "<style>:root{color-scheme:light dark}body{font:15px system-ui,sans-serif;max-width:72em;"
        "margin:2em auto;padding:0 1em}table{border-collapse:collapse;font-variant-numeric:"
        "tabular-nums}td,th{padding:.3em .7em;text-align:right;border-bottom:1px solid #8884}"
        "td:first-child,th:first-child{text-align:left}svg{max-width:100%;height:auto}</style>"
        f"<h1>{title}</h1>{told}{diagram(record)}<table><thead><tr>{cells}</tr></thead>"
        f"<tbody>{body}</tbody></table></html>"
    )


def _title(record: Mapping[str, Any]) -> str:
    what = "rankings" if record["task"] == "rerank" else "labels"
    return f"Calibration of {record['model']}: {what}"


def _told(record: Mapping[str, Any]) -> list[str]:
    lines = [f"Data: {', '.join(record['data'])}."]
    if "method" in record:
        losses = record["held_out_log_loss"]
        listed = ", ".join(f"{name} {loss:.4f}" for name, loss in losses.items())
        lines += [
            "",
            f"Chosen: {record['method']}. Log loss held out by {record['held_out_by']}: {listed}.",
        ]
    return lines


def diagram(record: Mapping[str, Any]) -> str:
    """Return the reliability diagrams before and after, side by side, as SVG.

    Bins are of equal width, their dots as large as they are full; calibration errors are of bins
    of equally many pairs.
    """
    parts = [
        _panel(record["bins"][name], title, _MARGIN + i * (_SIDE + 2 * _MARGIN))
        for i, (name, title) in enumerate((("before", "score"), ("after", "probability")))
    ]
    width, height = 2 * _SIDE + 4 * _MARGIN, _SIDE + 2 * _MARGIN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img" font-family="sans-serif" font-size="12">'
        f"<title>{html.escape(_title(record))}</title>"
        f'<rect width="{width}" height="{height}" fill="#fff"/>{"".join(parts)}</svg>'
    )


def _panel(bins: Sequence[Mapping[str, float]], title: str, left: int) -> str:
    top, bottom = _MARGIN, _MARGIN + _SIDE
    points = [
        (left + each["probability"] * _SIDE, bottom - each["frequency"] * _SIDE) for each in bins
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    largest = max(each["count"] for each in bins)
    radii = [3 + 7 * math.sqrt(each["count"] / largest) for each in bins]
    dots = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="#0969da99"><title>'
        f"{each['count']:,.0f} pairs: said {each['probability']:.3f}, came true "
        f"{each['frequency']:.3f}</title></circle>"
        for (x, y), each, radius in zip(points, bins, radii, strict=True)
    )
    ticks = "".join(
        f'<text x="{left + share * _SIDE:.0f}" y="{bottom + 15}" text-anchor="middle">{share:g}'
        f'</text><text x="{left - 6}" y="{bottom - share * _SIDE + 4:.0f}" text-anchor="end">'
        f"{share:g}</text>"
        for share in (0, 0.25, 0.5, 0.75, 1)
    )
    return (
        f'<g fill="#1f2328"><text x="{left + _SIDE / 2}" y="{top - 14}" text-anchor="middle" '
        f'font-weight="bold">{title}</text>'
        f'<rect x="{left}" y="{top}" width="{_SIDE}" height="{_SIDE}" fill="none" '
        f'stroke="#8886"/><line x1="{left}" y1="{bottom}" x2="{left + _SIDE}" y2="{top}" '
        f'stroke="#888" stroke-dasharray="4 4"/><polyline points="{line}" fill="none" '
        f'stroke="#0969da" stroke-width="2"/>{dots}{ticks}'
        f'<text x="{left + _SIDE / 2}" y="{bottom + 32}" text-anchor="middle">said</text></g>'
    )
