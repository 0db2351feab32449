"""A thousand candidates through cheaper and dearer stages: `make bench-candidates`.

Speed: 1,000 XQuAD passages of about 200 tokens, against embedding them alone; fresh, and with rows
or vectors kept. The cross-encoder has the shape of multilingual-e5-small and seeded weights: only
its time means something. Quality: nDCG@10 of questions in four languages over the same 1,000
passages, against comparing all of them by rows as they were read; and how often the promise of a
calibrated threshold holds on questions that it was not calibrated on.
"""

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from polyrank import Embedder, Reranker, Search
from polyrank.evaluation import load_dataset
from polyrank.evaluation.measures import measure
from polyrank.search.pruning import ScoredCandidates, calibrate_pruning, check_pruning
from polyrank.search.stages import RerankerScorer, VectorScorer

RESULTS = Path(__file__).parent / "results"
LANGUAGES = ("en", "de", "th", "ar")
FILLING = "es"  # 40 passages that bring the pool to a thousand
NUM_CANDIDATES = 1_000
SMALL = {"row_pooling": 2, "row_dtype": "int8"}
FORMATS: dict[str, dict[str, Any]] = {
    "as read": {},
    "8 bits": {"row_dtype": "int8"},
    "joined by 2": {"row_pooling": 2},
    "joined by 2, 8 bits": SMALL,
}
CACHE_BYTES = 1 << 30
TOP_N, PROBABILITY, CONFIDENCE = 10, 0.95, 0.95


