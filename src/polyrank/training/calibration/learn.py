"""Calibrating a checkpoint: data are scored, a calibration is fitted, the file is written.

The file goes into the checkpoint's folder, or into another that is named; until it is whole,
whatever was there stays. Weights and scores are left as they are.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from polyrank._files import replacing
from polyrank.calibration.calibration import (
    Calibration,
    ClassCalibration,
    RankCalibration,
    as_content,
)
from polyrank.calibration.features import Float64Array
from polyrank.calibration.maps import sigmoid
from polyrank.calibration.reading import read_calibration
from polyrank.checkpoint.gate import fingerprint
from polyrank.checkpoint.hub import resolve
from polyrank.checkpoint.layouts import CALIBRATION_FILE
from polyrank.checkpoint.reader import read_checkpoint
from polyrank.errors import CapabilityError, CheckpointError, ConfigError, DataError
from polyrank.inference.classifier import Classifier
from polyrank.inference.reranker import Reranker
from polyrank.progress import StepProgress, unheard
from polyrank.training.calibration.collect import collect
from polyrank.training.calibration.data import (
    LabelledRow,
    is_beir,
    read_labelled_rows,
)
from polyrank.training.calibration.fit import ScoredQuery, fit_classes, fit_ranking, softmax_of
from polyrank.training.calibration.job import CalibrateJob
from polyrank.training.calibration.report import Judged, describe

_PAIRS_PER_CALL = 1_000


@dataclass(frozen=True, slots=True)
class CalibrationOutcome:
    """What a run of calibrating did.

    Attributes:
        path: The file that was written; None where none was.
        record: Figures before and after, by language; what a report shows.
        notes: Remarks on the data, one sentence each.
    """

    path: Path | None
    record: dict[str, Any]
    notes: tuple[str, ...] = ()


def calibrate(job: CalibrateJob, *, progress: StepProgress | None = None) -> CalibrationOutcome:
    """Fit a calibration and write it, or measure the one that is there.

    Args:
        job: What to calibrate, on what.
        progress: Called as work goes on.

    Returns:
        What was written, with figures of probabilities of maps that had not seen the queries.

    Raises:
        ConfigError: If the model is no folder to write to, or a language does not occur.
        DataError: If data cannot be read, are too few, or of one kind only.
        CapabilityError: If the model cannot do the task, or has no calibration to check.
        TrainingError: If relevance does not rise with the logit.
        MissingExtraError: If BM25 is needed and missing.
    """
    begun = time.monotonic()
    report = progress or unheard
    folder, name = resolve(job.model)
    target = _target(job, folder)
    work = _calibrate_ranking if job.task == "rerank" else _calibrate_classes
    fitted, judged, fit = work(job, folder, report)
    record = {
        "task": job.task,
        "model": name,
        "data": [str(path.name) for path in job.data],
        **fit,
        **describe(judged, is_ranking=job.task == "rerank"),
        "seconds": round(time.monotonic() - begun, 1),
    }
    if target is not None and fitted is not None:
        _write(folder, target, fitted, _summary(job, record))
    return CalibrationOutcome(target if fitted is not None else None, record, _notes(record))


def _target(job: CalibrateJob, folder: Path) -> Path | None:
    if job.is_check:
        return None
    if job.output is None and (job.model is None or not Path(job.model).is_dir()):
        raise ConfigError(
            f"{job.model or 'the default model'} is not a folder that the calibration could be "
            "written into. Name a folder, or one for the file with --output."
        )
    return (job.output or folder) / CALIBRATION_FILE


Fitted = RankCalibration | ClassCalibration | None


def _calibrate_ranking(
    job: CalibrateJob, folder: Path, progress: StepProgress
) -> tuple[Fitted, Judged, dict[str, Any]]:
    reranker = Reranker(
        folder,
        num_threads=job.num_threads,
        compute_dtype=job.compute_dtype,
        row_cache_bytes=job.row_cache_bytes,
    )
    questions = collect(job, folder, reranker, progress)
    logits = np.concatenate([each.logits for each in questions])
    scores = sigmoid(logits) if reranker.info.activation == "sigmoid" else logits
    if job.is_check:
        own = read_own(folder).rerank
        if own is None:
            raise _nothing_to_check(folder, "rankings")
        values = [own.probabilities(q.logits, q.features, q.lengths) for q in questions]
        return None, _judged(questions, scores, np.concatenate(values)), {}
    progress("fitting", 0, 1)
    fit = fit_ranking(questions, is_reordering=job.is_reordering, seed=job.seed)
    progress("fitting", 1, 1)
    own = fit.calibration
    chosen = {
        "method": own.method,
        "offsets": [offset.feature for offset in own.offsets],
        "held_out_by": fit.held_out_by,
        "held_out_log_loss": dict(fit.held_out),
    }
    return own, _judged(questions, scores, fit.probabilities), chosen


def _judged(questions: Sequence[ScoredQuery], before: Float64Array, after: Float64Array) -> Judged:
    sizes = [len(each.logits) for each in questions]
    ranks = [np.argsort(np.argsort(-each.logits, kind="stable")) for each in questions]
    return Judged(
        np.clip(before, 0, 1),
        after,
        np.concatenate([each.is_relevant for each in questions]),
        np.repeat([each.language or "all" for each in questions], sizes),
        np.repeat(np.arange(len(questions)), sizes),
        np.concatenate(ranks),
    )


def _nothing_to_check(folder: Path, what: str) -> CapabilityError:
    return CapabilityError(
        f"{folder} has no calibration of {what} to check. Fit one first, without --check."
    )


def _calibrate_classes(
    job: CalibrateJob, folder: Path, progress: StepProgress
) -> tuple[Fitted, Judged, dict[str, Any]]:
    classifier = Classifier(
        folder,
        num_threads=job.num_threads,
        compute_dtype=job.compute_dtype,
        row_cache_bytes=job.row_cache_bytes,
    )
    if classifier.info.activation != "softmax":
        raise CapabilityError(
            f"labels of {classifier.info.name} do not exclude each other (its activation is "
            f"{classifier.info.activation}); only those under a softmax are calibrated."
        )
    if beir := [path for path in job.data if is_beir(path)]:
        raise DataError(f"{beir[0]} has no labels: --task classify needs rows with a label each.")
    rows = [row for path in job.data for row in read_labelled_rows(path, job.languages)]
    labels = np.array([_label(row, classifier.labels) for row in rows], np.intp)
    logits = _class_logits(rows, classifier, progress)
    picked = np.arange(len(rows)), logits.argmax(axis=1)
    own = read_own(folder).classify if job.is_check else None
    if job.is_check and own is None:
        raise _nothing_to_check(folder, "labels")
    chosen: dict[str, Any] = {}
    if own is not None:
        after = own.probabilities(logits)
    else:
        fit = fit_classes(
            logits, labels, classifier.labels, [row.query for row in rows], seed=job.seed
        )
        own, after = fit.calibration, fit.probabilities
        chosen = {
            "method": own.method,
            "held_out_by": "query",
            "held_out_log_loss": dict(fit.held_out),
        }
    judged = Judged(
        softmax_of(logits)[picked],
        after[picked],
        labels == picked[1],
        np.array([row.language or "all" for row in rows]),
        np.unique([row.query for row in rows], return_inverse=True)[1],
        np.zeros(len(rows), np.intp),
    )
    return own, judged, chosen


def _label(row: LabelledRow, labels: Sequence[str]) -> int:
    if str(row.label) not in labels:
        raise DataError(
            f"{row.where}: the label {row.label!r:.80} is none of the model's, {', '.join(labels)}."
        )
    return labels.index(str(row.label))


def _class_logits(
    rows: Sequence[LabelledRow], classifier: Classifier, progress: StepProgress
) -> Float64Array:
    found = []
    for start in range(0, len(rows), _PAIRS_PER_CALL):
        progress("pairs", start, len(rows))
        part = rows[start : start + _PAIRS_PER_CALL]
        found.append(classifier.logits([(row.query, row.document) for row in part]))
    progress("pairs", len(rows), len(rows))
    return np.concatenate(found).astype(np.float64)


def read_own(folder: Path) -> Calibration:
    """Return the calibration that a folder holds, checked."""
    return read_calibration(read_checkpoint(folder))


def _summary(job: CalibrateJob, record: dict[str, Any]) -> dict[str, Any]:
    """Return what of a record goes into the checkpoint: a few lines."""
    languages = record["languages"]
    return {
        "data": record["data"],
        "num_pairs": record["overall"]["num_pairs"],
        "num_queries": record["overall"]["num_queries"],
        "num_true": record["overall"]["num_true"],
        "languages": sorted(languages),
        **({"top_k": job.top_k} if job.task == "rerank" else {}),
        "held_out_by": record["held_out_by"],
        "held_out_log_loss": record["held_out_log_loss"],
        "ece_before": round(record["overall"]["before"]["ece"], 4),
        "ece_held_out": round(record["overall"]["after"]["ece"], 4),
        "polyrank": version("polyrank"),
    }


def _write(
    folder: Path, path: Path, fitted: RankCalibration | ClassCalibration, summary: dict[str, Any]
) -> None:
    checkpoint = read_checkpoint(folder)
    own = replace(fitted, fitted=summary)
    try:
        other = read_own(folder)
    except CheckpointError:  # of other weights, or broken: it is what is written anew
        other = Calibration()
    if isinstance(own, RankCalibration):
        made = Calibration(own, other.classify)
    else:
        made = Calibration(other.rerank, own)
    content = as_content(made, fingerprint(checkpoint.weights.paths))
    with replacing(path) as written:
        written.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", "utf8")


_LEAST_TRUE = 50


def _notes(record: dict[str, Any]) -> tuple[str, ...]:
    few = [
        language
        for language, figures in record["languages"].items()
        if figures["num_true"] < _LEAST_TRUE
    ]
    if not few or len(record["languages"]) < 2:
        return ()
    return (f"Fewer than {_LEAST_TRUE} pairs came true in {', '.join(few)}: figures are rough.",)
