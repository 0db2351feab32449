"""The page of results: what was measured, and how, in sentences and two tables."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.stores.corpus import MOST_CHARACTERS, Corpus
from benchmarks.stores.forms import ROW_CANDIDATES, ROW_QUERIES

_HEAD = """\
# Stores of vectors, and forms of storage

`make bench-stores` on {machine}. {passages:,} sections of LibreOffice's help of at most {most}
characters in {languages}; {queries} headings as queries, each in one
language; relevant is the heading's section in every language that has it. Vectors and reranking by
the model that ships, which was trained on pages like these: compare rows, not with other data.
{embed} Other work may have run on the cores.

Recall@100 is against exact search over the float32 vectors of the same passages. Times of a query
are of the store alone, one query after another, top 100, without the first ten; seconds and bytes
a passage hold text, metadata and indexes too. Reranked: all 100.

## Stores

"""
_FORMS = """
## Forms of storage

Bytes are of the vectors, or rows, alone. Rows: {queries} of the queries, the {candidates} nearest
passages of each, reranked by rows that were kept so.

"""


def write(
    kept: Mapping[str, Any], corpus: Corpus, path: Path, machine: str, languages: Sequence[str]
) -> None:
    """Write the page."""
    speed = 1000 * corpus.embed_s / len(corpus.ids)
    text = _HEAD.format(
        machine=machine,
        passages=len(corpus.ids),
        most=MOST_CHARACTERS,
        languages=", ".join(languages),
        queries=len(corpus.queries),
        embed=f"Embedding took {speed:.1f} ms a passage.",
    )
    text += _table(kept["stores"])
    text += _FORMS.format(queries=ROW_QUERIES, candidates=ROW_CANDIDATES)
    text += _table(kept["forms"])
    path.write_text(text, encoding="utf8")


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    lines += [
        "| " + " | ".join(_cell(name, row.get(name)) for name in names) + " |" for row in rows
    ]
    return "\n".join(lines) + "\n"


def _cell(name: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if name in ("passages", "bytes a passage"):
        return f"{value:,.0f}"
    return f"{value:.2f}" if " ms" in name or name.startswith("ms") else f"{value:.3f}"
