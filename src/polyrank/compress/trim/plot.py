"""The picture of a trimmed vocabulary: what each language keeps, and how much longer it gets.

Colours are from Okabe and Ito's palette; shapes differ too.
"""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from polyrank.compress.trim.record import TrimRecord

MOST_LANGUAGES = 40
_TOKENS, _TEXTS, _GROWTH = "#0072B2", "#D55E00", "#009E73"
_INK, _FAINT = "#222222", "#B8B8B8"


def draw_trim(record: TrimRecord) -> Figure:
    """Return the picture of the languages with most held-out tokens.

    Args:
        record: What trimming did.

    Returns:
        A figure on matplotlib's Agg canvas, ready for `savefig`.
    """
    ranked = sorted(record.languages.items(), key=lambda item: -item[1].num_tokens)
    shown = sorted(ranked[:MOST_LANGUAGES], key=lambda item: item[1].kept)
    height = 1.9 + 0.24 * max(len(shown), 4)
    figure = Figure(figsize=(9.0, height), dpi=150, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    figure.suptitle(
        f"{record.model}: {record.pieces_after:,} of {record.pieces:,} pieces",
        x=0.01,
        ha="left",
        fontsize=12,
        fontweight="bold",
        color=_INK,
    )
    shares, growth = figure.subplots(1, 2, sharey=True, width_ratios=(2, 1))
    places = np.arange(len(shown))
    values = [figures for _, figures in shown]
    shares.plot([100 * v.kept for v in values], places, "D", color=_TOKENS, label="tokens kept")
    shares.plot(
        [100 * v.unchanged for v in values],
        places,
        "o",
        color=_TEXTS,
        markerfacecolor="white",
        label="texts cut as before",
    )
    growth.plot([100 * v.growth for v in values], places, "s", color=_GROWTH, label="more tokens")
    shares.set_yticks(places, [language for language, _ in shown])
    shares.set_ylim(max(len(shown) - 0.4, 0.6), -0.6)
    _dress(shares, "% of held-out tokens and texts")
    _dress(growth, "% more tokens a text")
    figure.legend(loc="outside lower left", ncols=3, frameon=False, fontsize=9)
    return figure


def _dress(axes: Axes, label: str) -> None:
    axes.set_xlabel(label, color=_INK)
    axes.grid(visible=True, color="#E6E6E6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, colors=_INK)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_FAINT)
