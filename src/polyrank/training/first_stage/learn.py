"""Learning what first-stage scores count for beside a reranker that stays as it is.

A search whose order is good already should not be forgotten when its documents are ranked anew.
On questions of training data the passages are searched, by words (BM25) and by vectors, what is
found is scored by the reranker, and one number is fitted for each kind of search
(`polyrank.training.first_stage.fit`). It goes into the folder's config.json.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from polyrank._extras import require
from polyrank._files import replacing
from polyrank.checkpoint.files import read_object
from polyrank.checkpoint.first_stage import FIRST_STAGE_KEY
from polyrank.checkpoint.gate import fingerprint
from polyrank.checkpoint.hub import resolve
from polyrank.checkpoint.layouts import CONFIG_FILE
from polyrank.checkpoint.reader import read_checkpoint
from polyrank.errors import ConfigError, DataError, TrainingError
from polyrank.evaluation.retrievers import Candidates, EmbeddingRetriever, Retriever
from polyrank.inference.embedder import Embedder
from polyrank.inference.reranker import Reranker
from polyrank.progress import StepProgress, unheard
from polyrank.tasks.first_stage import standardized
from polyrank.training.data.reading import read_mixture
from polyrank.training.data.source import TrainingSource
from polyrank.training.first_stage.fit import (
    RankedCandidates,
    figures,
    fit_weight,
    held_out_weights,
)
from polyrank.training.first_stage.settings import FirstStageWeightConfig, FirstStageWeightJob
from polyrank.training.record import describe_sources, versions
from polyrank.types import FirstStageKind

WEIGHTS_RECORD_FILE = "first_stage_weights.json"
_QUESTIONS_PER_CALL = 20


@dataclass(frozen=True)
class QuestionPool:
    """Questions and the passages to search, of one source in one language.

    Attributes:
        source: Name of the source.
        language: Of all texts.
        passages: Different texts.
        questions: Different texts.
        answers: Positions of the passages that answer each question.
        num_usable: Questions that could have been asked.
    """

    source: str
    language: str
    passages: tuple[str, ...]
    questions: tuple[str, ...]
    answers: tuple[frozenset[int], ...]
    num_usable: int


def learn_first_stage_weights(
    job: FirstStageWeightJob, *, progress: StepProgress | None = None
) -> dict[str, Any]:
    """Learn the weights of first-stage scores and write them into the model's config.json.

    Args:
        job: What to learn, on what.
        progress: Called as work goes on.

    Returns:
        What is in first_stage_weights.json, written beside it unless this is a dry run.

    Raises:
        ConfigError: If the model is no folder to write to.
        DataError: If data cannot be read, hold no source with enough passages, or no question
            whose answer a first stage finds.
        CapabilityError: If a model cannot do its part.
        TrainingError: If the reranker's logits do not help beside any first stage.
        MissingExtraError: If BM25 or the measures are missing.
    """
    require("eval", purpose="polyrank train first-stage-weight")
    begun = time.monotonic()
    if not job.data:
        raise ConfigError("nothing to learn from: name a file or folder with --data.")
    report = progress or unheard
    folder, name = _target(job)
    sources, config = read_mixture(job.data), job.config
    pools = draw_pools(sources, config)
    checkpoint = read_checkpoint(folder, name)
    reranker = Reranker(
        folder,
        num_threads=job.num_threads,
        compute_dtype=config.compute_dtype,
        row_cache_bytes=job.row_cache_bytes,
        passages=None,  # lists are of passages already
    )
    stages = _first_stages(job, folder, reranker)
    ranked = collect(pools, stages, reranker, config.candidates, report)
    shares = {source.name: 1.0 if source.weight is None else source.weight for source in sources}
    learnt, not_learnt = _learn_each(ranked, shares)
    own = checkpoint.spec.first_stage_weights
    record = {
        "task": "first-stage-weight",
        "model": name,
        "model_sha256": fingerprint(checkpoint.weights.paths),
        "compute_dtype": reranker.info.encoder.compute_dtype,
        "retriever_model": Path(job.retriever_model or name).name,
        "versions": versions(),
        "settings": asdict(config),
        "data": _describe(sources, pools),
        "weights_before": dict(own),
        "weights": {**own, **{kind: found["weight"] for kind, found in learnt.items()}},
        "first_stages": learnt,
        "not_learnt": not_learnt,
        "seconds": round(time.monotonic() - begun, 1),
    }
    if not job.is_dry_run:
        _write(folder, checkpoint.weights.folder / CONFIG_FILE, record)
    return record


def _target(job: FirstStageWeightJob) -> tuple[Path, str]:
    if not job.is_dry_run and (job.model is None or not Path(job.model).is_dir()):
        raise ConfigError(
            f"{job.model or 'the default model'} is not a folder whose config.json can be "
            "changed. Name a folder, or only look with --dry-run."
        )
    return resolve(job.model)


def _first_stages(
    job: FirstStageWeightJob, folder: Path, reranker: Reranker
) -> dict[FirstStageKind, Retriever[Any, Any]]:
    from polyrank.evaluation.bm25 import Bm25Retriever

    stages: dict[FirstStageKind, Retriever[Any, Any]] = {"lexical": Bm25Retriever()}
    # an embedder that also reranks would be blended with itself
    if job.retriever_model or {"rerank", "embed"} <= set(reranker.spec.heads):
        embedder = Embedder(
            job.retriever_model or folder,
            num_threads=job.num_threads,
            compute_dtype=job.config.compute_dtype,
        )
        stages["dense"] = EmbeddingRetriever(embedder)
    return stages


def draw_pools(
    sources: Sequence[TrainingSource], config: FirstStageWeightConfig
) -> list[QuestionPool]:
    """Return what is asked and searched in each source and language.

    Sources with versions of a passage in several languages are left out: translations answer
    nothing, and the same text would be asked for in every language.

    Args:
        sources: The training data.
        config: The settings.

    Returns:
        The pools, at least one.

    Raises:
        DataError: If no source has enough passages in a language.
    """
    pools = []
    for number, source in enumerate(sources):
        if source.is_parallel:
            continue
        for place, language in enumerate(source.by_language):
            generator = np.random.default_rng((config.seed, number, place))
            pool = _pool(source, language, config, generator)
            if pool is not None:
                pools.append(pool)
    if not pools:
        raise DataError(
            f"none of {', '.join(source.name for source in sources)} has questions and "
            f"{config.least_passages} passages in one language, without versions in others. Name "
            "questions with the passages that answer them."
        )
    return pools


def _pool(
    source: TrainingSource,
    language: str,
    config: FirstStageWeightConfig,
    generator: np.random.Generator,
) -> QuestionPool | None:
    texts = list(
        dict.fromkeys(source.passages[i].versions[language] for i in source.by_language[language])
    )
    answers: dict[str, set[str]] = {}
    for example in source.examples:
        versions = [source.passages[i].versions for i in example.positives]
        found = {own[language] for own in versions if language in own}
        if language in example.queries and found:
            answers.setdefault(example.queries[language], set()).update(found)
    if len(texts) < config.least_passages or not answers:
        return None
    possible = list(answers)
    asked = [possible[i] for i in generator.permutation(len(possible))[: config.queries]]
    kept = set().union(*(answers[question] for question in asked))
    others = [text for text in texts if text not in kept]
    room = max(0, config.passages - len(kept))
    kept.update(others[i] for i in generator.permutation(len(others))[:room])
    passages = tuple(text for text in texts if text in kept)  # in their order, answers or not
    places = {text: i for i, text in enumerate(passages)}
    return QuestionPool(
        source.name,
        language,
        passages,
        tuple(asked),
        tuple(frozenset(places[text] for text in answers[question]) for question in asked),
        len(possible),
    )


def collect(
    pools: Sequence[QuestionPool],
    stages: Mapping[FirstStageKind, Retriever[Any, Any]],
    reranker: Reranker,
    candidates: int,
    progress: StepProgress,
) -> dict[FirstStageKind, list[RankedCandidates]]:
    """Return what each first stage finds for all questions, with the reranker's logits.

    Args:
        pools: Questions and passages.
        stages: The first stages.
        reranker: Scores what they find.
        candidates: Passages that they hand on.
        progress: Called with the steps "passages" and "questions".

    Returns:
        For each first stage, questions in the order of the pools; those for which it found
        nothing too.
    """
    ranked: dict[FirstStageKind, list[RankedCandidates]] = {kind: [] for kind in stages}
    num_texts = len(stages) * sum(len(pool.passages) for pool in pools)
    num_questions = sum(len(pool.questions) for pool in pools)
    texts_done = questions_done = 0
    for pool in pools:
        found: dict[FirstStageKind, list[Candidates]] = {}
        for kind, stage in stages.items():
            progress("passages", texts_done, num_texts)
            found[kind] = _search(pool, stage, candidates)
            texts_done += len(pool.passages)
        progress("passages", texts_done, num_texts)
        for part in _parts(len(pool.questions)):
            progress("questions", questions_done, num_questions)
            logits = _logits(pool, part, found, reranker)
            for kind, hits in found.items():
                ranked[kind] += [_ranked(pool, i, hits[i], logits) for i in part]
            questions_done += len(part)
        progress("questions", questions_done, num_questions)
    return ranked


def _search(pool: QuestionPool, stage: Retriever[Any, Any], candidates: int) -> list[Candidates]:
    def advance(count: int) -> None:
        del count

    index = stage.index_documents(pool.passages, advance)
    queries = stage.read_queries(pool.questions, advance)
    return stage.search(queries, np.arange(len(pool.questions)), index, candidates)


def _parts(count: int) -> Iterator[range]:
    for start in range(0, count, _QUESTIONS_PER_CALL):
        yield range(start, min(start + _QUESTIONS_PER_CALL, count))


def _logits(
    pool: QuestionPool,
    part: Sequence[int],
    found: Mapping[FirstStageKind, Sequence[Candidates]],
    reranker: Reranker,
) -> dict[tuple[int, int], np.float32]:
    """Return the logit of each question and passage; what two first stages found is read once."""
    places = list(
        dict.fromkeys(
            (i, int(place))
            for hits in found.values()
            for i in part
            for place in hits[i].doc_indices
        )
    )
    if not places:
        return {}
    pairs = [(pool.questions[i], pool.passages[place]) for i, place in places]
    return dict(zip(places, reranker.score(pairs, logits=True), strict=True))


def _ranked(
    pool: QuestionPool, i: int, hits: Candidates, logits: Mapping[tuple[int, int], np.float32]
) -> RankedCandidates:
    places = [int(place) for place in hits.doc_indices]
    return RankedCandidates(
        pool.source,
        pool.language,
        np.array([logits[i, place] for place in places], np.float32),
        standardized(hits.scores),
        np.array([place in pool.answers[i] for place in places], bool),
        len(pool.answers[i]),
    )


def _learn_each(
    ranked: Mapping[FirstStageKind, Sequence[RankedCandidates]], shares: Mapping[str, float]
) -> tuple[dict[FirstStageKind, dict[str, Any]], dict[FirstStageKind, str]]:
    """Learn the weight of each first stage.

    Args:
        ranked: What each first stage found, and how the reranker scored it.
        shares: How much each source counts.

    Returns:
        What was learnt of each first stage, and why nothing was of the others.

    Raises:
        DataError: Of the first one, if nothing was learnt of any.
        TrainingError: As `DataError`.
    """
    learnt: dict[FirstStageKind, dict[str, Any]] = {}
    failures: dict[FirstStageKind, DataError | TrainingError] = {}
    for kind, questions in ranked.items():
        try:
            learnt[kind] = learn(questions, shares)
        except (DataError, TrainingError) as error:
            failures[kind] = error
    if not learnt:
        raise next(iter(failures.values()))
    return learnt, {kind: str(error) for kind, error in failures.items()}


def learn(questions: Sequence[RankedCandidates], shares: Mapping[str, float]) -> dict[str, Any]:
    """Return the weight of one first stage and what it does to questions it was not learnt on.

    Args:
        questions: All that were asked.
        shares: What each source counts for.

    Returns:
        "weight", and nDCG@10 by source and language with weights learnt without them.

    Raises:
        DataError: If no question has an answer and another passage among its candidates.
        TrainingError: If the reranker's logits do not help.
    """
    usable = [question for question in questions if question.is_usable]
    if not usable:
        raise DataError(
            f"none of {len(questions)} questions has its answer among what a first stage found, "
            "beside others. Ask more questions, or take other data."
        )
    by, weights = held_out_weights(questions, shares)
    return {
        "weight": round(fit_weight(usable, shares), 4),
        "num_questions": len(questions),
        "num_usable": len(usable),
        "held_out_by": by,
        **figures(questions, weights),
    }


def _describe(
    sources: Sequence[TrainingSource], pools: Sequence[QuestionPool]
) -> list[dict[str, Any]]:
    own = [[pool for pool in pools if pool.source == source.name] for source in sources]
    usable = [sum(pool.num_usable for pool in found) for found in own]
    asked = [sum(len(pool.questions) for pool in found) for found in own]
    return describe_sources(sources, usable, asked)


def _write(folder: Path, config_path: Path, record: Mapping[str, Any]) -> None:
    config = read_object(config_path)
    config[FIRST_STAGE_KEY] = record["weights"]
    for path, content in ((config_path, config), (folder / WEIGHTS_RECORD_FILE, record)):
        with replacing(path) as written:
            text = json.dumps(content, ensure_ascii=False, indent=2)
            written.write_text(text + "\n", "utf8")
