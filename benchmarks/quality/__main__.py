"""Quality of a model on the evaluation sets, by language: ranking, labels, sentence pairs.

``PYTHONPATH=benchmarks python -m quality --data DATA --model FOLDER [--baseline FOLDER]``. The
first stage is the baseline embedder in float32, so that models are compared on the same
candidates; BM25 stands beside it, with what the model makes of its candidates where the model says
what lexical scores count for (`polyrank train first-stage-weight`). Writes quality.json, quality.md
and quality.png into benchmarks/results; sets that were measured before on the same weights and as
many queries stay, so that sets can be run in turns.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from polyrank import Classifier, Embedder, Reranker
from polyrank.checkpoint.gate import fingerprint
from polyrank.checkpoint.hub import DEFAULT_MODEL, base_model_folder, resolve
from polyrank.checkpoint.reader import read_checkpoint
from polyrank.evaluation import (
    Bm25Retriever,
    Dataset,
    EmbeddingRetriever,
    EvaluationConfig,
    LogitReranker,
    Report,
    evaluate,
    load_dataset,
)
from polyrank.evaluation.labelled import load_labelled, macro_f1
from polyrank.evaluation.plan import Mode
from polyrank.types import ComputeDtype
from quality.plot import draw
from quality.remembered import RememberedEmbedder, RememberedReranker

RESULTS = Path(__file__).parents[1] / "results"
BASELINE: ComputeDtype = "float32"
MEASURES = {"pool": "AP"}
CACHE_BYTES = 6 << 30  # token rows of all documents of a language of the largest set
SETS: tuple[tuple[str, Mode, int], ...] = (  # name, queries and documents, documents reranked
    ("xquad", "same", 50),
    ("xquad", "cross", 50),
    ("xquad", "pool", 100),
    ("mlqa-dev", "same", 50),
    ("mlqa-dev", "cross", 50),
    ("tydiqa-dev", "same", 50),
    ("jsquad-valid", "same", 50),
    ("drcd-test", "same", 50),
    ("pquad-test", "same", 50),
    ("arcd-test", "same", 50),
)
TRAINED = frozenset({"ar", "en", "fa", "fr", "id", "ja", "ko", "sw", "th", "tr", "zh", "zh-Hant"})
"""Languages whose questions the training data hold; others are zero-shot."""


def say(text: str) -> None:
    """Print a line of progress."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def options() -> argparse.Namespace:
    """Return the options given."""
    parser = argparse.ArgumentParser(prog="quality", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds eval/")
    parser.add_argument("--model", help="folder or Hub id; left out: the default model")
    parser.add_argument("--baseline", type=Path, help="embedder of the first stage")
    parser.add_argument("--compute-dtype", default="auto", choices=("auto", "int8", "float32"))
    parser.add_argument("--max-queries", type=int, default=100, help="of each group; 0 takes all")
    parser.add_argument("--sets", nargs="+", help="of these alone, as xquad or xquad-cross")
    parser.add_argument("--name", default="quality", help="of the files written")
    return parser.parse_args()


def ranking(
    dataset: Dataset,
    config: EvaluationConfig,
    stage: EmbeddingRetriever,
    reranker: RememberedReranker,
    lexical_weight: float | None,
    own: EmbeddingRetriever,
) -> dict[str, Any]:
    """Return a measure by group: BM25, first stage, reranked, the model's own vectors."""
    measure = MEASURES.get(config.mode or "", "nDCG@10")
    reranked = evaluate(dataset, retriever=stage, reranker=reranker, config=config)
    reports = {
        "first stage": (reranked, "first_stage"),
        "reranked": (reranked, "reranked"),
        "own vectors": (evaluate(dataset, retriever=own, config=config), "first_stage"),
    }
    if config.mode == "same":
        reports = {**_behind_bm25(dataset, config, reranker, lexical_weight), **reports}
    columns = {name: _column(report, at, measure) for name, (report, at) in reports.items()}
    groups = {
        group: {name: column[group] for name, column in columns.items()}
        for group in columns["first stage"]
    }
    return {"measure": measure, "groups": groups, "mean": _means(groups)}


def _behind_bm25(
    dataset: Dataset,
    config: EvaluationConfig,
    reranker: RememberedReranker,
    lexical_weight: float | None,
) -> dict[str, tuple[Report, str]]:
    """Return BM25 alone and, where the model says what its scores count for, behind it."""
    stage = Bm25Retriever()
    if lexical_weight is None:
        return {"BM25": (evaluate(dataset, retriever=stage, config=config), "first_stage")}
    plain, blended = (
        evaluate(
            dataset,
            retriever=stage,
            reranker=reranker,
            config=replace(config, first_stage_weight=weight),
        )
        for weight in (0.0, lexical_weight)
    )
    return {
        "BM25": (plain, "first_stage"),
        "BM25 reranked": (plain, "reranked"),
        "BM25 blended": (blended, "reranked"),
    }


def _column(report: Report, stage: str, measure: str) -> dict[str, float]:
    name = next(name for name in report.measures if name.lower().startswith(measure.lower()))
    return {g.label: getattr(g, stage).estimates[name].mean for g in report.groups}


def _means(groups: dict[str, dict[str, float]]) -> dict[str, float]:
    names = next(iter(groups.values()))
    return {name: float(np.mean([row[name] for row in groups.values()])) for name in names}


def labels(folder: Path, classifier: Classifier, limit: int) -> dict[str, Any]:
    """Return accuracy and macro-F1 of the three labels by language."""
    by_language: dict[str, list[Any]] = {}
    for pair in load_labelled(folder).pairs:
        by_language.setdefault(pair.language or "all", []).append(pair)
    groups = {}
    for language, pairs in sorted(by_language.items()):
        chosen = pairs[: limit * 3] if limit else pairs
        found = classifier.classify([(pair.query, pair.passage) for pair in chosen])
        places = {label: i for i, label in enumerate(classifier.labels)}
        true = np.array([places[pair.label] for pair in chosen])
        given = np.array([places[result.label] for result in found])
        groups[language] = {
            "accuracy": float(np.mean(true == given)),
            "macro-F1": macro_f1(true, given),
        }
    return {"measure": "accuracy, macro-F1", "groups": groups, "mean": _means(groups)}


def sentence_pairs(folder: Path, embedders: dict[str, Embedder], limit: int) -> dict[str, Any]:
    """Return the F1 of finding each sentence's English translation, by language."""
    dataset = load_dataset(folder)
    documents = {document.doc_id: document.text for document in dataset.documents}
    pairs: dict[str, list[tuple[str, str]]] = {}
    for query in dataset.queries:
        code = query.query_id.partition("-")[0]
        (target,) = dataset.qrels[query.query_id]
        pairs.setdefault(code, []).append((query.text, documents[target]))
    groups = {}
    for code, rows in sorted(pairs.items()):
        chosen = rows[:limit] if limit else rows
        groups[code] = {name: _bitext_f1(chosen, model) for name, model in embedders.items()}
    return {"measure": "F1", "groups": groups, "mean": _means(groups)}


def _bitext_f1(pairs: Sequence[tuple[str, str]], embedder: Embedder) -> float:
    """F1 of the nearest neighbour, as MTEB's bitext mining weighs it."""
    sources = embedder.encode([source for source, _ in pairs], input_type="query")
    targets = embedder.encode([target for _, target in pairs], input_type="query")
    found = (sources @ targets.T).argmax(1)
    times = np.bincount(found, minlength=len(pairs))
    return float(np.mean(2 * (found == np.arange(len(pairs))) / (times + 1)))


def tasks(given: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the figures of each set."""
    folder, limit = given.data / "eval", given.max_queries
    baseline = Embedder(given.baseline or base_model_folder(), compute_dtype=BASELINE)
    own = Embedder(given.model, compute_dtype=given.compute_dtype)
    heads = own.spec.heads
    stages = [EmbeddingRetriever(RememberedEmbedder(model)) for model in (baseline, own)]
    reranker = lexical_weight = None
    if "rerank" in heads:
        whole = Reranker(
            given.model, compute_dtype=given.compute_dtype, row_cache_bytes=CACHE_BYTES
        )
        reranker = RememberedReranker(LogitReranker(whole))
        lexical_weight = own.spec.first_stage_weights.get("lexical")
    for name, mode, top_k in SETS:
        title = f"{name}-{mode}"
        if reranker is None or (given.sets and not {name, title} & set(given.sets)):
            continue
        say(title)
        most = max(10, limit // 5) if mode == "cross" and limit else limit
        config = EvaluationConfig(
            mode=mode, top_k=top_k, max_queries=most or None, num_resamples=100
        )
        dataset = load_dataset(folder / name)
        yield title, ranking(dataset, config, stages[0], reranker, lexical_weight, stages[1])
        reranker.forget()
    if "classify" in heads and (not given.sets or "relevance3" in given.sets):
        say("relevance3")
        classifier = Classifier(given.model, compute_dtype=given.compute_dtype)
        yield "relevance3", labels(folder / "relevance3", classifier, limit)
    if not given.sets or "tatoeba" in given.sets:
        say("tatoeba")
        both = {"baseline": baseline, "own vectors": own}
        yield "tatoeba", sentence_pairs(folder / "tatoeba", both, limit * 2)


def subject(given: argparse.Namespace) -> str:
    """Return what is measured on how much."""
    sample = f"{given.max_queries} queries a group" if given.max_queries else "all queries"
    return f"{Path(given.model or DEFAULT_MODEL).name}, {sample}"


def markdown(found: dict[str, dict[str, Any]], given: argparse.Namespace) -> str:
    """Return the figures as tables: the means of all sets, then each set by language."""
    lines = ["# Quality", "", f"{subject(given)}.", ""]
    for title, entry in found.items():
        names = list(entry["mean"])
        lines += [f"## {title}: {entry['measure']}", "", f"| | {' | '.join(names)} |"]
        lines.append("|---|" + "---|" * len(names))
        rows = {"**mean**": entry["mean"], **_zero_shot(entry["groups"]), **entry["groups"]}
        lines += [
            f"| {row} | " + " | ".join(f"{values[name]:.4f}" for name in names) + " |"
            for row, values in rows.items()
        ]
        lines.append("")
    return "\n".join(lines)


def _zero_shot(groups: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Means over groups whose languages the training questions cover, and over the others."""
    parts: dict[str, dict[str, dict[str, float]]] = {"trained languages": {}, "zero-shot": {}}
    for group, values in groups.items():
        is_known = set(group.split("→")) <= TRAINED
        parts["trained languages" if is_known else "zero-shot"][group] = values
    return {name: _means(part) for name, part in parts.items() if part and len(part) < len(groups)}


def main() -> None:
    """Measure and write."""
    given = options()
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{given.name}.json"
    checkpoint = read_checkpoint(resolve(given.model)[0])
    facts: dict[str, Any] = {
        "model": Path(given.model or DEFAULT_MODEL).name,
        "weights_sha256": fingerprint(checkpoint.weights.paths),
        "compute_dtype": given.compute_dtype,
        "baseline": BASELINE,
        "max_queries": given.max_queries,
    }
    if weights := checkpoint.spec.first_stage_weights:
        facts["first_stage_weights"] = dict(weights)
    found: dict[str, dict[str, Any]] = {}
    if path.exists():
        before = json.loads(path.read_text("utf8"))
        if all(before.get(key) == value for key, value in facts.items()):
            found = before["sets"]
    for title, entry in tasks(given):
        found[title] = entry
        say(f"{title}: " + ", ".join(f"{k} {v:.4f}" for k, v in entry["mean"].items()))
        path.write_text(
            json.dumps({**facts, "sets": found}, indent=1, ensure_ascii=False) + "\n", "utf8"
        )
        (RESULTS / f"{given.name}.md").write_text(markdown(found, given), "utf8")
    figure = draw(found, subject(given))
    if figure is not None:
        figure.savefig(RESULTS / f"{given.name}.png")


if __name__ == "__main__":
    main()
