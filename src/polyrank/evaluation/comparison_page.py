"""A comparison of systems as one HTML page: no script, no font, no picture from elsewhere.

Charts are boxes with marks placed in per cent, so that they stretch from a phone to a wide screen
while their words keep their size. Colours are Okabe and Ito's, which readers who confuse red and
green tell apart; shapes differ too.
"""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from polyrank.evaluation.tables import Cells

_COLOURS = (
    ("#0072B2", "#56B4E9"),  # on white, on black
    ("#D55E00", "#E69F00"),
    ("#007A5A", "#2FC79A"),
    ("#AA4499", "#E58BCB"),
    ("#6B6B00", "#F0E442"),
    ("#5A5A5A", "#B5B5B5"),
    ("#332288", "#9D8DF1"),
    ("#8A2D2D", "#F08080"),
)
_SHAPES = (
    "circle(50%)",
    "polygon(50% 0, 100% 50%, 50% 100%, 0 50%)",
    "polygon(50% 5%, 100% 95%, 0 95%)",
    "inset(10%)",
    "polygon(0 5%, 100% 5%, 50% 95%)",
    "polygon(35% 0, 65% 0, 65% 35%, 100% 35%, 100% 65%, 65% 65%, 65% 100%, 35% 100%, 35% 65%, "
    "0 65%, 0 35%, 35% 35%)",
    "polygon(25% 5%, 75% 5%, 100% 50%, 75% 95%, 25% 95%, 0 50%)",
    "polygon(0 0, 100% 0, 100% 40%, 0 40%)",
)
_STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1c; --faint: #6a6a6a; --line: #dcdcdc;
  --page: #fff; %(light)s }
