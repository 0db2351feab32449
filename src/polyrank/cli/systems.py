"""`polyrank eval --system …`: several systems side by side."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from polyrank.cli import measuring, screen
from polyrank.cli.progress import steps
from polyrank.errors import ConfigError

if TYPE_CHECKING:
    from polyrank.evaluation import Dataset, EvaluationConfig, Retriever, System
    from polyrank.inference.embedder import Embedder
    from polyrank.inference.reranker import Reranker


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
        name, rest = measuring.named(given)
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
    models = _Systems(settings, row_cache)
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


class _Systems:
    """Makes systems of the models that they name."""

    def __init__(self, settings: Mapping[str, Any], row_cache: int) -> None:
        self._models, self._row_cache = measuring.Models(settings), row_cache
        self._retrievers: dict[str, Retriever[Any, Any]] = {}  # one each: systems share its index

    def system(self, name: SystemName) -> "System":
        from polyrank.evaluation import LogitReranker, System

        if name.retriever not in self._retrievers:
            self._retrievers[name.retriever] = self._models.retriever(name.retriever)
        retriever = self._retrievers[name.retriever]
        if name.reranker is None:
            return System(name.name, retriever)
        judge = self._models.reranker(name.reranker, self._row_cache)
        weight = 0.0
        if name.weight is not None:
            is_lexical = name.retriever == measuring.BM25
            kind = measuring.first_stage(name.weight, is_lexical=is_lexical)
            weight = judge.first_stage_weight(kind)
        timed = self._models.reranker(name.reranker, 0)  # reads documents anew, as for a new query
        return System(name.name, retriever, LogitReranker(judge), weight, LogitReranker(timed))

    def words(self, name: SystemName) -> str:
        """Return what a system is made of."""
        parts: list[str] = []
        if name.retriever == measuring.BM25:
            parts.append(measuring.BM25)
        else:
            parts.append(_running(self._models.embedder(name.retriever)))
        if name.reranker is not None:
            parts.append(_running(self._models.reranker(name.reranker, self._row_cache)))
        added = f", first stage's scores {name.weight}" if name.weight else ""
        return " + ".join(parts) + added


def _running(front: "Embedder | Reranker") -> str:
    info = front.info
    return f"{info.name} ({info.encoder.name}, {info.encoder.compute_dtype})"
