"""`polyrank compress quantize`: smaller checkpoints, measured before they are used."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from polyrank.checkpoint.hub import resolve_float
from polyrank.checkpoint.reader import read_checkpoint
from polyrank.cli import measuring, options, screen
from polyrank.cli.compress.table import MEGABYTES, mixed_table
from polyrank.cli.config_file import read_settings, settings_options, split
from polyrank.cli.fields import settings_of, takes
from polyrank.cli.inputs import TextSource
from polyrank.cli.outputs import check_folder
from polyrank.cli.progress import steps
from polyrank.errors import ConfigError

if TYPE_CHECKING:
    from polyrank.checkpoint.reader import Checkpoint
    from polyrank.compress.gate.record import Figures, GateRecord
    from polyrank.compress.quantize.run import Data, GateConfig, QuantizeOutcome
    from polyrank.progress import StepProgress

MAX_CALIBRATION_TEXTS = 256


COMMAND = "compress quantize"


@dataclass(frozen=True, slots=True)
class QuantizeSettings:
    """What `polyrank compress quantize` is told.

    Attributes:
        model: Folder or Hub id of a float checkpoint. Left out: the base model (`make model`).
        data: Evaluation set: a folder in BEIR form (see `polyrank eval --help`), or for a
            classifier one of labelled pairs, JSON lines with "query", "passage", "label" and
            "lang". Give it twice for a checkpoint with both kinds of head.
        output: Folder to make.
        tolerance: How much nDCG@10, accuracy and macro-F1 may fall, mean over the languages; a
            single language may fall five times as much.
        weights: What linear layers are stored as; products are int8 either way. int4: 4-bit
            blocks, half the size; costs nothing where the checkpoint was 4-bit before.
        embeddings: Type of the table of word embeddings. mixed: the more a piece is used, the
            more bits it gets; needs --text or --table.
        text: For mixed embeddings: texts to count pieces in, a file (one text a line, or .jsonl;
            also .gz) or a folder of such files. Repeat for several.
        table: For mixed embeddings: what `polyrank compress table` wrote before training.
        table_mb: What the table may take, in millions of bytes.
        compress_tokenizer: Store tokenizer.json.gz in place of tokenizer.json. polyrank reads it;
            transformers does not.
        calibration: Texts that int8 is fitted to, some 100 as the model will read, in any form
            that `polyrank embed` reads. Left out: some queries and documents of the data.
        retriever: What finds the documents that a cross-encoder orders: bm25, or an embedding
            checkpoint (folder or Hub id).
        top_k: Documents a query that are scored, 10 at least.
        languages: Only these languages, such as ["en", "de"].
        max_queries: A random sample of N queries, or 10 N labelled pairs, a language. Left out:
            all.
        seed: Of the samples.
        max_length: Tokens that the model reads of a text or pair. Left out: the checkpoint's
            limit.
        threads: Threads. Left out: all that this process may use.
        revision: Branch, tag or commit of a Hub id.
    """

    model: str | None = field(default=None, metadata={"is_argument": True})
    data: tuple[str, ...] = ()
    output: Path | None = field(default=None, metadata={"flags": ("--output", "-o")})
    tolerance: float = field(default=0.002, metadata={"least": 0.0})
    weights: Literal["int8", "int4"] = "int8"
    embeddings: Literal["mixed", "int4", "int8", "float16", "float32"] = "float16"
    text: tuple[str, ...] = ()
    table: Path | None = field(default=None, metadata={"metavar": "FOLDER"})
    table_mb: float = MEGABYTES
    compress_tokenizer: bool = False
    calibration: str | None = field(default=None, metadata={"metavar": "FILE"})
    retriever: str = measuring.BM25
    top_k: int = 100
    languages: tuple[str, ...] = ()
    max_queries: int | None = field(default=None, metadata={"least": 1})
    seed: int = 0
    max_length: int | None = None
    threads: int | None = None
    revision: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance <= 1:
            raise ConfigError(f"tolerance must be from 0 to 1, not {self.tolerance}")
        for name, least in (("top_k", 10), ("max_queries", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name} must be {least} or more, not {value}")


KNOWN = settings_of(QuantizeSettings)
FLAGS = (
    "model",
    "data",
    "output",
    "tolerance",
    "weights",
    "embeddings",
    "text",
    "table",
    "calibration",
    "max_queries",
)
RecordOnly = Annotated[
    bool,
    typer.Option(
        "--record-only",
        help="Measure int8 as it is made at load, and write the record alone into MODEL.",
    ),
]


@takes(*settings_options(KNOWN, FLAGS, COMMAND))
def quantize(record_only: RecordOnly = False, as_json: options.Json = False, **typed: Any) -> None:
    """Write an int8 checkpoint, unless it ranks worse than the float one.

    Linear layers become int8 with a scale for each output. The quality gate then compares int8
    with float32 on your data: nDCG@10 by language, rank correlation, the largest change of a
    score, cosines; for classifiers accuracy, macro-F1 and the share of equal labels. Within the
    tolerance, the folder appears with the figures in polyrank_gate.json, and whoever loads it
    runs int8 without asking. Beyond it, the command ends with exit code 3 and leaves only the
    figures, in OUTPUT.gate.json.

    For example:

        polyrank compress quantize --data data/xquad --output e5-int8
        polyrank compress quantize BAAI/bge-reranker-base --data data/mine -o bge-int8 --top-k 20
        polyrank compress quantize FOLDER --data data/mine --record-only
        polyrank compress quantize CLASSIFIER --data data/relevance3 -o classifier-int8
        polyrank compress quantize --data data/xquad -o small --embeddings mixed --text texts/
        polyrank compress quantize --data data/xquad -o smaller --weights int4 --embeddings int4
    """
    (asked,) = split(read_settings(KNOWN, typed, COMMAND), QuantizeSettings)
    quiet = typed["quiet"]
    _check_target(asked, record_only=record_only)
    folder, name = resolve_float(asked.model, revision=asked.revision)
    checkpoint = read_checkpoint(folder, name)
    with steps(quiet=quiet) as progress:
        outcome = _outcome(checkpoint, asked, progress)
    _say_unmeasured(checkpoint, outcome.record, quiet=quiet)
    _show(outcome, as_json=as_json, quiet=quiet)
    if outcome.folder is None:
        raise typer.Exit(measuring.REFUSED)


def _outcome(
    checkpoint: "Checkpoint", asked: QuantizeSettings, progress: "StepProgress | None"
) -> "QuantizeOutcome":
    from polyrank.compress.quantize.run import judge_folder, quantize_folder

    config = _gate_config(asked)
    if asked.output is None:
        return judge_folder(checkpoint, _load(asked.data), config, progress=progress)
    return quantize_folder(
        checkpoint,
        _load(asked.data),
        asked.output,
        config,
        linears=asked.weights,
        embeddings=asked.embeddings,
        mixed=mixed_table(
            checkpoint,
            is_mixed=asked.embeddings == "mixed",
            texts=[Path(text) for text in asked.text],
            folder=asked.table,
            megabytes=asked.table_mb,
            seed=asked.seed,
            progress=progress,
        ),
        is_tokenizer_compressed=asked.compress_tokenizer,
        calibration=None if asked.calibration is None else _texts(asked.calibration),
        progress=progress,
    )


def _gate_config(asked: QuantizeSettings) -> "GateConfig":
    from polyrank.compress.quantize.run import GateConfig
    from polyrank.evaluation import EvaluationConfig

    return GateConfig(
        evaluation=EvaluationConfig(
            top_k=asked.top_k,
            query_languages=asked.languages or None,
            document_languages=asked.languages or None,
            max_queries=asked.max_queries,
            seed=asked.seed,
        ),
        retriever=measuring.retriever(asked.retriever, asked.threads),
        retriever_name=Path(asked.retriever).name,
        created=datetime.now(UTC).date().isoformat(),
        tolerance=asked.tolerance,
        max_length=asked.max_length,
        num_threads=asked.threads,
    )


def _check_target(asked: QuantizeSettings, *, record_only: bool) -> None:
    model, output = asked.model, asked.output
    if not asked.data:
        raise ConfigError("nothing to measure on: name an evaluation set with --data.")
    if (output is None) != record_only:
        raise ConfigError(
            "name the folder to make with --output, or give --record-only: one of them."
        )
    if record_only and model is not None and not Path(model).is_dir():
        raise ConfigError(
            f"--record-only writes into the checkpoint's folder, and {model!r} is none. Copy the "
            "checkpoint into a folder of yours, for instance with `hf download --local-dir`."
        )
    if output is not None:
        check_folder(output)
        from polyrank.checkpoint.building import check_free

        check_free(output)


def _load(folders: Sequence[str]) -> "Data":
    from polyrank.evaluation.beir import load_dataset
    from polyrank.evaluation.labelled import is_labelled, load_labelled

    return [
        load_labelled(folder) if is_labelled(folder) else load_dataset(folder)
        for folder in map(Path, folders)
    ]


def _texts(name: str) -> list[str]:
    texts: list[str] = []
    for record in TextSource(name).records():
        if record.text.strip():
            texts.append(record.text)
        if len(texts) == MAX_CALIBRATION_TEXTS:
            break
    if not texts:
        raise ConfigError(f"{name} holds no text to calibrate with.")
    return texts


def _show(outcome: "QuantizeOutcome", *, as_json: bool, quiet: bool) -> None:
    record = outcome.record
    if screen.is_table_wanted(as_json, None):
        console = Console(highlight=False)
        for task in record.tasks:
            console.print(_table(task))
            console.print(_summary(task), style="dim")
    else:
        facts = {
            **record.as_dict(),
            "folder": None if outcome.folder is None else str(outcome.folder),
        }
        sys.stdout.write(json.dumps(facts, ensure_ascii=False) + "\n")
    screen.remark(f"wrote {outcome.record_path}", quiet=quiet)
    _say_verdict(record)


def _say_verdict(record: "GateRecord") -> None:
    if not record.passed:
        sys.stderr.write(
            f"refused: int8 of {record.model} is beyond the tolerance on {record.dataset}.\n"
            + "".join(f"  {reason}\n" for reason in record.reasons)
            + "Keep float32, or give --tolerance if you accept this loss.\n"
        )


def _say_unmeasured(checkpoint: "Checkpoint", record: "GateRecord", *, quiet: bool) -> None:
    measured = {figures.task for figures in record.tasks}
    if left := [task for task in checkpoint.spec.tasks if task not in measured]:
        screen.remark(
            f"not measured: {', '.join(left)}. Give --data once more, with a set for it, since "
            "int8 will serve it too",
            quiet=quiet,
        )


def _table(task: "Figures") -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column(task.task)
    table.add_column("number", justify="right")
    for shown in task.comparisons:
        for title in (f"{shown.measure} float32", "int8", "change"):
            table.add_column(title, justify="right")
    for label, count in task.counts.items():
        cells = [_cells(*shown.languages[label]) for shown in task.comparisons]
        table.add_row(label, str(count), *(cell for part in cells for cell in part))
    cells = [_cells(shown.float32, shown.int8) for shown in task.comparisons]
    table.add_row("mean", "", *(cell for part in cells for cell in part), style="bold")
    return table


def _cells(exact: float, int8: float) -> tuple[str, str, str]:
    return f"{exact:.4f}", f"{int8:.4f}", f"{int8 - exact:+.4f}"


def _summary(task: "Figures") -> str:
    from polyrank.compress.gate.record import ClassifierFigures

    cosines = f"cosine {task.cosine_mean:.5f} (lowest {task.cosine_lowest:.5f})"
    if isinstance(task, ClassifierFigures):
        return (
            f"equal labels {task.equal_labels:.4f}, "
            f"largest change of a probability {task.largest_probability_change:.4f}, {cosines}"
        )
    return (
        f"rank correlation {task.rank_correlation:.4f} "
        f"(lowest {task.rank_correlation_lowest:.4f}), "
        f"largest change of a score {task.largest_score_change:.4f}, {cosines}"
    )