@media (prefers-color-scheme: dark) { :root { --ink: #ececec; --faint: #a5a5a5; --line: #3a3a3a;
  --page: #151515; %(dark)s } }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 60rem; color: var(--ink);
  background: var(--page); font: 1rem/1.5 system-ui, sans-serif }
h1 { font-size: 1.5rem; line-height: 1.25 } h2 { font-size: 1.1rem; margin-top: 2.5rem }
p, li { color: var(--faint); font-size: .9rem } .wide { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem }
th, td { padding: .3rem .8rem .3rem 0; text-align: right; white-space: nowrap }
th { font-weight: 600; color: var(--faint) } th:first-child, td:first-child { text-align: left }
tr + tr { border-top: 1px solid var(--line) }
.key { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; font-size: .9rem; margin: .5rem 0 }
.mark { display: inline-block; width: .8rem; height: .8rem }
.row { display: grid; grid-template-columns: 9rem 1fr; align-items: center;
  font-size: .85rem; border-top: 1px solid var(--line) }
.row .box { position: relative; margin: .15rem .6rem }
.row .box > i { position: absolute; width: .8rem; height: .8rem; transform: translateX(-50%%) }
.row .box > b { position: absolute; height: 2px; opacity: .55 }
.axis { position: relative; height: 1.4rem; margin: 0 .6rem 0 9.6rem;
  font-size: .75rem; color: var(--faint) }
.axis span { position: absolute; transform: translateX(-50%%) }
.plot { position: relative; height: 17rem; margin: 1rem 1rem 0 3rem;
  border-left: 1px solid var(--faint); border-bottom: 1px solid var(--faint) }
.plot > i { position: absolute; width: 1rem; height: 1rem; transform: translate(-50%%, 50%%) }
.plot > b { position: absolute; width: 2px; opacity: .55; transform: translateX(-50%%) }
.plot > span { position: absolute; font-size: .75rem; color: var(--faint) }
.plot > .x { bottom: -1.4rem; transform: translateX(-50%%) }
.plot > .y { left: -2.7rem; transform: translateY(50%%) }
.under { text-align: center; margin-top: 1.6rem }
@media (max-width: 40rem) { .row { grid-template-columns: 4.5rem 1fr }
  .axis { margin-left: 5.1rem } }
"""


def comparison_page(
    content: Mapping[str, Any],
    title: str,
    summary: Cells,
    tables: Mapping[str, Cells],
    method: str,
    costs: Mapping[str, Sequence[float]] | None = None,
) -> str:
    """Return the page.

    Args:
        content: The comparison as `comparison_dict` gives it.
        title: Its heading.
        summary: The table of systems.
        tables: Further tables by heading; empty ones are left out.
        method: How intervals and p-values were made.
        costs: What quality is drawn beside: for each unit a value above 0 of each system; None
            draws it beside the milliseconds of a query.

    Returns:
        HTML that needs nothing beside itself.
    """
    main, systems = content["measures"][0], content["systems"]
    if costs is None:
        costs = {"milliseconds a query, median": [each["latency"]["p50_ms"] for each in systems]}
    names = [system["name"] for system in systems]
    key = _key(names)
    parts = [
        f"<h1>{escape(title)}</h1>",
        _table(summary),
        f"<p>{escape(method)}</p>",
        *(
            f"<h2>{escape(main)} beside {escape(unit)}</h2>{key}"
            + _scatter(systems, main, unit, values)
            for unit, values in costs.items()
        ),
        f"<h2>{escape(main)} by language</h2>",
        key,
        _rows(_by_language(systems, main)),
        f"<h2>{escape(main)} by length of the relevant document, in characters</h2>",
        key,
        _rows(_by_length(content["lengths"])),
        *(f"<h2>{escape(name)}</h2>{_table(cells)}" for name, cells in tables.items() if cells),
        _facts(content),
    ]
    return _DOCUMENT.format(title=escape(title), style=_style(), body="\n".join(parts))


def table_page(title: str, cells: Cells, facts: Sequence[str]) -> str:
    """Return a page of one table.

    Args:
        title: Its heading.
        cells: The table, header first.
        facts: What was measured and how, a sentence each.

    Returns:
        HTML that needs nothing beside itself.
    """
    items = "".join(f"<li>{escape(fact)}</li>" for fact in facts)
    body = f"<h1>{escape(title)}</h1>{_table(cells)}<ul>{items}</ul>"
    return _DOCUMENT.format(title=escape(title), style=_style(), body=body)


_DOCUMENT = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title><style>{style}</style></head>
<body>
{body}
</body></html>
"""

_Row = tuple[str, Sequence[tuple[float, float, float]]]


def _style() -> str:
    light = " ".join(f"--c{i}: {light};" for i, (light, _) in enumerate(_COLOURS))
    dark = " ".join(f"--c{i}: {dark};" for i, (_, dark) in enumerate(_COLOURS))
    return _STYLE % {"light": light, "dark": dark}


def _mark(place: int, where: str, words: str = "") -> str:
    colour, shape = f"var(--c{place % len(_COLOURS)})", _SHAPES[place % len(_SHAPES)]
    hint = f' title="{escape(words)}"' if words else ""
    return f'<i class="mark"{hint} style="background:{colour};clip-path:{shape};{where}"></i>'


def _key(names: Sequence[str]) -> str:
    entries = [f"<span>{_mark(i, '')} {escape(name)}</span>" for i, name in enumerate(names)]
    return f'<div class="key">{"".join(entries)}</div>'


def _table(cells: Cells) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in cells[0])
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in cells[1:]
    )
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'


def _by_language(systems: Sequence[Mapping[str, Any]], measure: str) -> list[_Row]:
    def triple(value: Mapping[str, float]) -> tuple[float, float, float]:
        return value["mean"], value["low"], value["high"]

    groups = systems[0]["groups"]
    rows: list[_Row] = [
        (group["label"], [triple(system["groups"][i][measure]) for system in systems])
        for i, group in enumerate(groups)
    ]
    if len(groups) > 1:
        rows.append(("mean", [triple(system["mean"][measure]) for system in systems]))
    return rows


def _by_length(bands: Sequence[Mapping[str, Any]]) -> list[_Row]:
    return [
        (
            f"{band['shortest']:,}-{band['longest']:,}",
            [(mean, mean, mean) for mean in band["means"]],
        )
        for band in bands
    ]


