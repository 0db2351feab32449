"""`polyrank eval`: how well a model finds and ranks, by language."""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.console import Console

from polyrank.cli import measuring, options, screen
from polyrank.cli.fields import takes
from polyrank.cli.memory import row_cache_bytes
from polyrank.cli.outputs import check_folder
from polyrank.cli.progress import steps
from polyrank.cli.systems import compare_systems
from polyrank.errors import ConfigError

if TYPE_CHECKING:
    from polyrank.evaluation import (
        Dataset,
        EvaluationConfig,
        Provenance,
        Retriever,
    )
    from polyrank.evaluation.plan import Mode
    from polyrank.inference.embedder import Embedder
    from polyrank.inference.reranker import Reranker

DEFAULT_TOP_K = 100
_NO_RERANKER = "--first-stage-weight adds to a reranker's scores. Name one with --reranker."


class RetrieverName(StrEnum):
    """What searches the whole corpus."""

    EMBEDDER = "embedder"
    BM25 = "bm25"


class ModeName(StrEnum):
    """Which queries meet which documents."""

    AUTO = "auto"
    SAME = "same"
    CROSS = "cross"
    POOL = "pool"
    ALL = "all"


DatasetDir = Annotated[
    Path,
    typer.Argument(
        help="Folder in BEIR form: corpus.jsonl, queries.jsonl (or .jsonl.gz) and qrels.tsv.",
    ),
]
RetrieverOption = Annotated[
    RetrieverName,
    typer.Option(help="What searches the whole corpus: vectors, or BM25 on words."),
]
EmbedderName = Annotated[
    str, typer.Option(help="Checkpoint of the embedder: folder, Hub id, or default.")
]
RerankerName = Annotated[
    str | None,
    typer.Option(
        help="Checkpoint that orders what was found anew: folder, Hub id, or default. "
        "Left out: the first stage alone is measured.",
        show_default=False,
    ),
]
Systems = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[NAME=]RETRIEVER[+RERANKER[@WEIGHT]]",
        help="Compare systems: give it several times, the baseline first. RETRIEVER is bm25 or "
        "an embedder's checkpoint, RERANKER a checkpoint (default: the one that ships), WEIGHT "
        "as for --first-stage-weight.",
        show_default=False,
    ),
]
FirstStageWeight = Annotated[
    str | None,
    typer.Option(
        help="Add the first stage's scores to the reranker's, by the weight that the "
        "reranker has learnt: auto (lexical for bm25, dense for an embedder), lexical or "
        "dense; or by a weight, in logits for a standard deviation.",
        show_default=False,
    ),
]
TopK = Annotated[int, typer.Option(help="Documents that the first stage hands on.", min=1)]
ModeOption = Annotated[
    ModeName,
    typer.Option(
        help="same: each language with itself. cross: every pair of different languages. "
        "pool: documents of all languages together. all: one figure for everything. "
        'auto: same, or all where rows have no "lang".'
    ),
]
Languages = Annotated[
    str | None,
    typer.Option(
        metavar="QUERIES[:DOCUMENTS]",
        help="Only these, as in en,de,th; or those of queries and of documents, as in ja:zh,th. "
        "Left out: all.",
        show_default=False,
    ),
]
MaxQueries = Annotated[
    int | None,
    typer.Option(
        help="For a quick look: a random sample of N queries a language.",
        min=1,
        show_default=False,
    ),
]
Titles = Annotated[bool, typer.Option(help="Put a document's title before its text.")]
Seed = Annotated[int, typer.Option(help="Of the sample and the intervals.", min=0)]
RowCache = Annotated[
    int | None,
    typer.Option(
        "--row-cache-mb",
        help="Megabytes of documents to keep as the reranker read them, where it reads them "
        "apart from queries: a document that was found before is not read again; 0: none. "
        "Left out: 4096, or a quarter of the free memory if that is less.",
        min=0,
        show_default=False,
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="Folder to write report.json, report.md and plot.png to; with --system a page "
        "with charts, report.html, in place of the plot.",
        show_default=False,
    ),
]


ENGINE = [each for each in options.ENGINE if each.name not in ("compute_dtype", "revision")]


