"""Make polyrank-small: one body that reranks, classifies and embeds, in 45 MB.

``python recipes/polyrank-small/build.py --data DATA --work FOLDER [--lists 24000] [--seed 0]``.
Each step is a command of polyrank and is shown before it runs; a step whose output is there is not
run again. See README.md here.
"""

import argparse
import json
import random
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from polyrank.checkpoint.hub import base_model_folder
from polyrank.compress.vocabulary.corpus import UNDETERMINED, CorpusConfig, read_texts
from polyrank.training.first_stage.learn import WEIGHTS_RECORD_FILE

NAME = "polyrank-small"
MOST_BYTES = 45_000_000
TABLE_MB = "28.6"
LEAST_CHARACTERS = 25  # of texts that int8 is fitted to

QUESTIONS = {  # shares of the lists whose query is a question
    "tydiqa": 7.2,
    "jaquad": 4.7,
    "pquad": 4.0,
    "piaf": 4.0,
    "cmrc2018": 3.6,
    "medquad": 3.6,
    "iapp-thai": 3.2,
    "drcd": 2.9,
    "okanvk-tr": 2.5,
    "indonlu-facqa": 2.5,
    "arcd": 1.4,
}
SECTIONS = {"libreoffice-help": 20.0, "gnome-help": 10.0}
TRANSLATIONS = {"quran": 10.0, "django-po": 8.0, "udhr": 7.0}


def options() -> argparse.Namespace:
    """Return the options given."""
    parser = argparse.ArgumentParser(prog="build", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with train/ and eval/")
    parser.add_argument("--work", type=Path, required=True, help="folder for all steps' outputs")
    parser.add_argument("--lists", default="24000", help="queries to learn from: the time budget")
    parser.add_argument("--seed", default="0")
    parser.add_argument("--threads", help="left out: all that this process may use")
    parser.add_argument("--max-queries", default="300", help="of each language, in the gate")
    return parser.parse_args()


def run(arguments: list[str], threads: str | None) -> None:
    """Show and run a command of polyrank."""
    if threads:
        arguments = [*arguments, "--threads", threads]
    print("polyrank", shlex.join(arguments), flush=True)
    subprocess.run([sys.executable, "-m", "polyrank", *arguments], check=True)


def mixture(train: Path, work: Path) -> Iterator[str]:
    """Yield the training data with their weights; a collection of sections gets a folder."""
    for name, weight in QUESTIONS.items():
        yield f"{train / 'qa' / name}.jsonl.gz:{weight}"
    for name, weight in SECTIONS.items():
        folder = work / "sections" / name
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted((train / "docs").glob(f"{name}.*")):
            link = folder / path.name
            if not link.exists():
                link.symlink_to(path.resolve())
        yield f"{folder}:{weight}"
    for name, weight in TRANSLATIONS.items():
        yield f"{train / 'parallel' / name}.jsonl.gz:{weight}"


def draw_calibration(given: argparse.Namespace, output: Path) -> None:
    """Write texts for int8 to be fitted to: translations in many languages, questions, passages."""
    generator = random.Random(given.seed)
    with output.open("w", encoding="utf8") as file:
        for name, num_languages, num_texts in (("parallel", 100, 1), ("qa", 12, 12)):
            by_language: dict[str, list[str]] = {}
            for each in read_texts([given.data / "train" / name], CorpusConfig(held_out=0.0)):
                if len(each.text) >= LEAST_CHARACTERS:
                    text = " ".join(each.text.split())
                    by_language.setdefault(each.language, []).append(text)
            by_language.pop(UNDETERMINED, None)
            known = sorted(by_language, key=lambda language: -len(by_language[language]))
            for language in known[:num_languages]:
                texts = by_language[language]
                for text in generator.sample(texts, min(num_texts, len(texts))):
                    file.write(text + "\n")


def train(given: argparse.Namespace, table: Path, output: Path) -> None:
    """Train reranking and classification on the compressed table's values, in int8 products."""
    arguments = ["train", "late-interaction", str(table), "--output", str(output)]
    arguments += ["--compute-dtype", "int8"]
    for source in mixture(given.data / "train", given.work):
        arguments += ["--data", source]
    arguments += ["--seed", given.seed, "--set", f"lists={given.lists}"]
    arguments += ["--set", f"miner={base_model_folder()}"]
    arguments += ["--set", f"cache_dir={given.work / 'vectors'}"]
    run(arguments, given.threads)


def first_stage_weight(given: argparse.Namespace, trained: Path) -> None:
    """Learn what first-stage scores count for, on questions: one number, for which few do."""
    arguments = ["train", "first-stage-weight", str(trained), "--compute-dtype", "int8"]
    arguments += ["--queries", "60", "--set", "passages=600", "--set", f"seed={given.seed}"]
    for name in QUESTIONS:
        arguments += ["--data", str(given.data / "train" / "qa" / f"{name}.jsonl.gz")]
    run(arguments, given.threads)


def quantize(given: argparse.Namespace, table: Path, trained: Path, output: Path) -> None:
    """Write the int8 folder through the gate."""
    evaluation, texts = given.data / "eval", given.work / "calibration.txt"
    if not texts.is_file():
        draw_calibration(given, texts)
    arguments = ["compress", "quantize", str(trained), "--output", str(output)]
    arguments += ["--data", str(evaluation / "xquad"), "--data", str(evaluation / "relevance3")]
    arguments += ["--weights", "int4", "--embeddings", "mixed", "--table", str(table)]
    arguments += ["--set", "compress_tokenizer=true", "--calibration", str(texts)]
    arguments += ["--set", f"retriever={trained}", "--set", "top_k=20"]
    arguments += ["--max-queries", given.max_queries]
    run(arguments, given.threads)


def main() -> None:
    """Run the steps that are not done yet."""
    given = options()
    given.work.mkdir(parents=True, exist_ok=True)
    table, trained = given.work / "table", given.work / "trained"
    released = given.work / NAME
    if not table.is_dir():
        text = ["--text", str(given.data / "train"), "--table-mb", TABLE_MB]
        run(["compress", "table", str(base_model_folder()), str(table), *text], None)
    if not trained.is_dir():
        train(given, table, trained)
    if not (trained / WEIGHTS_RECORD_FILE).is_file():
        first_stage_weight(given, trained)
    if not released.is_dir():
        quantize(given, table, trained, released)
    size = sum(path.stat().st_size for path in released.rglob("*") if path.is_file())
    print(json.dumps({"folder": str(released), "bytes": size, "at_most": MOST_BYTES}))
    if size > MOST_BYTES:
        raise SystemExit(f"{released} has {size:,} bytes, more than {MOST_BYTES:,}")


if __name__ == "__main__":
    main()
