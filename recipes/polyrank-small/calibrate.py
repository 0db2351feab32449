"""Calibrate polyrank-small: probabilities of rankings and of its three labels, in two steps.

``python recipes/polyrank-small/calibrate.py --data DATA --work FOLDER [--model FOLDER]`` writes
polyrank_calibration.json into the model's folder, from training data alone:

- rankings: 150 questions of each source and language of train/qa, PQuAD's unanswerable ones among
  them, and 30 headings of nine languages of LibreOffice's help; of each the 50 passages nearest by
  the model's own vectors
- labels: at most two questions of each article of the encyclopaedic sources, each with the passage
  that answers, another one of the article, and one of another article: as relevance3 is made, and
  no article counts for more than others
"""

import argparse
import gzip
import json
import random
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from polyrank.checkpoint.hub import default_model_folder

QUESTIONS = (
    "arcd",
    "cmrc2018",
    "drcd",
    "iapp-thai",
    "indonlu-facqa",
    "jaquad",
    "medquad",
    "okanvk-tr",
    "piaf",
    "pquad",
    "tydiqa",
)
ENCYCLOPAEDIC = ("arcd", "drcd", "jaquad", "okanvk-tr", "piaf", "pquad")  # with articles
SECTIONS = ("de", "el", "es", "hu", "km", "ko", "pl", "ru", "vi")
NUM_QUESTIONS, NUM_PASSAGES = 150, 1_000
NUM_HEADINGS, NUM_SECTIONS = 30, 250
QUESTIONS_OF_ARTICLE = 2
MOST_CHARACTERS = 3_000  # of a section of help

Row = Mapping[str, Any]


def rows(path: Path) -> list[Row]:
    """Return the rows of a file."""
    with gzip.open(path, "rt", encoding="utf8") as file:
        return [json.loads(line) for line in file]


def write(path: Path, content: Sequence[Row]) -> None:
    """Write rows as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in content)


def write_pool(
    folder: Path, passages: Sequence[Row], queries: Sequence[Row], grades: Sequence[str]
) -> None:
    """Write an evaluation set in BEIR form."""
    write(folder / "corpus.jsonl", passages)
    write(folder / "queries.jsonl", queries)
    (folder / "qrels.tsv").write_text("\n".join(grades) + "\n", "utf8")


def question_pools(train: Path, work: Path, generator: random.Random) -> Iterator[Path]:
    """Yield one evaluation set a source, in which each language has its own questions."""
    for name in QUESTIONS:
        folder = work / name
        yield folder
        if (folder / "qrels.tsv").is_file():
            continue
        questions = rows(train / "qa" / f"{name}.jsonl.gz")
        passages = rows(train / "qa" / f"{name}.passages.jsonl.gz")
        kept: list[Row] = []
        asked: list[Row] = []
        grades: list[str] = []
        for language in sorted({row["lang"] for row in questions}):
            own = [row for row in questions if row["lang"] == language]
            drawn = generator.sample(own, min(NUM_QUESTIONS, len(own)))
            asked += [{"_id": q["id"], "text": q["query"], "lang": language} for q in drawn]
            grades += [f"{q['id']}\t{passage}\t1" for q in drawn for passage in q["positives"]]
            # judged, and no answer: the passage is on the topic alone
            grades += [f"{q['id']}\t{p}\t0" for q in drawn for p in q.get("related", ())]
            kept += _passages([p for p in passages if p["lang"] == language], drawn, generator)
        write_pool(folder, kept, asked, grades)


def _passages(
    passages: Sequence[Row], drawn: Sequence[Row], generator: random.Random
) -> Iterator[Row]:
    needed = {p for q in drawn for p in (*q["positives"], *q.get("related", ()))}
    others = [row["id"] for row in passages if row["id"] not in needed]
    room = max(0, NUM_PASSAGES - len(needed))
    needed |= set(generator.sample(others, min(room, len(others))))
    for row in passages:
        if row["id"] in needed:
            yield {"_id": row["id"], "text": row["text"], "lang": row["lang"]}


def section_pool(train: Path, work: Path, generator: random.Random) -> Path:
    """Return an evaluation set of help pages: headings ask for their sections."""
    folder = work / "libreoffice-help"
    if (folder / "qrels.tsv").is_file():
        return folder
    kept: list[Row] = []
    asked: list[Row] = []
    grades: list[str] = []
    for language in SECTIONS:
        sections = rows(train / "docs" / f"libreoffice-help.{language}.jsonl.gz")
        for i, row in enumerate(generator.sample(sections, NUM_SECTIONS)):
            own = f"{language}-{i}"
            kept.append({"_id": own, "text": row["text"][:MOST_CHARACTERS], "lang": language})
            if i < NUM_HEADINGS:
                heading = f"{row.get('page_title', '')} {row['title']}".strip()
                asked.append({"_id": own, "text": heading, "lang": language})
                grades.append(f"{own}\t{own}\t1")
    write_pool(folder, kept, asked, grades)
    return folder


def labelled_rows(train: Path, generator: random.Random) -> Iterator[Row]:
    """Yield questions with a passage of each label, no article with more than a few."""
    for name in ENCYCLOPAEDIC:
        questions = [q for q in rows(train / "qa" / f"{name}.jsonl.gz") if q["positives"]]
        passages = rows(train / "qa" / f"{name}.passages.jsonl.gz")
        texts = {row["id"]: row["text"] for row in passages}
        groups: dict[str, list[Row]] = {}
        for row in passages:
            groups.setdefault(row["group"], []).append(row)
        generator.shuffle(questions)
        counts: dict[str, int] = {}
        for question in questions:
            group, answer = question["group"], texts[question["positives"][0]]
            others = [
                row["text"]
                for row in groups.get(group, ())
                if row["id"] not in question["positives"] and row["text"] != answer
            ]
            if not others or counts.get(group, 0) >= QUESTIONS_OF_ARTICLE:
                continue
            counts[group] = counts.get(group, 0) + 1
            other = generator.choice([key for key in groups if key != group])
            far = generator.choice(groups[other])["text"]
            neutral = generator.choice(others)
            for label, text in (("relevant", answer), ("neutral", neutral), ("irrelevant", far)):
                yield {
                    "query": question["query"],
                    "passage": text,
                    "label": label,
                    "lang": question["lang"],
                }


def run(arguments: list[str]) -> None:
    """Show and run a command of polyrank."""
    print("polyrank", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", "polyrank", *arguments], check=True)


def main() -> None:
    """Make the data, then fit both."""
    parser = argparse.ArgumentParser(prog="calibrate", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with train/")
    parser.add_argument("--work", type=Path, required=True, help="folder for data and reports")
    parser.add_argument("--model", type=Path, help="left out: the model in the package")
    parser.add_argument("--only", choices=("rerank", "classify"), help="one of the two")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    train, work = given.data / "train", given.work
    model = str(given.model or default_model_folder())
    common = ["--seed", str(given.seed), "--row-cache-mb", "1500"]
    if given.only != "classify":
        pools = [*question_pools(train, work, random.Random(given.seed))]
        pools.append(section_pool(train, work, random.Random(given.seed)))
        data = [word for pool in pools for word in ("--data", str(pool))]
        run(["calibrate", model, *data, *common, "--report", str(work / "rerank.html")])
    if given.only != "rerank":
        labelled = work / "labelled.jsonl"
        write(labelled, [*labelled_rows(train, random.Random(given.seed))])
        options = ["--task", "classify", "--data", str(labelled), *common]
        run(["calibrate", model, *options, "--report", str(work / "classify.html")])


if __name__ == "__main__":
    main()
