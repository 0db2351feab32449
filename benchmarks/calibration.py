"""How good polyrank-small's probabilities are on evaluation sets that nothing was fitted on.

``make bench-calibration`` writes benchmarks/results/calibration.md and .json, and diagrams for
rankings and labels. At most 150 queries of each language of a set are ranked, each with the 50
passages nearest by the model's own vectors; PQuAD's unanswerable questions have none that answers.
Passages whose article is in the training data are left out with their queries.
"""

import argparse
import gzip
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from polyrank.checkpoint.hub import default_model_folder
from polyrank.cli.progress import steps
from polyrank.progress import StepProgress
from polyrank.training.calibration.job import CalibrateJob
from polyrank.training.calibration.learn import calibrate
from polyrank.training.calibration.report import as_markdown, diagram

HERE = Path(__file__).parent
SETS = ("xquad", "mlqa-dev", "tydiqa-dev", "jsquad-valid", "pquad-test", "arcd-test", "drcd-test")
UNANSWERABLE = "pquad-test"
NUM_QUERIES = 150
OVERALL, OF_A_LANGUAGE = 0.03, 0.05


def rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file."""
    with gzip.open(path, "rt", encoding="utf8") as file:
        return [json.loads(line) for line in file]


def write(path: Path, content: list[dict[str, Any]]) -> None:
    """Write rows as JSON lines."""
    with path.open("w", encoding="utf8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in content)


def prepare(source: Path, target: Path, num_queries: int) -> Path:
    """Write a part of an evaluation set: some queries a language, and all passages.

    Args:
        source: The set.
        target: Folder to make.
        num_queries: Of each language; as many unanswerable ones where the set has such.

    Returns:
        The folder.
    """
    target.mkdir(parents=True)
    shutil.copyfile(source / "corpus.jsonl.gz", target / "corpus.jsonl.gz")
    languages = {row["_id"]: row["lang"] for row in rows(source / "corpus.jsonl.gz")}
    lines = (source / "qrels.tsv").read_text("utf8").splitlines()[1:]
    answered: dict[str, set[str]] = {}
    for query_id, doc_id, grade in (line.split("\t") for line in lines):
        if int(grade) > 0:
            answered.setdefault(query_id, set()).add(languages[doc_id])
    generator = np.random.default_rng(0)
    asked = rows(source / "queries.jsonl.gz")
    kept: list[dict[str, Any]] = []
    for language in sorted({row["lang"] for row in asked}):
        own = [
            row
            for row in asked
            if row["lang"] == language
            and language in answered.get(row["_id"], ())
            and not row.get("article_in_train")
        ]
        kept += [own[i] for i in np.sort(generator.permutation(len(own))[:num_queries])]
    if source.name == UNANSWERABLE:
        none = rows(source / "unanswerable.jsonl.gz")
        none = [none[i] for i in np.sort(generator.permutation(len(none))[:num_queries])]
        kept += [{key: row[key] for key in ("_id", "text", "lang")} for row in none]
        lines += [f"{row['_id']}\t{doc_id}\t0" for row in none for doc_id in row["related"]]
    ids = {row["_id"] for row in kept}
    write(target / "queries.jsonl", kept)
    judged = [line for line in lines if line.split("\t")[0] in ids]
    (target / "qrels.tsv").write_text("\n".join(judged) + "\n", "utf8")
    return target


def verdict(record: Mapping[str, Any]) -> list[str]:
    """Return what of the aims was reached, in sentences."""
    overall = record["overall"]["after"]["ece"]
    found = {name: own["after"]["ece"] for name, own in record["languages"].items()}
    missed = [f"{name} {ece:.3f}" for name, ece in found.items() if ece > OF_A_LANGUAGE]
    chance = [own["after"].get("ece_by_chance", 0.0) for own in record["languages"].values()]
    word = "reached" if overall <= OVERALL else "missed"
    each = f"missed in {', '.join(missed)}" if missed else "reached in all"
    return [
        f"ECE overall {overall:.4f}: the aim of {OVERALL} is {word}.",
        f"The aim of {OF_A_LANGUAGE} in each language is {each} ({len(found)} languages)."
        + (
            f" Right probabilities would have {max(chance):.3f} there by chance alone."
            * any(chance)
        ),
    ]


def unanswerable_part(record: Mapping[str, Any]) -> list[str]:
    """Return what a threshold of one half does to queries with an answer and without."""
    lines = ["| language | queries | without answer | empty: no answer | empty: answer there |"]
    lines.append("|---|---|---|---|---|")
    for name, own in [*record["languages"].items(), ("all", record["overall"])]:
        half = own["at_half"]
        none = f"{half['empty_of_unanswered']:.2f}" if half["num_unanswered"] else ""
        lines.append(
            f"| {name} | {own['num_queries']:,} | {half['num_unanswered']} | {none} | "
            f"{half['empty_of_answered']:.2f} |"
        )
    return lines


def measure(
    given: argparse.Namespace, work: Path, progress: StepProgress | None
) -> dict[str, dict[str, Any]]:
    """Return the records of rankings and of labels."""
    model = str(given.model or default_model_folder())
    options = {"is_check": True, "row_cache_bytes": 1_500_000_000, "max_queries": None}
    records: dict[str, dict[str, Any]] = {}
    if given.only is not None:
        records = json.loads(given.output.with_suffix(".json").read_text("utf8"))
    if given.only != "classify":
        pools = tuple(
            prepare(given.data / "eval" / name, work / name, given.queries) for name in SETS
        )
        job = CalibrateJob(model, pools, **options)
        records["rerank"] = calibrate(job, progress=progress).record
    if given.only != "rerank":
        labelled = (given.data / "eval" / "relevance3",)
        job = CalibrateJob(model, labelled, "classify", **options)
        records["classify"] = calibrate(job, progress=progress).record
    return records


def page(records: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the results as Markdown."""
    ranked, labels = records["rerank"], records["classify"]
    lines = ["# Calibration of polyrank-small", "", (__doc__ or "").split("\n\n", 1)[1].strip(), ""]
    for name, record in (("rankings", ranked), ("labels", labels)):
        body = as_markdown(record).split("\n", 2)[2].strip()
        lines += [f"## {name.capitalize()}", "", *verdict(record), ""]
        lines += [f"![reliability of {name}](calibration-{name}.svg)", "", body, ""]
    lines += ["## A threshold of one half", ""]
    lines += ["Share of queries for which nothing is returned.", "", *unanswerable_part(ranked)]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(prog="calibration", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with eval/")
    parser.add_argument("--model", type=Path, help="left out: the model in the package")
    parser.add_argument("--queries", type=int, default=NUM_QUERIES, help="of each language")
    parser.add_argument("--only", choices=("rerank", "classify"), help="keep the other's figures")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "calibration.md")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as work, steps(quiet=False) as progress:
        records = measure(given, Path(work), progress)
    for name, record in (("rankings", records["rerank"]), ("labels", records["classify"])):
        path = given.output.with_name(f"{given.output.stem}-{name}.svg")
        path.write_text(diagram(record) + "\n", "utf8")
    given.output.with_suffix(".json").write_text(json.dumps(records, indent=1) + "\n", "utf8")
    given.output.write_text(page(records), "utf8")
    print(page(records))


if __name__ == "__main__":
    main()