@takes(*ENGINE)
def evaluate_command(
    dataset_dir: DatasetDir,
    retriever: RetrieverOption = RetrieverName.EMBEDDER,
    embedder: EmbedderName = measuring.DEFAULT,
    reranker: RerankerName = None,
    system: Systems = None,
    first_stage_weight: FirstStageWeight = None,
    top_k: TopK = DEFAULT_TOP_K,
    mode: ModeOption = ModeName.AUTO,
    languages: Languages = None,
    max_queries: MaxQueries = None,
    titles: Titles = True,
    seed: Seed = 0,
    row_cache: RowCache = None,
    output: Output = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    **engine: Any,
) -> None:
    """Measure how well documents are found and ranked, by language.

    The first stage searches the whole corpus; a reranker, if you name one, orders what it found
    anew. Shows nDCG@10, MRR@10, mAP and recall with 95 % intervals, and how fast each step was; a
    pipe gets the report as one line of JSON.

    For example:

        polyrank eval data/xquad
        polyrank eval data/xquad --retriever bm25 --reranker FOLDER --output report
        polyrank eval data/xquad --retriever bm25 --reranker default --first-stage-weight auto
        polyrank eval data/xquad --mode cross --languages en:th,ar --max-queries 100
        polyrank eval data/xquad --system bm25 --system default --system bm25+default -o report
    """
    check_folder(output)
    from polyrank.evaluation import EvaluationConfig, load_dataset
    from polyrank.evaluation.report import prepare_folder

    config = EvaluationConfig(
        None if mode is ModeName.AUTO else cast("Mode", mode.value),
        top_k,
        *measuring.languages_of_both(languages),
        max_queries=max_queries,
        with_titles=titles,
        seed=seed,
    )
    if system:
        _check_alone(retriever, embedder, reranker, first_stage_weight)
    counts_for = None
    if first_stage_weight is not None:
        if reranker is None:
            raise ConfigError(_NO_RERANKER)
        is_lexical = retriever is RetrieverName.BM25
        counts_for = measuring.first_stage(first_stage_weight, is_lexical=is_lexical)
    if output is not None:
        prepare_folder(output)
    dataset, kept = load_dataset(dataset_dir), row_cache_bytes(row_cache)
    shown: dict[str, Any] = {"output": output, "as_json": as_json, "quiet": quiet}
    if system:
        return compare_systems(dataset, system, config, engine, row_cache=kept, **shown)
    models = _Loaded(engine, kept)
    searcher = models.retriever(retriever, embedder)
    judge = None if reranker is None else models.reranker(reranker)
    if judge is not None and counts_for is not None:
        config = replace(config, first_stage_weight=judge.first_stage_weight(counts_for))
    _measure(dataset, searcher, judge, config, partial(models.provenance, retriever), **shown)
    models.note_truncated(quiet=quiet)


def _check_alone(
    retriever: RetrieverName, embedder: str, reranker: str | None, weight: str | None
) -> None:
    is_default = retriever is RetrieverName.EMBEDDER and embedder == measuring.DEFAULT
    if not is_default or reranker is not None or weight is not None:
        raise ConfigError(
            "--system names retriever, reranker and weight of each system; leave out --retriever, "
            "--embedder, --reranker and --first-stage-weight."
        )


def _measure(
    dataset: "Dataset",
    searcher: "Retriever[Any, Any]",
    judge: "Reranker | None",
    config: "EvaluationConfig",
    provenance: "Callable[[], Provenance]",
    *,
    output: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    from polyrank.evaluation import LogitReranker, evaluate, report_table, write_report
    from polyrank.evaluation.report import report_dict

    with steps(quiet=quiet) as progress:
        report = evaluate(
            dataset,
            retriever=searcher,
            reranker=None if judge is None else LogitReranker(judge),
            config=config,
            progress=progress,
        )
    origin = provenance()  # only now is known what was cut
    if output is not None:
        for path in write_report(report, origin, output):
            screen.remark(f"wrote {path}", quiet=quiet)
    if screen.is_table_wanted(as_json, None):
        Console(highlight=False).print(report_table(report))
    else:
        sys.stdout.write(json.dumps(report_dict(report, origin), ensure_ascii=False) + "\n")


class _Loaded:
    """The models of one system, remembered for the report."""

    def __init__(self, settings: Mapping[str, Any], row_cache_bytes: int) -> None:
        self._settings, self._row_cache_bytes = settings, row_cache_bytes
        self._models = measuring.Models(settings)
        self._loaded: dict[str, Embedder | Reranker] = {}

    def retriever(self, kind: RetrieverName, name: str) -> "Retriever[Any, Any]":
        if kind is RetrieverName.BM25:
            return self._models.retriever(measuring.BM25)
        self._loaded["embedder"] = self._models.embedder(name)
        return self._models.retriever(name)

    def reranker(self, name: str) -> "Reranker":
        model = self._models.reranker(name, self._row_cache_bytes)
        self._loaded["reranker"] = model
        return model

    def provenance(self, kind: RetrieverName) -> "Provenance":
        from polyrank.evaluation import Provenance

        names = {part: model.info.name for part, model in self._loaded.items()}
        settings = dict(self._settings)
        for part, model in self._loaded.items():
            settings[f"{part}_encoder"] = asdict(model.info.encoder)
            settings[f"{part}_max_length"] = model.info.max_length
            settings[f"{part}_num_truncated"] = model.num_truncated
        if "reranker" in self._loaded:
            settings["row_cache_bytes"] = self._row_cache_bytes
        return Provenance(
            first_stage=names.get("embedder", kind.value),
            reranker=names.get("reranker"),
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            settings=settings if self._loaded else {},
        )

    def note_truncated(self, *, quiet: bool) -> None:
        for part, model in self._loaded.items():
            if model.num_truncated:
                screen.remark(
                    f"{part}: {model.num_truncated:,} inputs were longer than "
                    f"{model.info.max_length:,} tokens; the rest of them was not read.",
                    quiet=quiet,
                )
