"""`polyrank eval --system …`: several systems side by side."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from polyrank.cli import options, screen
from polyrank.cli.progress import steps
from polyrank.errors import ConfigError

if TYPE_CHECKING:
    from polyrank.evaluation import Dataset, EvaluationConfig, Retriever, System

BM25, DEFAULT, AUTO = "bm25", "default", "auto"


@dataclass(frozen=True, slots=True)
class SystemName:
    """A system as the command line names it.

    Attributes:
        name: As reports call it.
        retriever: "bm25", or the checkpoint of an embedder.
        reranker: The checkpoint of a reranker, or None.
        weight: What the first stage's scores count for beside the reranker's, or None.
    """

    name: str
    retriever: str
    reranker: str | None = None
    weight: str | None = None

    @classmethod
    def parse(cls, given: str) -> "SystemName":
        """Read ``[NAME=]RETRIEVER[+RERANKER[@WEIGHT]]``.

        Args:
            given: What was typed.

        Returns:
            Its parts.

        Raises:
            ConfigError: If a part is empty.
        """
        name, equals, rest = given.partition("=")
        if not equals or "/" in name:
            name, rest = given, given
        retriever, plus, reranker = rest.partition("+")
        reranker, at, weight = reranker.partition("@")
        if not name or not retriever or (plus and not reranker) or (at and not weight):
            raise ConfigError(
                f"--system {given!r} names nothing to measure. Write "
                "[NAME=]RETRIEVER[+RERANKER[@WEIGHT]], such as bm25, bm25+default or "
                "large=intfloat/multilingual-e5-large."
            )
        return cls(name, retriever, reranker or None, weight or None)


def compare_systems(
    dataset: "Dataset",
    given: Sequence[str],
    config: "EvaluationConfig",
    settings: Mapping[str, Any],
    *,
    row_cache: int,
    output: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Measure systems on the same queries, and show or write what was found.

    Args:
        dataset: The evaluation set.
        given: The systems as they were typed, the baseline first.
        config: The settings of the evaluation.
        settings: Of the models: encoder, threads and so on.
        row_cache: Bytes that each reranker may keep of documents.
        output: Folder for the reports, or None.
        as_json: Whether to print JSON where a terminal would get tables.
        quiet: Whether to show no progress.
    """
    from polyrank.evaluation import compare, comparison_table, write_comparison
    from polyrank.evaluation.comparison_report import ComparisonProvenance, comparison_dict

    names = [SystemName.parse(each) for each in given]
    models = _Loaded(settings, row_cache)
    systems = [models.system(name) for name in names]
    with steps(quiet=quiet) as progress:
        comparison = compare(dataset, systems, config=config, progress=progress)
    provenance = ComparisonProvenance(
        {name.name: models.words(name) for name in names},
        datetime.now(UTC).isoformat(timespec="seconds"),
        dict(settings),
    )
    if output is not None:
        for path in write_comparison(comparison, provenance, output):
            screen.remark(f"wrote {path}", quiet=quiet)
    if screen.is_table_wanted(as_json, None):
        Console(highlight=False).print(comparison_table(comparison))
    else:
        content = comparison_dict(comparison, provenance)
        sys.stdout.write(json.dumps(content, ensure_ascii=False) + "\n")


class _Loaded:
    """Loads each model once, whichever systems name it."""

    def __init__(self, settings: Mapping[str, Any], row_cache: int) -> None:
        self._settings, self._row_cache = settings, row_cache
        self._retrievers: dict[str, Retriever[Any, Any]] = {}
        self._rerankers: dict[tuple[str, int], Any] = {}
        self._infos: dict[tuple[str, str], Any] = {}

    def system(self, name: SystemName) -> "System":
        from polyrank.evaluation import LogitReranker, System

        if name.reranker is None:
            return System(name.name, self._retriever(name.retriever))
        judge = self._reranker(name.reranker, self._row_cache)
        weight = 0.0
        if name.weight is not None:
            kind = options.first_stage(name.weight) if name.weight != AUTO else "dense"
            if name.weight == AUTO and name.retriever == BM25:
                kind = "lexical"
            weight = judge.first_stage_weight(kind)
        timed = self._reranker(name.reranker, 0)  # reads documents anew, as for a new query
        return System(
            name.name,
            self._retriever(name.retriever),
            LogitReranker(judge),
            weight,
            LogitReranker(timed),
        )

    def words(self, name: SystemName) -> str:
        """Return what a system is made of."""
        parts = []
        for kind, model in (("embedder", name.retriever), ("reranker", name.reranker)):
            info = self._infos.get((kind, model or ""))
            if info is None:
                parts += [model] if model else []
            else:
                encoder = asdict(info.encoder)
                parts.append(f"{info.name} ({encoder['name']}, {encoder['compute_dtype']})")
        added = f", first stage's scores {name.weight}" if name.weight else ""
        return " + ".join(parts) + added

    def _retriever(self, name: str) -> "Retriever[Any, Any]":
        from polyrank.evaluation import Bm25Retriever, EmbeddingRetriever
        from polyrank.inference.embedder import Embedder

        if name not in self._retrievers:
            if name == BM25:
                self._retrievers[name] = Bm25Retriever()
            else:
                model = Embedder(None if name == DEFAULT else name, **self._settings)
                self._infos["embedder", name] = model.info
                self._retrievers[name] = EmbeddingRetriever(model)
        return self._retrievers[name]

    def _reranker(self, name: str, row_cache: int) -> Any:
        from polyrank.inference.reranker import Reranker

        if (name, row_cache) not in self._rerankers:
            model = Reranker(
                None if name == DEFAULT else name, row_cache_bytes=row_cache, **self._settings
            )
            self._infos["reranker", name] = model.info
            self._rerankers[name, row_cache] = model
        return self._rerankers[name, row_cache]
