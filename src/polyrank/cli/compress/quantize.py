"""`polyrank compress quantize`: smaller checkpoints, measured before they are used."""

import json
import sys
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer
from rich.console import Console
from rich.table import Table

from polyrank.checkpoint.hub import resolve_float
from polyrank.checkpoint.reader import read_checkpoint
from polyrank.cli import measuring, options, screen
from polyrank.cli.compress.table import MEGABYTES, TableMegabytes, mixed_table
from polyrank.cli.inputs import Source
from polyrank.cli.outputs import check_folder
from polyrank.cli.progress import steps
from polyrank.errors import ConfigError

if TYPE_CHECKING:
    from polyrank.checkpoint.reader import Checkpoint
    from polyrank.checkpoint.spec import LinearType, TableType
    from polyrank.compress.gate.record import Figures, GateRecord
    from polyrank.compress.quantize.run import Data, Outcome

MAX_CALIBRATION_TEXTS = 256


class Linears(StrEnum):
    """Types of the linear layers in the file."""

    INT8 = "int8"
    INT4 = "int4"


class Embeddings(StrEnum):
    """Types of the table of word embeddings."""

    MIXED = "mixed"
    INT4 = "int4"
    INT8 = "int8"
    FLOAT16 = "float16"
    FLOAT32 = "float32"


def quantize(
    model: Annotated[
        str | None,
        typer.Argument(
            help="Folder or Hub id of a float checkpoint. Left out: the base model (`make model`).",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        list[Path],
        typer.Option(
            help="Evaluation set: a folder in BEIR form (see `polyrank eval --help`), or for a "
            'classifier one of labelled pairs, JSON lines with "query", "passage", "label" and '
            '"lang". Give it twice for a checkpoint with both kinds of head.'
        ),
    ] = cast("list[Path]", ...),
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder to make.", show_default=False),
    ] = None,
    record_only: Annotated[
        bool,
        typer.Option(
            "--record-only",
            help="Measure int8 as it is made at load, and write the record alone into MODEL.",
        ),
    ] = False,
    tolerance: Annotated[
        float,
        typer.Option(
            help="How much nDCG@10, accuracy and macro-F1 may fall, mean over the languages; a "
            "single language may fall five times as much.",
            min=0.0,
            max=1.0,
        ),
    ] = 0.002,
    weights: Annotated[
        Linears,
        typer.Option(
            help="What linear layers are stored as; products are int8 either way. int4: 4-bit "
            "blocks, half the size; costs nothing where the checkpoint was 4-bit before."
        ),
    ] = Linears.INT8,
    embeddings: Annotated[
        Embeddings,
        typer.Option(
            help="Type of the table of word embeddings. mixed: the more a piece is used, the more "
            "bits it gets; needs --text or --table."
        ),
    ] = Embeddings.FLOAT16,
    text: Annotated[
        list[Path] | None,
        typer.Option(
            help="For mixed embeddings: texts to count pieces in, a file (one text a line, or "
            ".jsonl; also .gz) or a folder of such files. Repeat for several.",
            show_default=False,
        ),
    ] = None,
    table_folder: Annotated[
        Path | None,
        typer.Option(
            "--table",
            metavar="FOLDER",
            help="For mixed embeddings: what `polyrank compress table` wrote before training.",
            show_default=False,
        ),
    ] = None,
    megabytes: TableMegabytes = MEGABYTES,
    compress_tokenizer: Annotated[
        bool,
        typer.Option(
            "--compress-tokenizer",
            help="Store tokenizer.json.gz in place of tokenizer.json. polyrank reads it; "
            "transformers does not.",
        ),
    ] = False,
    calibration: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Texts that int8 is fitted to, some 100 as the model will read, in any form that "
            "`polyrank embed` reads. "
            "Left out: some queries and documents of the data.",
            show_default=False,
        ),
    ] = None,
    retriever: measuring.RetrieverName = measuring.BM25,
    top_k: Annotated[int, typer.Option(help="Documents a query that are scored.", min=10)] = 100,
    languages: Annotated[
        str | None,
        typer.Option(help="Only these, as in en,de,th. Left out: all.", show_default=False),
    ] = None,
    max_queries: Annotated[
        int | None,
        typer.Option(
            help="A random sample of N queries, or 10 N labelled pairs, a language. Left out: all.",
            min=1,
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the samples.", min=0)] = 0,
    max_length: options.MaxLength = None,
    threads: options.Threads = None,
    revision: options.Revision = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
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
    from polyrank.compress.quantize.run import GateConfig, judge_folder, quantize_folder
    from polyrank.evaluation import EvaluationConfig

    _check_target(model, output, record_only=record_only)
    folder, name = resolve_float(model, revision=revision)
    checkpoint = read_checkpoint(folder, name)
    config = GateConfig(
        evaluation=EvaluationConfig(
            top_k=top_k,
            query_languages=measuring.codes(languages),
            document_languages=measuring.codes(languages),
            max_queries=max_queries,
            seed=seed,
        ),
        retriever=measuring.retriever(retriever, threads),
        retriever_name=Path(retriever).name,
        created=datetime.now(UTC).date().isoformat(),
        tolerance=tolerance,
        max_length=max_length,
        num_threads=threads,
    )
    texts = None if calibration is None else _texts(calibration)
    linears: LinearType = weights.value
    kind: TableType = embeddings.value
    with steps(quiet=quiet) as progress:
        if output is None:
            outcome = judge_folder(checkpoint, _load(data), config, progress=progress)
        else:
            outcome = quantize_folder(
                checkpoint,
                _load(data),
                output,
                config,
                linears=linears,
                embeddings=kind,
                mixed=mixed_table(
                    checkpoint,
                    is_mixed=kind == "mixed",
                    texts=text,
                    folder=table_folder,
                    megabytes=megabytes,
                    seed=seed,
                    progress=progress,
                ),
                is_tokenizer_compressed=compress_tokenizer,
                calibration=texts,
                progress=progress,
            )
    _say_unmeasured(checkpoint, outcome.record, quiet=quiet)
    _show(outcome, as_json=as_json, quiet=quiet)
    if outcome.folder is None:
        raise typer.Exit(measuring.REFUSED)


def _check_target(model: str | None, output: Path | None, *, record_only: bool) -> None:
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


def _load(folders: list[Path]) -> "Data":
    from polyrank.evaluation.beir import load_dataset
    from polyrank.evaluation.labelled import is_labelled, load_labelled

    return [
        load_labelled(folder) if is_labelled(folder) else load_dataset(folder) for folder in folders
    ]


def _texts(name: str) -> list[str]:
    found: list[str] = []
    for record in Source(name).records():
        if record.text.strip():
            found.append(record.text)
        if len(found) == MAX_CALIBRATION_TEXTS:
            break
    if not found:
        raise ConfigError(f"{name} holds no text to calibrate with.")
    return found


def _show(outcome: "Outcome", *, as_json: bool, quiet: bool) -> None:
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