def _rows(rows: Sequence[_Row]) -> str:
    """Return one row a label, with a mark and an interval for each system."""
    low, high, ticks = _scale(
        [value for _, triples in rows for triple in triples for value in triple]
    )

    def place(value: float) -> float:
        return 100 * (value - low) / (high - low)

    drawn = []
    for label, triples in rows:
        marks = []
        for i, (mean, least, most) in enumerate(triples):
            top = f"top:{0.15 + i * 0.9:.2f}rem"
            colour = f"var(--c{i % len(_COLOURS)})"
            marks.append(
                f'<b style="left:{place(least):.2f}%;width:{place(most) - place(least):.2f}%;'
                f'top:{0.5 + i * 0.9:.2f}rem;background:{colour}"></b>'
                + _mark(
                    i, f"left:{place(mean):.2f}%;{top}", f"{mean:.3f} [{least:.3f}, {most:.3f}]"
                )
            )
        height = f"height:{0.3 + 0.9 * len(triples):.2f}rem"
        drawn.append(
            f'<div class="row"><span>{escape(label)}</span>'
            f'<div class="box" style="{height}">{"".join(marks)}</div></div>'
        )
    axis = "".join(f'<span style="left:{place(t):.2f}%">{t:.4g}</span>' for t in ticks)
    return "".join(drawn) + f'<div class="axis">{axis}</div>'


def _scatter(
    systems: Sequence[Mapping[str, Any]], measure: str, unit: str, costs: Sequence[float]
) -> str:
    """Return quality against what it costs, which has a logarithmic scale."""
    means = [system["mean"][measure] for system in systems]
    low, high, ticks = _scale([value for mean in means for value in mean.values()])
    places = [math.log10(max(cost, 1e-3)) for cost in costs]
    left, right = math.floor(min(places)), math.ceil(max(places))
    right = max(right, left + 1)
    marks = []
    for i, (system, mean, at) in enumerate(zip(systems, means, places, strict=True)):
        x = 100 * (at - left) / (right - left)
        y, least, most = (100 * (mean[k] - low) / (high - low) for k in ("mean", "low", "high"))
        words = f"{system['name']}: {mean['mean']:.3f}, {costs[i]:.4g} {unit}"
        marks.append(
            f'<b style="left:{x:.2f}%;bottom:{least:.2f}%;height:{most - least:.2f}%;'
            f'background:var(--c{i % len(_COLOURS)})"></b>'
            + _mark(i, f"left:{x:.2f}%;bottom:{y:.2f}%", words)
        )
    across = [
        f'<span class="x" style="left:{100 * (t - left) / (right - left):.2f}%">{10.0**t:g}</span>'
        for t in range(left, right + 1)
    ]
    up = [
        f'<span class="y" style="bottom:{100 * (t - low) / (high - low):.2f}%">{t:.4g}</span>'
        for t in ticks
    ]
    return (
        f'<div class="plot">{"".join([*marks, *across, *up])}</div>'
        f'<p class="under">{escape(unit)}</p>'
    )


def _scale(values: Sequence[float]) -> tuple[float, float, list[float]]:
    """Return the ends of an axis and three to seven round ticks on it."""
    least, most = min(values), max(values)
    span = max(most - least, 1e-3)
    step = 10 ** math.floor(math.log10(span))
    step = next(step * k for k in (0.2, 0.5, 1, 2, 5) if span / (step * k) <= 5)
    first, last = math.floor(least / step), math.ceil(most / step)
    last = max(last, first + 1)
    return first * step, last * step, [i * step for i in range(first, last + 1)]


def _facts(content: Mapping[str, Any]) -> str:
    lines = [f"{system['name']}: {system['is']}" for system in content["systems"]]
    lines += [f"Date: {content['date']}"] if content["date"] else []
    lines += [f"{name}: {value}" for name, value in content["settings"].items()]
    lines += [f"{name} {value}" for name, value in content["versions"].items()]
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    words = "What was measured, with which settings"
    return f"<details><summary>{words}</summary><ul>{items}</ul></details>"
