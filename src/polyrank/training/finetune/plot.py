"""The picture of a run: loss and quality over the steps."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from polyrank.training.finetune.journal import Journal

_INK, _FAINT = "#222222", "#B8B8B8"
_COLOURS = ("#0072B2", "#D55E00", "#009E73")  # of Okabe and Ito's palette
_SMOOTHING = 0.9


def draw_training(journal: Journal, title: str, path: Path) -> None:
    """Write a picture of the losses, and of the evaluations where there are any.

    Args:
        journal: What happened.
        title: Above the picture.
        path: PNG file to write.
    """
    num_rows = 2 if journal.evaluations else 1
    figure = Figure(figsize=(8, 2.6 * num_rows + 0.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=_INK)
    axes = figure.subplots(num_rows, 1, sharex=True, squeeze=False)[:, 0]
    _losses(axes[0], journal)
    if journal.evaluations:
        _evaluations(axes[1], journal.evaluations)
    axes[-1].set_xlabel("step", color=_INK)
    figure.savefig(path)


def _losses(axes: Axes, journal: Journal) -> None:
    steps = [entry["step"] for entry in journal.losses]
    names = [name for name in journal.losses[0] if name != "step"] if journal.losses else []
    parts = names if len(names) != 2 else ["loss"]  # one part is the loss itself
    for name, colour in zip(parts, _COLOURS, strict=False):
        values = [entry.get(name, 0.0) for entry in journal.losses]
        axes.plot(steps, values, color=colour, linewidth=0.6, alpha=0.3)
        axes.plot(steps, _smooth(values), color=colour, linewidth=1.5, label=name)
    _dress(axes, "loss")


def _evaluations(axes: Axes, entries: list[dict[str, Any]]) -> None:
    steps = [entry["step"] for entry in entries]
    for group in entries[0]["groups"]:
        values = [entry["groups"].get(group) for entry in entries]
        axes.plot(steps, values, color=_FAINT, linewidth=0.6)
    means = [entry["value"] for entry in entries]
    axes.plot(steps, means, "o-", color=_COLOURS[0], markersize=4, label="mean")
    best = max(entries, key=lambda entry: entry["value"])
    axes.annotate(f"{best['value']:.4f}", (best["step"], best["value"]), fontsize=8, color=_INK)
    if entries[0].get("first_stage") is not None:
        axes.axhline(
            entries[0]["first_stage"], color=_COLOURS[1], linestyle="--", label="first stage"
        )
    _dress(axes, entries[0]["measure"])


def _smooth(values: list[float]) -> list[float]:
    """Exponential mean that starts unbiased."""
    smoothed, total, weight = [], 0.0, 0.0
    for value in values:
        total = _SMOOTHING * total + (1 - _SMOOTHING) * value
        weight = _SMOOTHING * weight + (1 - _SMOOTHING)
        smoothed.append(total / weight)
    return smoothed


def _dress(axes: Axes, label: str) -> None:
    axes.set_ylabel(label, color=_INK)
    axes.grid(visible=True, color="#E6E6E6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, colors=_INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    handles, _ = axes.get_legend_handles_labels()
    if handles:
        axes.legend(frameon=False, fontsize=8)
