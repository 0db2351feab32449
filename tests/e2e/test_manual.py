"""Every Python block of README and the manual runs, offline, with the model that ships.

Blocks of a page share their names, in order. Before them stands what a reader has at hand: a few
documents. A block that needs more (a server, a model of the reader's own) stands behind
`<!-- skip: next "reason" -->`.
"""

from pathlib import Path

import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "docs/index.md", *sorted(ROOT.glob("docs/[thr]*/*.md"))]
DOCUMENTS = ["Cats live 12 to 18 years.", "Les chats dorment beaucoup.", "犬は吠える。"]
SYBIL = Sybil([PythonCodeBlockParser(), SkipParser()], patterns=["*.md"])


def has_code(page: Path) -> bool:
    return "```python" in page.read_text("utf8")


@pytest.mark.parametrize(
    "page", [page for page in PAGES if has_code(page)], ids=lambda page: page.stem
)
def test_the_code_of_a_page_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    document = SYBIL.parse(page)
    document.namespace.update(documents=DOCUMENTS, texts=DOCUMENTS, query="How long do cats live?")
    for example in document.examples():
        try:
            example.evaluate()
        except pytest.skip.Exception:
            continue
