"""From a float checkpoint to an int8 folder that passed its gate, or to a refusal with a report."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from polyrank._files import building, publish
from polyrank.checkpoint.building import check_free
from polyrank.checkpoint.formats.mixed import MixedTable
from polyrank.checkpoint.gate import fingerprint
from polyrank.checkpoint.layouts import GATE_FILE
from polyrank.checkpoint.modules import Modules
from polyrank.checkpoint.reader import Checkpoint
from polyrank.checkpoint.spec import LinearType, TableType
from polyrank.checkpoint.state import settings_fingerprint
from polyrank.compress.gate.labels import measure_classifier
from polyrank.compress.gate.ranking import Contender, measure_tasks, objections
from polyrank.compress.gate.record import Figures, GateRecord, write_record
from polyrank.compress.quantize.calibration import record_inputs, sample_pairs
from polyrank.compress.quantize.writing import write_int8
from polyrank.config import EngineConfig
from polyrank.errors import ConfigError
from polyrank.evaluation.dataset import Dataset
from polyrank.evaluation.labelled import LabelledSet
from polyrank.evaluation.plan import EvaluationConfig
from polyrank.evaluation.retrievers import Retriever
from polyrank.progress import StepProgress, unheard

DEFAULT_TOLERANCE = 0.002
ROW_CACHE_BYTES = 512 << 20  # of each compute_dtype: documents of a language that comes again
PAIRS_PER_QUERY = 10  # of a sample: a label is right or wrong, so that few say little
Data = Sequence[Dataset | LabelledSet]
"""What to measure on: sets to rank, labelled pairs, or one of each for several heads."""

RANDOM_PIECES = "random pieces of the vocabulary, at load"


@dataclass(frozen=True, slots=True)
class GateConfig:
    """Settings of the gate.

    Attributes:
        tolerance: How much nDCG@10, accuracy and macro-F1 may fall, mean over the languages.
        evaluation: Languages, queries and depth of the evaluation.
        retriever: What searches the corpus for cross-encoders.
        retriever_name: What to call it.
        max_length: Tokens that are read of a text or pair; None takes the checkpoint's limit.
        num_threads: Threads of the encoder.
        created: Date for the record.

    Raises:
        ConfigError: If the tolerance is not between 0 and 1.
    """

    evaluation: EvaluationConfig
    retriever: Retriever[Any, Any]
    retriever_name: str
    created: str
    tolerance: float = DEFAULT_TOLERANCE
    max_length: int | None = None
    num_threads: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance <= 1:
            raise ConfigError(f"tolerance must be from 0 to 1, not {self.tolerance}")

    @property
    def exact(self) -> EngineConfig:
        """How the float32 side runs."""
        return EngineConfig(
            "native",
            num_threads=self.num_threads,
            compute_dtype="float32",
            row_cache_bytes=ROW_CACHE_BYTES,
        )


@dataclass(frozen=True, slots=True)
class QuantizeOutcome:
    """What the gate said and where it was written.

    Attributes:
        record: The verdict with its figures.
        record_path: File that holds it.
        folder: The folder that may be run in int8, or None where the gate refused.
    """

    record: GateRecord
    record_path: Path
    folder: Path | None


def quantize_folder(
    checkpoint: Checkpoint,
    data: Data,
    output: Path,
    config: GateConfig,
    *,
    linears: LinearType = "int8",
    embeddings: TableType = "float16",
    mixed: MixedTable | None = None,
    is_tokenizer_compressed: bool = False,
    calibration: Sequence[str] | None = None,
    progress: StepProgress | None = None,
) -> QuantizeOutcome:
    """Write an int8 folder, and keep it only if it passes the gate.

    Args:
        checkpoint: The float checkpoint.
        data: What to measure on, one set or more.
        output: Folder to make; it appears only when all is done. A refusal leaves the record
            beside it, under its name with ``.gate.json`` added.
        config: Settings of the gate.
        linears: What linear layers are stored as; see `write_int8`.
        embeddings: Type of the table of word embeddings.
        mixed: The table itself where `embeddings` is "mixed"; see
            `polyrank.compress.vocabulary.table`.
        is_tokenizer_compressed: Whether tokenizer.json is stored as tokenizer.json.gz.
        calibration: Texts to record inputs of linear layers on; None draws some of the first set.
        progress: Called as work goes on, also with the step "calibration".

    Returns:
        The verdict.

    Raises:
        ConfigError: If `output` exists, the checkpoint is int8 already, or `mixed` is missing.
        CapabilityError: If the checkpoint has no head for one of the sets.
    """
    check_free(output)
    texts = calibration or sample_pairs(data[0], config.evaluation.seed)
    words = f"{len(texts)} {'texts given' if calibration else f'pairs of {data[0].name}'}"
    source, calibrating = str(checkpoint.spec.folder), partial(progress or unheard, "calibration")
    with building(output) as folder:
        inputs = record_inputs(source, texts, config.evaluation.seed, calibrating)
        write_int8(
            checkpoint,
            inputs,
            folder,
            linears=linears,
            embeddings=embeddings,
            mixed=mixed,
            is_tokenizer_compressed=is_tokenizer_compressed,
            calibration=words,
        )
        record = _judge(checkpoint, folder, data, config, words, progress)
        if not record.passed:
            path = output.with_name(f"{output.name}.gate.json")
            write_record(record, path)
            return QuantizeOutcome(record, path, None)
        write_record(record, folder / GATE_FILE)
        publish(folder, output)
    return QuantizeOutcome(record, output / GATE_FILE, output)


def judge_folder(
    checkpoint: Checkpoint,
    data: Data,
    config: GateConfig,
    *,
    progress: StepProgress | None = None,
) -> QuantizeOutcome:
    """Measure int8 as a float folder is quantised at load, and write the verdict into it.

    Args:
        checkpoint: The checkpoint; an int8 folder is measured against its own dequantised
            weights, which says nothing of what quantising them cost, and is refused.
        data: What to measure on, one set or more.
        config: Settings of the gate.
        progress: Called as work goes on.

    Returns:
        The verdict.

    Raises:
        ConfigError: If the checkpoint is int8 already.
        CapabilityError: If the checkpoint has no head for one of the sets.
    """
    if checkpoint.spec.quantization is not None:
        raise ConfigError(
            f"{checkpoint.spec.name} is int8 already, so there is nothing to compare it with. "
            "Name the float checkpoint that it was made of."
        )
    folder = checkpoint.spec.folder
    record = _judge(checkpoint, folder, data, config, RANDOM_PIECES, progress)
    write_record(record, folder / GATE_FILE)
    return QuantizeOutcome(record, folder / GATE_FILE, folder if record.passed else None)


def _judge(
    checkpoint: Checkpoint,
    folder: Path,
    data: Data,
    config: GateConfig,
    calibration: str,
    progress: StepProgress | None,
) -> GateRecord:
    exact = Contender(str(checkpoint.spec.folder), config.exact, config.max_length)
    int8 = Contender(str(folder), replace(config.exact, compute_dtype="int8"), config.max_length)
    model = int8.model()  # kept until the end: models are shared by weak references
    measured = model.checkpoint
    tasks = [figures for part in data for figures in _measure(exact, int8, part, config, progress)]
    reasons = objections(tasks, config.tolerance)
    return GateRecord(
        passed=not reasons,
        reasons=reasons,
        tolerance=config.tolerance,
        weights_sha256=fingerprint(measured.weights.paths),
        settings_sha256=settings_fingerprint(Modules(folder), measured.tokenizer_file),
        model=checkpoint.spec.name,
        dataset=", ".join(part.name for part in data),
        created=config.created,
        device=model.engine.encoder.capabilities.device,
        calibration=calibration,
        tasks=tuple(tasks),
    )


def _measure(
    exact: Contender,
    int8: Contender,
    part: Dataset | LabelledSet,
    config: GateConfig,
    progress: StepProgress | None,
) -> Sequence[Figures]:
    if isinstance(part, LabelledSet):
        evaluation = config.evaluation
        if evaluation.max_queries is not None:
            evaluation = replace(evaluation, max_queries=PAIRS_PER_QUERY * evaluation.max_queries)
        return [measure_classifier(exact, int8, part, evaluation, progress)]
    return measure_tasks(
        exact,
        int8,
        part,
        config.evaluation,
        retriever=config.retriever,
        retriever_name=config.retriever_name,
        progress=progress,
    )
