"""`polyrank compress report`: variants of a checkpoint side by side."""

import json
import sys
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from polyrank.checkpoint.hub import DEFAULT_MODEL, resolve
from polyrank.cli import measuring, options, screen
from polyrank.cli.fields import takes
from polyrank.cli.outputs import check_folder
from polyrank.cli.progress import steps

if TYPE_CHECKING:
    from polyrank.compress.report.variants import Variant
    from polyrank.evaluation import System


class QualityTask(StrEnum):
    """What quality is measured of."""

    AUTO = "auto"
    EMBED = "embed"
    RERANK = "rerank"


Models = Annotated[
    list[str],
    typer.Argument(
        metavar="[NAME=]MODEL…",
        help="Folders or Hub ids, or polyrank-small; the first is the source of the others.",
        show_default=False,
    ),
]
Data = Annotated[
    Path | None,
    typer.Option(
        help="Evaluation set in BEIR form, to measure nDCG@10 by language. Left out: bytes, memory "
        "and time alone.",
        show_default=False,
    ),
]
Task = Annotated[
    QualityTask,
    typer.Option(
        help="embed: vectors search the set. rerank: what --retriever finds is ranked anew. auto: "
        "rerank where the first model has a head for it."
    ),
]
Languages = Annotated[
    str | None,
    typer.Option(help="Only these, as in en,de,th. Left out: all.", show_default=False),
]
MaxQueries = Annotated[
    int | None,
    typer.Option(
        help="A random sample of N queries a language. Left out: all.", min=1, show_default=False
    ),
]
TopK = Annotated[int, typer.Option(help="Documents that are ranked anew.", min=1)]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="Folder to write report.json, report.md and report.html (with charts) to.",
        show_default=False,
    ),
]


@takes(*options.ENGINE)
def report(
    models: Models,
    data: Data = None,
    task: Task = QualityTask.AUTO,
    retriever: measuring.RetrieverName = measuring.BM25,
    languages: Languages = None,
    max_queries: MaxQueries = None,
    top_k: TopK = 50,
    output: Output = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    **engine: Any,
) -> None:
    """Compare variants: bytes on disk, memory, time to load, time a document, quality.

    Each is loaded and timed in a process of its own. A terminal gets one table, a pipe one line of
    JSON; the verdict of each folder's quality gate is in both.

    For example:

        polyrank compress report model model-int8 model-6-layers
        polyrank compress report model small=model-int8 --data data/xquad --output report
    """
    check_folder(output)
    from polyrank.compress.report.variants import report_variants
    from polyrank.compress.report.writing import variants_dict, write_variants
    from polyrank.evaluation import EvaluationConfig, load_dataset
    from polyrank.evaluation.report import prepare_folder

    revision = engine.pop("revision", None)
    variants = [_variant(given, revision) for given in models]
    codes = measuring.languages_of_both(languages)
    config = EvaluationConfig(None, top_k, *codes, max_queries=max_queries)
    dataset = None if data is None else load_dataset(data)
    if output is not None:
        prepare_folder(output)
    systems = _Systems(engine, task, retriever, variants[0])
    with steps(quiet=quiet) as progress:
        found = report_variants(
            variants,
            engine,
            dataset=dataset,
            system_of=systems.system,
            config=config,
            progress=progress,
        )
    date = datetime.now(UTC).isoformat(timespec="seconds")
    if output is not None:
        for path in write_variants(found, date, output):
            screen.remark(f"wrote {path}", quiet=quiet)
    if screen.is_table_wanted(as_json, None):
        from polyrank.compress.report.writing import summary, title
        from polyrank.evaluation.comparison_report import rich_table

        Console(highlight=False).print(rich_table(summary(found), title(found)))
    else:
        sys.stdout.write(json.dumps(variants_dict(found, date), ensure_ascii=False) + "\n")


def _variant(given: str, revision: str | None) -> "Variant":
    from polyrank.compress.report.variants import Variant

    name, model = measuring.named(given)
    folder, own = resolve(None if model == DEFAULT_MODEL else model, revision=revision)
    return Variant(own if name == model else name, folder)


class _Systems:
    """Makes of variants what searches an evaluation set."""

    def __init__(
        self, settings: dict[str, Any], task: QualityTask, retriever: str, source: "Variant"
    ) -> None:
        self._models, self._task, self._source = measuring.Models(settings), task, source
        self._retriever = retriever
        self._first_stage: Any = None

    def system(self, variant: "Variant") -> "System":
        """Return the system of one variant."""
        from polyrank.evaluation import LogitReranker, System

        folder = str(variant.folder)
        if not self._is_ranking:
            return System(variant.name, self._models.retriever(folder))
        if self._first_stage is None:
            self._first_stage = self._models.retriever(self._retriever)
        judge = LogitReranker(self._models.reranker(folder, 0))
        return System(variant.name, self._first_stage, judge)

    @property
    def _is_ranking(self) -> bool:
        from polyrank.checkpoint.reader import read_checkpoint

        if self._task is not QualityTask.AUTO:
            return self._task is QualityTask.RERANK
        source = self._source
        return "rerank" in read_checkpoint(source.folder, source.name).spec.tasks
