"""Check the base model on XQuAD: nDCG@10 of retrieval within each of 12 languages.

``python recipes/base/check.py [--model FOLDER] [--data FOLDER] [--languages en,th]``. Takes about
eight minutes on two cores. Exit code 1 if the mean over all languages is out of its range.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from polyrank import Embedder
from polyrank.errors import PolyrankError
from polyrank.evaluation import Dataset, load_dataset
from polyrank.evaluation.measures import measure

MEASURE = "nDCG@10"
EXPECTED, TOLERANCE = 0.948, 0.002
CUTOFF = 10


def quality(embedder: Embedder, dataset: Dataset) -> float:
    """Return mean nDCG@10 of exact search by inner product.

    Args:
        embedder: The model.
        dataset: Queries and passages of one language. (Judgements of XQuAD cross languages: a
            passage's translations are relevant too, so languages must not be mixed here.)

    Returns:
        The mean over queries, 0 to 1.
    """
    passages = embedder.encode([doc.text for doc in dataset.documents], input_type="document")
    queries = embedder.encode([query.text for query in dataset.queries], input_type="query")
    best = np.argsort(-(queries @ passages.T), axis=1, kind="stable")[:, :CUTOFF]
    ids = [doc.doc_id for doc in dataset.documents]
    rankings = {
        query.query_id: [ids[column] for column in row]
        for query, row in zip(dataset.queries, best, strict=True)
    }
    return float(measure([MEASURE], dataset.qrels, rankings)[MEASURE].mean())


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    root = Path(__file__).parents[2]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="model folder [the default model]")
    parser.add_argument("--data", type=Path, default=root.parent / "shared/data/eval/xquad")
    parser.add_argument("--languages", help="some languages only, such as en,th: no verdict")
    options = parser.parse_args(arguments)
    try:
        dataset = load_dataset(options.data)
        embedder = Embedder(options.model)
        languages = options.languages.split(",") if options.languages else dataset.query_languages
        values = []
        for language in languages:
            values.append(quality(embedder, dataset.subset(language, language)))
            print(f"{language}  {MEASURE} {values[-1]:.4f}", flush=True)
    except PolyrankError as exc:
        print(f"check.py: {exc}", file=sys.stderr)
        return 1
    mean = float(np.mean(values))
    is_right = abs(mean - EXPECTED) <= TOLERANCE
    verdict = f"expected {EXPECTED} ± {TOLERANCE}: {'yes' if is_right else 'NO'}"
    print(f"mean  {MEASURE} {mean:.4f} over {len(values)} languages", end="")
    print("" if options.languages else f" ({verdict})")
    return int(not is_right and not options.languages)


if __name__ == "__main__":
    sys.exit(main())