class Pool:
    """1,000 passages and questions in four languages."""

    def __init__(self, data: Path) -> None:
        dataset = load_dataset(data / "eval" / "xquad")
        documents = [d for d in dataset.documents if d.language in LANGUAGES]
        documents += [d for d in dataset.documents if d.language == FILLING]
        documents = documents[:NUM_CANDIDATES]
        self.ids = [document.doc_id for document in documents]
        self.texts = [document.text for document in documents]
        self.languages = np.array([document.language for document in documents])
        kept = set(self.ids)
        self.queries = [q for q in dataset.queries if q.language in LANGUAGES]
        self.qrels = {
            q.query_id: {d: g for d, g in dataset.qrels[q.query_id].items() if d in kept}
            for q in self.queries
        }

    def questions(self, number: int, offset: int) -> list[Any]:
        """Return as many questions of each language, spread over the set."""
        drawn: list[Any] = []
        for language in LANGUAGES:
            own = [query for query in self.queries if query.language == language]
            drawn += own[offset :: len(own) // number][:number]
        return drawn


def seconds_of(run: Callable[[], Any]) -> float:
    """Return the seconds of a run."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def write_cross_encoder(folder: Path) -> None:
    """Write a reranker of e5-small's shape with seeded weights."""
    import torch
    from transformers import XLMRobertaConfig, XLMRobertaForSequenceClassification

    from polyrank.checkpoint.hub import base_model_folder

    torch.manual_seed(0)
    config = XLMRobertaConfig(
        vocab_size=250037,
        hidden_size=384,
        num_hidden_layers=12,
        num_attention_heads=12,
        intermediate_size=1536,
        max_position_embeddings=514,
        type_vocab_size=1,
        num_labels=1,
    )
    XLMRobertaForSequenceClassification(config).eval().save_pretrained(folder)
    shutil.copy(base_model_folder() / "tokenizer.json", folder)


def measure_speed(pool: Pool, turns: int) -> dict[str, Any]:
    """Return seconds of each way, and how many times embedding, run just before each, they are."""
    asked = [query.text for query in pool.questions(6, 1)]
    embedder = Embedder()
    embedder.encode(pool.texts[:100], input_type="document")
    alone: list[float] = []
    rows: dict[str, dict[str, Any]] = {"embedding them alone": {"times_embedding": 1.0}}

    def note(name: str, search: Search) -> None:
        ratios, seconds = [], []
        for _ in range(turns):
            alone.append(seconds_of(lambda: embedder.encode(pool.texts, input_type="document")))
            seconds.append(seconds_of(lambda: search.search(asked[0], pool.texts)))
            ratios.append(seconds[-1] / alone[-1])
        rows[name] = {
            "seconds": statistics.median(seconds),
            "times_embedding": statistics.median(ratios),
        }

    for name, settings in FORMATS.items():
        note(
            f"late interaction, rows {name}, nothing kept",
            Search.of(reranker=Reranker(**settings)),
        )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_cross_encoder(folder)
        for dtype, finalists in (("float32", 50), ("float32", 200), ("int8", 200)):
            cross = Reranker(folder, compute_dtype=dtype)
            search = Search.of(reranker=Reranker(**SMALL), cross_encoder=cross, finalists=finalists)
            what = f"late interaction, then a cross-encoder in {dtype} on {finalists}"
            note(f"{what}, nothing kept", search)
    rows["embedding them alone"]["seconds"] = statistics.median(alone)
    for name, settings in FORMATS.items():
        reranker = Reranker(row_cache_bytes=CACHE_BYTES, **settings)
        way = f"late interaction, rows {name}, all kept"
        rows[way] = kept(Search.of(reranker=reranker), pool, asked, reranker)
    small = Reranker(row_cache_bytes=CACHE_BYTES, **SMALL)
    search = Search.of(embedder=embedder, reranker=small, contenders=200)
    rows["vectors, then late interaction on 200, all kept"] = kept(search, pool, asked, small)
    for row in rows.values():
        row.setdefault("times_embedding", row["seconds"] / rows["embedding them alone"]["seconds"])
    return rows


def kept(search: Search, pool: Pool, asked: Sequence[str], reranker: Reranker) -> dict[str, Any]:
    """Return the median seconds of questions once all documents are known."""
    search.search(asked[0], pool.texts)
    queries = iter(asked * 3)
    seconds = [seconds_of(lambda: search.search(next(queries), pool.texts)) for _ in range(40)]
    engine = reranker._engine
    num_bytes = (engine.small_rows or engine.row_cache).num_bytes
    stages = search.search(asked[0], pool.texts).stages
    return {
        "seconds": statistics.median(seconds),
        "least_seconds": min(seconds),
        "kept_bytes": num_bytes // len(pool.texts),
        "stages": {stage.name: round(stage.milliseconds, 1) for stage in stages},
    }


def scores_of(scorer: Any, pool: Pool, queries: Sequence[Any]) -> np.ndarray:
    """Return the scores of all passages for each question."""
    from polyrank.search.stages import Candidate

    candidates = [Candidate(i, t, t) for i, t in zip(pool.ids, pool.texts, strict=True)]
    return np.stack([scorer.score(query.text, candidates).order for query in queries])


def cascaded(cheap: np.ndarray, best: np.ndarray, keeps: Callable[[np.ndarray], np.ndarray]) -> Any:
    """Return scores that put what is handed on first, by the best stage, the rest below."""
    out = np.empty_like(best)
    for place in range(len(best)):
        stays = keeps(cheap[place])
        span = np.ptp(best[place]) + np.ptp(cheap[place]) + 1
        out[place] = np.where(stays, best[place], cheap[place] - cheap[place].max() - span)
        out[place][~stays] += best[place].min() - 1
    return out


def ndcg(pool: Pool, queries: Sequence[Any], scores: np.ndarray) -> dict[str, float]:
    """Return nDCG@10 among the passages of the question's language, and among all."""
    found: dict[str, float] = {}
    for name in ("own language", "all languages"):
        rankings, qrels = {}, {}
        for query, own in zip(queries, scores, strict=True):
            places = np.argsort(-own, kind="stable")
            if name == "own language":
                places = places[pool.languages[places] == query.language]
            allowed = {pool.ids[i] for i in places}
            rankings[query.query_id] = [pool.ids[i] for i in places[:10]]
            grades = pool.qrels[query.query_id]
            qrels[query.query_id] = {d: g for d, g in grades.items() if d in allowed}
        found[name] = float(measure(["nDCG@10"], qrels, rankings)["nDCG@10"].mean())
    return found


def measure_quality(pool: Pool, number: int) -> dict[str, Any]:
    """Return nDCG@10 of each way, and how the promise of the threshold held."""
    queries, others = pool.questions(number, 0), pool.questions(number, 5)
    best = scores_of(RerankerScorer(Reranker(row_cache_bytes=CACHE_BYTES)), pool, queries)
    rows = {"late interaction, rows as read (the best stage)": ndcg(pool, queries, best)}
    for name, settings in FORMATS.items():
        if settings:
            reranker = Reranker(row_cache_bytes=CACHE_BYTES, **settings)
            own = scores_of(RerankerScorer(reranker), pool, queries)
            rows[f"late interaction, rows {name}"] = ndcg(pool, queries, own)
    # the last of the formats is the small one
    vectors = VectorScorer(Embedder())
    cheap = scores_of(vectors, pool, queries)
    rows["vectors alone"] = ndcg(pool, queries, cheap)

    def first_200(scores: np.ndarray) -> np.ndarray:
        return np.argsort(np.argsort(-scores, kind="stable")) < 200

    rows["vectors, then small rows on 200"] = ndcg(pool, queries, cascaded(cheap, own, first_200))
    scorer = RerankerScorer(reranker)
    calibration = [
        ScoredCandidates(*both)
        for both in zip(
            scores_of(vectors, pool, others), scores_of(scorer, pool, others), strict=True
        )
    ]
    promises = {}
    for top_n, min_kept in ((10, 10), (10, 9), (5, 5), (1, 1)):
        pruning = calibrate_pruning(
            calibration,
            top_n=top_n,
            min_kept=min_kept,
            probability=PROBABILITY,
            confidence=CONFIDENCE,
            stage="vectors",
        )
        held = [ScoredCandidates(*both) for both in zip(cheap, own, strict=True)]
        check = check_pruning(pruning, held)
        name = f"{min_kept} of the first {top_n}"
        promises[name] = {
            "guarantee": pruning.guarantee,
            "statistic": pruning.statistic,
            "threshold": pruning.threshold,
            "share_handed_on": check.mean_share,
            "share_of_questions_kept": check.share_kept,
            "num_questions": check.num_questions,
        }
        way = f"vectors, then small rows on what keeps {name} ({check.mean_share:.0%})"
        rows[way] = ndcg(pool, queries, cascaded(cheap, own, pruning.keeps))
    return {"num_questions": len(queries), "ndcg": rows, "promises": promises}


def markdown(record: dict[str, Any]) -> str:
    """Return the page."""
    parts = [
        "# A thousand candidates",
        f"1,000 XQuAD passages (mean {record['mean_tokens']:.0f} tokens), default model, "
        f"{record['encoder']}. Made by `make bench-candidates`.",
    ]
    if "speed" in record:
        lines = [
            "| | ms | least ms | times embedding | kept, KB a passage |",
            "|---|---:|---:|---:|---:|",
        ]
        for name, row in record["speed"].items():
            size = f"{row['kept_bytes'] / 1000:.0f}" if "kept_bytes" in row else ""
            least = f"{1000 * row['least_seconds']:,.0f}" if "least_seconds" in row else ""
            lines.append(
                f"| {name} | {1000 * row['seconds']:,.0f} | {least} "
                f"| {row['times_embedding']:.3f} | {size} |"
            )
        parts += [f"## Speed ({record['speed_date'][:10]})", "\n".join(lines)]
    if "quality" in record:
        quality = record["quality"]
        lines = ["| nDCG@10 | own language | all languages |", "|---|---:|---:|"]
        for name, row in quality["ndcg"].items():
            lines.append(f"| {name} | {row['own language']:.4f} | {row['all languages']:.4f} |")
        parts += [
            f"## Quality ({record['quality_date'][:10]})",
            f"{quality['num_questions']} questions in {', '.join(LANGUAGES)}.",
            "\n".join(lines),
            "## What a calibrated threshold promises, and how it held on other questions",
        ]
        lines = [
            "| to be kept | promised | held | handed on | statistic |",
            "|---|---|---:|---:|---|",
        ]
        for name, row in quality["promises"].items():
            lines.append(
                f"| {name} | {PROBABILITY:.0%}, confidence {CONFIDENCE:.0%} "
                f"| {row['share_of_questions_kept']:.1%} | {row['share_handed_on']:.1%} "
                f"| {row['statistic']} ≤ {row['threshold']:.4g} |"
            )
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Measure what is asked for, and write the record and the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", choices=("speed", "quality"))
    parser.add_argument("--questions", type=int, default=100, help="of each language")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RESULTS / "candidates.json")
    options = parser.parse_args()
    pool = Pool(options.data)
    record: dict[str, Any] = {}
    if options.output.exists():
        record = json.loads(options.output.read_text("utf8"))
    reranker = Reranker()
    lengths = [len(ids) for ids in reranker._model.tokenizer.encode(pool.texts)]
    record["mean_tokens"] = statistics.mean(lengths)
    encoder = reranker.info.encoder
    record["encoder"] = f"{encoder.name}, {encoder.compute_dtype}, {encoder.device}"
    now = datetime.now(UTC).isoformat(timespec="seconds")
    if options.only != "quality":
        record["speed"], record["speed_date"] = measure_speed(pool, options.turns), now
    if options.only != "speed":
        record["quality"] = measure_quality(pool, options.questions)
        record["quality_date"] = now
    options.output.write_text(json.dumps(record, indent=1) + "\n", "utf8")
    page = markdown(record)
    options.output.with_suffix(".md").write_text(page, "utf8")
    print(page)


if __name__ == "__main__":
    main()
